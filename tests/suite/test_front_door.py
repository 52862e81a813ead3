"""The HTTPS front against scanners and strangers: odd requests, slow clients, other origins, TLS."""
import contextlib
import os
import re
import socket
import ssl
import subprocess
import time
import xml.etree.ElementTree

import harness
from harness import Client, Suite

WORKERS = 128  # threads of the listener, which take turns
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"


class FrontDoor(Suite):
    daemons = ("auditd", "authd", "tagd", "gateway")

    def connect(self, secure, address="127.0.0.1"):
        port = self.fleet.https_port if secure else self.fleet.http_port
        sock = socket.create_connection(("127.0.0.1", port), 10, (address, 0))
        if secure:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            sock = context.wrap_socket(sock)
        sock.settimeout(10 * harness.SLOW)
        return sock

    def statuses(self, data, secure=False):
        """Of all answers until the gateway closes or says no more for a second."""
        with self.connect(secure) as sock:
            sock.sendall(data)
            got = sock.recv(65536)
            sock.settimeout(0.3)
            try:
                while some := sock.recv(65536):
                    got += some
            except (TimeoutError, ConnectionResetError):
                pass
            return re.findall(rb"HTTP/1\.1 (\d+) ", got)

    def test_tricks_with_the_target_are_400_and_answered_once(self):
        for target in ("/api/v1/../v1/users", "/api/v1/..", "/api/v1/./users", "/api/v1/users/..",
                       "/api/v1/%2e%2e/users", "/api/v1/%2E./users", "/api/v1/.%2e/users",
                       "/api/v1/%252e%252e/users", "/api/v1/users%252f1", "/api/v1/users%2f1",
                       "/api/v1/users%5c1", "/api/v1/users%00", "/api/v1/users/%00", "/%00",
                       "/api/v1/users/%0d%0aX:%20y", "/api/v1//users", "//api/v1/users",
                       "/api/v1/users/", "/api/v1/users/%", "/api/v1/users/%zz", "/api/v1/users/%1",
                       "/api/v1/users/%c0%ae", "/api/v1/users/%ff", "/api/v1/users;x=1",
                       "/api/docs/../v1/users", "/api/docs/%2e%2e/docs", "/healthz%00",
                       "http://127.0.0.1/api/v1/users", "https://x/api/v1/users", "http://x",
                       "*", "x:443", "api/v1/users", "\\api\\v1\\users"):
            for secure in (False, True):
                asked = f"GET {target} HTTP/1.1\r\nHost: x\r\n" \
                        f"Authorization: Bearer {self.admin.token}\r\nConnection: close\r\n\r\n"
                got = self.statuses(asked.encode(), secure)
                self.assertIn(got, ([b"400"], [b"404"]), target)
                if target not in ("/api/v1/users/", "/api/v1/users;x=1"):
                    self.assertEqual(got, [b"400"], target)

    def test_tricks_with_headers_are_400_and_answered_once(self):
        token = f"Authorization: Bearer {self.admin.token}"
        for headers in ((token, token), ("Host: x",), ("Host: y",), ("Content-Type: a/b",) * 2,
                        ("mx-api-token: x",) * 2, (token, "mx-api-token: x"), ("Origin: a",) * 2,
                        ("Expect: 100-continue",) * 2, ("Content-Length: 0",) * 2,
                        ("Content-Length: 0", "Transfer-Encoding: chunked"),
                        ("Transfer-Encoding: chunked",) * 2, ("Transfer-Encoding: gzip, chunked",),
                        ("Transfer-Encoding : chunked",), ("Transfer-Encoding: xchunked",),
                        ("Content-Length: 1, 1",), ("Content-Length: -1",), ("Content-Length: 0x1",),
                        ("X-A: a\r\n b",), ("X-A: a\nX-B: b",), (" X-A: a",), ("X-A",), (": a",)):
            for secure in (False, True):
                asked = "GET /api/v1/users/me HTTP/1.1\r\nHost: x\r\n" + \
                    "".join(h + "\r\n" for h in headers) + "\r\n"
                self.assertEqual(self.statuses(asked.encode(), secure), [b"400"], headers)
        several = "GET /api/v1/users/me HTTP/1.1\r\nHost: x\r\n" + token + "\r\n" + "Accept: a\r\n" * 2
        self.assertEqual(self.statuses(several.encode() + b"\r\n"), [b"200"])

    def test_the_end_of_a_connection_is_announced_whatever_the_order_of_its_headers(self):
        keep, close = b"Connection: keep-alive\r\n", b"Connection: close\r\n"
        for version in (b"1.0", b"1.1"):
            for both in (close + keep, keep + close):
                with self.connect(False) as sock, sock.makefile("rb") as got:
                    sock.sendall(b"GET /healthz HTTP/" + version + b"\r\nHost: x\r\n" + both + b"\r\n")
                    head = got.read().split(b"\r\n\r\n")[0]  # until it ends
                    self.assertEqual(re.findall(rb"Connection: (\S+)", head), [b"close"], (version, both))

    def test_a_failed_handshake_is_not_answered_for_an_earlier_request(self):
        line, rest = b"GET http://x/y HTTP/1.1\r\n", b"Host: x\r\n\r\n"
        for asked in (line + rest, line + b"no header\r\n" + rest):
            for _ in range(WORKERS):
                self.assertEqual(self.statuses(asked, True), [b"400"], asked)
            for _ in range(WORKERS):
                with socket.create_connection(("127.0.0.1", self.fleet.https_port), 10) as sock:
                    sock.sendall(b"this is no handshake" * 10)
                    with contextlib.suppress(ConnectionResetError):
                        self.assertNotIn(b"HTTP", sock.recv(65536))

    def test_what_is_too_large_is_refused_before_it_is_held(self):
        line = b"GET /api/v1/users/me HTTP/1.1\r\nHost: x\r\n"
        for asked, status in ((b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
                              (b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"4"),
                              (line + b"X: " + b"a" * 40000 + b"\r\n\r\n", b"4"),
                              (line + b"X: a\r\n" * 100 + b"\r\n", b"400")):
            got = self.statuses(asked)
            self.assertEqual(len(got), 1, asked[:40])
            self.assertTrue(got[0].startswith(status), (asked[:40], got))
        before = self.fleet.d["gateway"].memory_kib()
        for _ in range(50):
            self.statuses(line + b"X: " + b"a" * 40000 + b"\r\n\r\n")
        self.assertLess(self.fleet.d["gateway"].memory_kib() - before, 2048)

    def answers(self):
        """One of each kind, with the headers it came with."""
        yield "data", self.admin.get("/users/me")
        yield "data", self.anyone.get("/users/me")
        yield "data", self.admin.get("/none")
        yield "data", self.admin.request("PATCH", "/users/me")
        yield "data", self.admin.post("/users", {"name": 1})
        yield "page", self.anyone.get("/docs", base="/api")
        yield "page", self.anyone.get("/openapi.json")

    def test_every_answer_carries_the_headers_that_protect_a_browser(self):
        secure = Client(self.fleet, True, self.admin.token)
        secure_anyone = Client(self.fleet, True)
        for plain, over_tls in ((self.admin, False), (secure, True)):
            both = (self.admin, self.anyone)
            self.admin, self.anyone = plain, secure_anyone if over_tls else self.anyone
            try:
                answers = list(self.answers())
            finally:
                self.admin, self.anyone = both
            for kind, reply in answers:
                what = (kind, over_tls, reply.status, dict(reply.headers))
                self.assertEqual(reply.headers["X-Content-Type-Options"], "nosniff", what)
                self.assertEqual(reply.headers["X-Frame-Options"], "DENY", what)
                self.assertEqual(reply.headers["Referrer-Policy"], "no-referrer", what)
                self.assertNotIn("Strict-Transport-Security", reply.headers, what)  # self-signed
                self.assertIn("frame-ancestors 'none'", reply.headers["Content-Security-Policy"], what)
                self.assertEqual(len(reply.headers.get_all("Content-Security-Policy")), 1, what)
                self.assertNotIn("Access-Control-Allow-Origin", reply.headers, what)
                self.assertNotIn("Server", reply.headers, what)
                if kind == "data":
                    self.assertEqual(reply.headers["Content-Security-Policy"], DATA_POLICY, what)
                    self.assertEqual(reply.headers["Cache-Control"], "no-store", what)
        with self.connect(False) as sock:  # what never became a request
            sock.sendall(b"no request\r\n\r\n")
            head = sock.recv(65536)
        for line in (b"X-Content-Type-Options: nosniff", b"X-Frame-Options: DENY",
                     DATA_POLICY.encode(), b"Cache-Control: no-store"):
            self.assertIn(line, head)

    def test_other_origins_may_call_nothing_unless_the_operator_says_so(self):
        reply = self.admin.request("OPTIONS", "/users/me", headers={
            "Origin": "https://evil.example", "Access-Control-Request-Method": "GET"})
        self.assertEqual(reply.status, 204)
        self.assertFalse([h for h in reply.headers if h.lower().startswith("access-control")])

    def test_slow_clients_keep_nobody_out_and_are_let_go(self):
        slow = [[self.connect(False), b"GET /api/v1/users/me HTTP/1.1\r\nX-Slow: "] for _ in range(100)]
        for i in range(100):  # in the middle of a handshake; 50 of an address
            sock = socket.create_connection(("127.0.0.1", self.fleet.https_port), 10,
                                            (f"127.0.9.{i // 50 + 1}", 0))
            slow.append([sock, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
        for sock, _ in slow:
            sock.setblocking(False)
        fresh, began, worst = None, time.monotonic(), 0
        try:
            while slow and time.monotonic() - began < 20 * harness.SLOW:
                still = []
                for sock, text in slow:
                    try:
                        sock.send(text[:1] or b"a")
                        still.append([sock, text[1:]])
                    except OSError:
                        sock.close()
                slow = still
                for secure in (False, True):
                    fresh = Client(self.fleet, secure, self.admin.token)
                    worst = max(worst, self.assert_ok(fresh.get("/users/me")).took)
                    fresh.close()
                time.sleep(0.3)  # the pace of the slow
            self.assertEqual(len(slow), 0, "slow clients are still there")
            self.assertLess(worst, 1.0 * harness.SLOW)
        finally:
            for sock, _ in slow:
                sock.close()

    def test_a_scanner_finds_modern_protocols_and_suites_only(self):
        done = subprocess.run(["sslscan", "--no-colour", "--xml=-",
                               f"127.0.0.1:{self.fleet.https_port}"],
                              capture_output=True, check=True, timeout=120)
        scan = xml.etree.ElementTree.fromstring(done.stdout).find("ssltest")
        spoken = {(p.get("type"), p.get("version")) for p in scan.findall("protocol")
                  if p.get("enabled") == "1"}
        self.assertEqual(spoken, {("tls", "1.2"), ("tls", "1.3")})
        suites = {c.get("cipher") for c in scan.findall("cipher")}
        self.assertGreaterEqual(len(suites), 4, suites)
        for suite in suites:  # forward secrecy and authenticated encryption, nothing else
            self.assertRegex(suite, r"^(TLS_|ECDHE-ECDSA-)(AES|CHACHA20)")
            self.assertRegex(suite, r"GCM|POLY1305")
        self.assertEqual(scan.find("renegotiation").get("supported"), "0")
        self.assertEqual({h.get("vulnerable") for h in scan.findall("heartbleed")}, {"0"})
        for group in scan.findall("group"):
            self.assertGreaterEqual(int(group.get("bits")), 128, group.attrib)
        cert = scan.find("certificates/certificate")
        self.assertEqual(cert.find("signature-algorithm").text, "ecdsa-with-SHA256")

    def curl(self, *args):
        url = f"https://localhost:{self.fleet.https_port}/api/v1/openapi.json"
        return subprocess.run(["curl", "-sS", "-o", os.devnull, "-w", "%{http_code} %{ssl_verify_result}",
                               "--resolve", f"localhost:{self.fleet.https_port}:127.0.0.1", *args, url],
                              capture_output=True, text=True, timeout=30)

    def test_curl_verifies_the_certificate_and_finds_no_old_protocol(self):
        cert = os.path.join(self.fleet.dir, "front.pem")
        with open(cert, "w", encoding="ascii") as f:
            f.write(ssl.get_server_certificate(("127.0.0.1", self.fleet.https_port)))
        for version in ("--tlsv1.2", "--tlsv1.3"):
            self.assertEqual(self.curl("--cacert", cert, version).stdout, "200 0", version)
        self.assertEqual(self.curl("--cacert", cert, "--tlsv1.2", "--tls-max", "1.2").stdout, "200 0")
        self.assertNotEqual(self.curl("--cacert", cert, "--tlsv1.0", "--tls-max", "1.1",
                                      "--ciphers", "ALL:@SECLEVEL=0").returncode, 0)
        self.assertNotEqual(self.curl("--tlsv1.2").returncode, 0, "an unknown certificate was taken")


class OtherOrigins(Suite):
    daemons = ("auditd", "authd", "gateway")
    daemon_options = {"gateway": ["--set", "cors-origin=https://console.example",
                                  "--set", "cors-origin=http://localhost:3000"]}

    def ask(self, origin, method="GET", path="/users/me", **headers):
        return self.admin.request(method, path, headers={"Origin": origin, **headers})

    def test_an_origin_that_was_named_may_call_and_no_other(self):
        for origin in ("https://console.example", "http://localhost:3000"):
            reply = self.assert_ok(self.ask(origin))
            self.assertEqual(reply.headers["Access-Control-Allow-Origin"], origin)
            self.assertEqual(reply.headers["Vary"], "Origin")
            self.assertNotIn("Access-Control-Allow-Credentials", reply.headers)
        for origin in ("https://console.example.evil", "http://console.example", "null", "*",
                       "https://console.example:443", "https://console.exampl", ""):
            reply = self.ask(origin)
            self.assertNotIn("Access-Control-Allow-Origin", reply.headers, origin)

    def test_a_cache_keeps_the_answers_to_each_origin_apart_pages_too(self):
        for path, base in (("/users/me", "/api/v1"), ("/openapi.json", "/api/v1"), ("/docs", "/api"),
                           ("/docs/docs.js", "/api"), ("/", "")):
            for headers in ({}, {"Origin": "https://console.example"}, {"Origin": "https://evil"}):
                reply = self.admin.request("GET", path, base=base, headers=headers)
                self.assertEqual(reply.headers.get_all("Vary"), ["Origin"], (base + path, headers))

    def test_the_question_before_a_call_is_answered_with_what_the_path_takes(self):
        reply = self.ask("https://console.example", "OPTIONS", "/users/me",
                         **{"Access-Control-Request-Method": "PUT"})
        self.assertEqual(reply.status, 204)
        self.assertEqual(reply.headers["Access-Control-Allow-Methods"], reply.headers["Allow"])
        self.assertIn("PUT", reply.headers["Access-Control-Allow-Methods"])
        self.assertIn("authorization", reply.headers["Access-Control-Allow-Headers"])
        reply = self.ask("https://evil.example", "OPTIONS")
        self.assertFalse([h for h in reply.headers if h.lower().startswith("access-control")])

    def test_a_refusal_can_be_read_by_the_page_too(self):
        reply = self.anyone.request("GET", "/users/me", headers={"Origin": "https://console.example"})
        self.assert_refused(reply, 401)
        self.assertEqual(reply.headers["Access-Control-Allow-Origin"], "https://console.example")

    def test_an_option_that_is_no_origin_is_refused_at_the_start(self):
        for bad in ("*", "null", "console.example", "https://", "https://x/", "https://x:0",
                    "https://x:99999", "https://X", "ftp://x", "https://a b", "https://" + "a" * 200):
            done = subprocess.run([os.path.join(harness.BUILD, "bin", "gateway"), "--check-config",
                                   "--set", f"cors-origin={bad}"], capture_output=True, timeout=20)
            self.assertNotEqual(done.returncode, 0, bad)
            self.assertIn(b"cors-origin", done.stderr)
