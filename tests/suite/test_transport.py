"""Listeners, certificates, carriers of the token, limits of HTTP."""
import glob
import os
import re
import signal
import socket
import stat
import subprocess
import threading

import harness
from harness import Client, Suite, wait_for


class Transport(Suite):
    daemons = ("auditd", "authd", "tagd", "gateway")

    def s_client(self, *args):
        # @SECLEVEL=0: let our side offer what the other must refuse
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{self.fleet.https_port}",
             "-cipher", "ALL:@SECLEVEL=0", *args],
            input=b"", capture_output=True, timeout=20)
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    def certificate(self):
        _, text = self.s_client()
        return re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", text,
                         re.S).group(0)

    def key_and_certificate(self):
        keys, certs = [], []
        for path in glob.glob(f"{self.fleet.state}/gateway/**", recursive=True):
            if os.path.isfile(path):
                with open(path, "rb") as f:
                    head = f.read(65536)
                if b"PRIVATE KEY" in head:
                    keys.append(path)
                if b"BEGIN CERTIFICATE" in head:
                    certs.append(path)
        self.assertEqual((len(keys), len(certs)), (1, 1), (keys, certs))
        return keys[0], certs[0]

    def test_https_and_plain_http_answer_with_both_carriers(self):
        for tls in (True, False):
            for carrier in ("bearer", "mx-api-token"):
                client = Client(self.fleet, tls, self.admin.token, carrier)
                reply = self.assert_ok(client.get("/users/me"))
                self.assertEqual(reply.data["name"], "admin")
                self.assertEqual(reply.headers.get("X-Fieldgate-Profile"), "bench")
                self.assertTrue(reply.body.startswith(b'{"data":'), reply.body)

    def test_every_request_has_an_id_of_its_own(self):
        ids = {self.admin.get("/users/me").headers.get("X-Request-Id") for _ in range(5)}
        self.assertEqual(len(ids), 5, ids)
        self.assertNotIn(None, ids)

    def test_no_token_a_bad_one_and_a_changed_one_are_refused(self):
        head, body, signature = self.admin.token.split(".")
        flipped = signature[:-2] + ("A" if signature[-2] != "A" else "B") + signature[-1]
        bad = [None, "x", "..", f"{head}.{body}.", f"{head}.{body}.{flipped}",
               f"{head}.{body[:-2]}AA.{signature}", "A" * 5000]
        for token in bad:
            for carrier in ("bearer", "mx-api-token"):
                reply = Client(self.fleet, False, token, carrier).get("/users/me")
                if token and len(token) > 4000 and reply.status in (400, 431):
                    continue
                self.assert_refused(reply, 401, word="authentication required")

    def test_plain_http_listens_on_this_machine_only(self):
        listening = {}
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            with open(table, encoding="ascii") as f:
                for line in f.readlines()[1:]:
                    fields = line.split()
                    if fields[3] == "0A":
                        address, port = fields[1].rsplit(":", 1)
                        listening.setdefault(int(port, 16), set()).add(address)
        self.assertEqual(listening[self.fleet.http_port], {"0100007F"})
        self.assertIn("00000000", listening[self.fleet.https_port])

    def test_tls_below_1_2_is_refused_and_1_2_and_1_3_are_spoken(self):
        for version in ("-tls1", "-tls1_1"):
            _, text = self.s_client(version)
            self.assertRegex(text, r"Cipher is \(NONE\)|alert protocol version", version)
        for version, name in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
            _, text = self.s_client(version)
            self.assertRegex(text, rf"{name}, Cipher is [A-Z]", version)

    def test_a_certificate_was_made_at_first_start_with_a_private_key(self):
        key, _ = self.key_and_certificate()
        self.assertEqual(stat.S_IMODE(os.stat(key).st_mode), 0o600)
        text = subprocess.run(["openssl", "x509", "-noout", "-text"], capture_output=True,
                              input=self.certificate().encode(), check=True).stdout.decode()
        self.assertIn("id-ecPublicKey", text)
        self.assertIn("Subject Alternative Name", text)
        for address in subprocess.run(["hostname", "-I"], capture_output=True, check=True,
                                      text=True).stdout.split():
            if ":" not in address:
                self.assertIn(f"IP Address:{address}", text)
        # and stays the same over a restart
        before = self.certificate()
        self.restart("gateway")
        self.assertEqual(self.certificate(), before)

    def test_a_key_without_a_certificate_is_put_aside_for_a_new_pair(self):
        key, cert = self.key_and_certificate()
        with open(key, "rb") as f:
            before = f.read()
        self.fleet.d["gateway"].stop()
        os.unlink(cert)
        self.start("gateway")
        try:
            with open(key + ".old", "rb") as f:
                self.assertEqual(f.read(), before)
            self.assertEqual(stat.S_IMODE(os.stat(key + ".old").st_mode), 0o600)
        finally:
            os.unlink(key + ".old")
        self.certificate()

    def test_a_new_certificate_is_taken_without_dropping_connections(self):
        key, cert = self.key_and_certificate()
        old = Client(self.fleet, True, self.admin.token)
        conn = old.connect()
        ask = lambda: (conn.request("GET", "/api/v1/users/me", headers=old.headers()),
                       conn.getresponse())[1]
        got = ask()
        got.read()
        self.assertEqual(got.status, 200)
        sock = conn.sock
        before = self.certificate()
        new = os.path.join(self.fleet.dir, "new")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", new + ".key",
                        "-out", new + ".crt", "-days", "30", "-subj", "/CN=renewed"],
                       check=True, capture_output=True)
        if key == cert:
            with open(key + ".tmp", "wb") as out:
                os.fchmod(out.fileno(), 0o600)
                for part in (new + ".crt", new + ".key"):
                    with open(part, "rb") as f:
                        out.write(f.read())
            os.rename(key + ".tmp", key)
        else:
            for target, part in ((key, new + ".key"), (cert, new + ".crt")):
                os.chmod(part, 0o600)
                os.rename(part, target)
        self.fleet.d["gateway"].process.send_signal(signal.SIGHUP)

        def renewed():
            got = ask()  # the old connection is used all along
            got.read()
            self.assertEqual(got.status, 200)
            return self.certificate() != before
        wait_for("the new certificate", renewed)
        self.assertIs(conn.sock, sock, "the old connection was dropped")
        got = ask()
        got.read()
        self.assertEqual(got.status, 200)
        self.assertIs(conn.sock, sock)

    def test_a_broken_certificate_is_refused_and_the_old_one_stays(self):
        key, cert = self.key_and_certificate()
        with open(cert, "rb") as f:
            good = f.read()
        before = self.certificate()
        try:
            with open(cert, "wb") as f:
                f.write(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            self.fleet.d["gateway"].process.send_signal(signal.SIGHUP)
            wait_for("a word about it in the log", lambda: "reload" in self.fleet.tail("gateway"))
            self.assertEqual(self.certificate(), before)
        finally:
            with open(cert, "wb") as f:
                f.write(good)
            self.fleet.d["gateway"].process.send_signal(signal.SIGHUP)

    def test_a_gateway_that_was_killed_serves_all_from_its_first_answer_on(self):
        def listening():
            try:
                return self.admin.connect().connect() or True
            except OSError:
                return False
        for n in range(6):
            self.kill("gateway")
            self.fleet.d["gateway"].start()
            wait_for("the port", listening, step=0.001)
            path = ("/users/me", "/tags/list", "/audits?limit=1")[n % 3]
            self.assert_ok(Client(self.fleet, token=self.admin.token).get(path))

    def test_unknown_paths_and_methods_get_a_clean_answer(self):
        self.assert_refused(self.admin.get("/no/such/thing"), 404)
        reply = self.admin.request("PATCH", "/users/me")
        self.assert_refused(reply, 405)
        self.assertIn("GET", reply.headers.get("Allow", ""))
        self.assert_refused(self.admin.get("/nothing", base="/elsewhere"), 404)

    def raw(self, data, n=65536):
        with socket.create_connection(("127.0.0.1", self.fleet.http_port), 10) as s:
            s.sendall(data)
            s.settimeout(10 * harness.SLOW)
            out = b""
            while len(out) < n:
                try:
                    got = s.recv(n)
                except socket.timeout:
                    break
                if not got:
                    break
                out += got
                if b"\r\n\r\n" in out:
                    break
            return out

    def test_ambiguous_requests_are_refused(self):
        path = "POST /api/v1/auth HTTP/1.1\r\nHost: x\r\n"
        bad = ["Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
               "Content-Length: 5\r\nContent-Length: 6\r\n",
               "Content-Length: +5\r\n", "Content-Length: 5abc\r\n",
               "Content-Length: 99999999999999999999999\r\n"]
        for headers in bad:
            got = self.raw((path + headers + "\r\nhello").encode())
            self.assertRegex(got, rb"^HTTP/1\.[01] 4\d\d |^$", headers)

    def exchange(self, *parts):
        """All that comes back on one connection to these, each sent when the last was answered."""
        with socket.create_connection(("127.0.0.1", self.fleet.http_port), 10) as s:
            s.settimeout(10 * harness.SLOW)
            out = []
            for part in parts:
                s.sendall(part)
                got = b""
                while True:
                    try:
                        some = s.recv(65536)
                    except socket.timeout:
                        self.fail(f"no answer to {part!r}")
                    except ConnectionResetError:
                        some = b""
                    got += some
                    head, end, body = got.partition(b"\r\n\r\n")
                    length = re.search(rb"(?i)content-length: (\d+)", head)
                    if not some or end and len(body) >= int(length.group(1) if length else 0):
                        break
                out.append(got)
            s.settimeout(min(1 * harness.SLOW, 3))  # shorter than an idle connection lives
            try:
                rest = s.recv(65536)
            except ConnectionResetError:
                rest = b""
            except socket.timeout:
                rest = None  # still open
            return out, rest

    def test_what_is_left_of_an_earlier_request_is_no_request(self):
        asks = (f"GET /api/v1/users/me HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: Bearer {self.admin.token}\r\n\r\n").encode()
        one = b"\r\n"
        for blanks in (one * 2, one * 3, one * 8, b"\n\n", b" " * 4 + one * 2, b"\n" + one * 2):
            for left in (b"", asks):
                (first, second), rest = self.exchange(asks, blanks + left)
                self.assertRegex(first, rb"^HTTP/1\.1 200 ")
                self.assertRegex(second, rb"^HTTP/1\.1 400 |^$", blanks)
                self.assertNotIn(b"admin", second)
                self.assertEqual(rest, b"", "the connection stays open")
        # a single empty line is what some old clients leave behind a body
        answers, _ = self.exchange(asks, one + asks)
        for got in answers:
            self.assertRegex(got, rb"^HTTP/1\.1 200 ")

    def test_a_request_line_has_one_form(self):
        line, rest = b"GET /api/v1/openapi.json HTTP/1.1\r\n", b"Host: x\r\n\r\n"
        for bad in (line + b" Content-Length: 5\r\n", line + b"\t" + b"X: y\r\n", line[:-2] + b"\n",
                    line[:-2] + b"\r\n ", b"GET  /api/v1/openapi.json HTTP/1.1\r\n",
                    b"GET /api/v1/openapi.json  HTTP/1.1\r\n", b"GET\r\n/api/v1/openapi.json HTTP/1.1\r\n",
                    b"GET /api/v1/openapi.json?  HTTP/1.1\r\n", b"GET /api/v1/openapi.json\n HTTP/1.1\r\n",
                    line[:-2] + b" \r\n", line[:-2] + b"\r\n\n"):
            (got,), after = self.exchange(bad + rest)
            self.assertRegex(got[:99], rb"^HTTP/1\.1 400 |^$", bad)
            self.assertEqual(after, b"", "the connection stays open")
        for target in ("http://mydomain.com", "http://a.mydomain.com"):  # the library serves those
            target = f"GET {target}:{self.fleet.http_port}/api/v1/openapi.json HTTP/1.1\r\n".encode()
            (got,), after = self.exchange(target + rest)
            self.assertRegex(got[:99], rb"^HTTP/1\.1 400 ", target)
            self.assertEqual(after, b"", "the connection stays open")
        for good in (line, line.replace(b"json", b"json?a=b")):
            (got,), _ = self.exchange(good + rest)
            self.assertRegex(got[:99], rb"^HTTP/1\.1 200 ", good)

    def test_a_header_holds_printable_ascii(self):
        for bad in (b"\x80", b"\xff", "ü".encode(), b"\x7f", b"\x01", b"\x00"):
            got = self.raw(b"GET /api/v1/users/me HTTP/1.1\r\nHost: x\r\nX-A: a" + bad + b"\r\n\r\n")
            self.assertRegex(got, rb"^HTTP/1\.1 400 ", bad)

    def test_a_body_that_waits_for_a_go_ahead_is_not_looked_for_in_the_next_request(self):
        head = b"Host: x\r\nContent-Length: 400\r\nExpect: 100-continue\r\n\r\n"
        for line in (b"PUT /api/v1/users/me HTTP/1.1\r\n", b"PUT /api/v1/none HTTP/1.1\r\n",
                     b"PUT /api/v1/users/me HTTP/1.1\r\nAuthorization: Bearer x\r\n"):
            (got,), after = self.exchange(line + head)
            self.assertRegex(got, rb"^HTTP/1\.1 4", line)
            self.assertIn(b"\r\nConnection: close\r\n", got, line)
            self.assertEqual(after, b"", "the connection stays open")
        body = b'{"description":"go ahead"}'
        head = (f"PUT /api/v1/users/me HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                f"Authorization: Bearer {self.admin.token}\r\nExpect: 100-continue\r\n\r\n")
        (first, second), after = self.exchange(head.encode(), body)
        self.assertRegex(first, rb"^HTTP/1\.1 100 ")
        self.assertRegex(second, rb"^HTTP/1\.1 200 ")
        self.assertIsNone(after, "the connection ended")

    def test_a_body_above_the_limit_is_refused_before_it_is_read(self):
        got = self.raw(b"POST /api/v1/auth HTTP/1.1\r\nHost: x\r\n"
                       b"Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n{")
        self.assertRegex(got, rb"^HTTP/1\.1 413 ")

    def test_head_has_no_body_and_options_needs_no_token(self):
        conn = self.admin.connect()
        conn.request("HEAD", "/api/v1/users/me", headers=self.admin.headers())
        got = conn.getresponse()
        self.assertEqual(got.read(), b"")
        self.assertIn(got.status, (200, 405))

    def test_the_contract_and_its_page_are_served_and_load_nothing_from_outside(self):
        api = self.assert_ok(self.anyone.get("/openapi.json")).json
        self.assertTrue(api["openapi"].startswith("3.1"))
        self.assertIn("/tags/list", api["paths"])
        page = self.anyone.get("/docs", base="/api")
        self.assert_ok(page)
        self.assertIn("text/html", page.headers["Content-Type"])
        for url in re.findall(rb"(?:src|href|url|import|fetch)\s*[=(]\s*[\"']?(https?://[^\"')\s>]+)",
                              page.body):
            self.fail(f"the page loads {url}")
        self.assertIn("Content-Security-Policy", page.headers)

    def test_metrics_are_for_the_signed_in_and_for_this_machine(self):
        reply = self.anyone.request("GET", "/metrics", base="")
        if reply.status == 404:
            reply = self.anyone.get("/metrics")
        self.assert_ok(reply)
        text = reply.body.decode()
        for daemon in self.fleet.names:
            self.assertIn(f'daemon="{daemon}"', text)
        for line in text.splitlines():
            self.assertRegex(line, r'^(#.*|[a-z_]+(\{[^}]*\})? [-+0-9.eE]+|)$')
        self.assertIn("fieldgate_", text)

    def test_metrics_that_wait_for_a_daemon_hold_up_one_request_alone(self):
        tagd = self.fleet.d["tagd"].process
        tagd.send_signal(signal.SIGSTOP)
        replies = []
        ask = lambda: replies.append(Client(self.fleet).request("GET", "/metrics", base=""))
        try:
            threads = [threading.Thread(target=ask) for _ in range(6)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        finally:
            tagd.send_signal(signal.SIGCONT)
        *refused, first = sorted(replies, key=lambda r: r.took)
        self.assert_ok(first)
        for reply in refused:
            self.assert_refused(reply, 503)
            self.assertTrue(reply.headers.get("Retry-After"))
            self.assertLess(reply.took, harness.AT_ONCE)
        self.wait_daemons(["tagd"])

    def test_numbers_and_text_come_through_unchanged(self):
        for text in ("plain", "Grüße, 東京, 🏭", "quote\" back\\slash / tab\t", "\u0001\u001f\u007f",
                     "x" * 512):
            reply = self.admin.put("/users/me", {"description": text})
            self.assert_ok(reply)
            self.assertEqual(self.admin.get("/users/me").data["description"], text)
        for raw in (b'{"description":"\xff\xfe"}', b'{"description":"\\ud800"}',
                    b'{"description":"a\x00b"}', b'{"description":"\xc0\x80"}'):
            self.assert_refused(self.admin.put(
                "/users/me", raw=raw, headers={"Content-Type": "application/json"}), 400)
