"""The HTTPS port, redirect and certificate change while requests run."""
import contextlib
import glob
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import threading
import uuid

import harness
import pki
from harness import Client, Suite, Unanswered, free_port, is_open, wait_for

TEST_SECONDS = 240
PRIVATE_MOUNTS = True  # run.py gives us a mount namespace
PATH = "/system/httpserver"
CLIENTS = 8


def form(**parts):
    """(bytes, content type) of a form; a part is a text, or (file name, bytes)."""
    mark, out = uuid.uuid4().hex, b""
    for name, value in parts.items():
        head = f'form-data; name="{name}"'
        if isinstance(value, tuple):
            head += f'; filename="{value[0]}"'
            value = value[1]
        value = value if isinstance(value, bytes) else str(value).encode()
        out += f"--{mark}\r\nContent-Disposition: {head}\r\n\r\n".encode() + value + b"\r\n"
    return out + f"--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


class Pairs:
    """Certificates made by openssl, which is not ours."""

    def __init__(self, directory):
        self.dir, self.n = directory, 0

    def run(self, *args):
        subprocess.run(["openssl", *args], check=True, capture_output=True)

    def make(self, *args, kind=("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"), days=30):
        """(certificate, key) in PEM."""
        self.n += 1
        base = os.path.join(self.dir, f"pair-{self.n}")
        self.run("req", "-x509", *kind, "-nodes", "-keyout", base + ".key", "-out", base + ".crt",
                 "-days", str(days), "-subj", f"/CN=pair-{self.n}", *args)
        return self.read(base)

    def expired(self):
        """With the key of another, which is still good."""
        self.n += 1
        base = os.path.join(self.dir, f"pair-{self.n}")
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                 base + ".key", "-out", base + ".csr", "-subj", "/CN=old")
        self.run("x509", "-req", "-in", base + ".csr", "-signkey", base + ".key", "-out",
                 base + ".crt", "-days", "-1")
        return self.read(base)

    @staticmethod
    def read(base):
        with open(base + ".crt", "rb") as c, open(base + ".key", "rb") as k:
            return c.read(), k.read()


class Front(Suite):
    daemons = ("auditd", "authd", "sysd", "gateway")

    @classmethod
    def prepare(cls):
        cls.pairs = Pairs(cls.fleet.dir)

    # ---- asking ----

    def change(self, method="PUT", client=None, **members):
        """A change that must succeed. Returns the data."""
        reply = self.assert_ok((client or self.admin).request(method, PATH, members))
        self.fleet.https_port = reply.data["httpsPort"]
        return reply.data

    def upload(self, client=None, **parts):
        raw, kind = form(**parts)
        return (client or self.admin).put(PATH, raw=raw, headers={"Content-Type": kind})

    def tls(self):
        return Client(self.fleet, True, self.admin.token)

    @staticmethod
    def served(port):
        """The certificate that the next handshake gets, as openssl sees it."""
        done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}"], input=b"",
                              capture_output=True, timeout=20)
        text = done.stdout.decode(errors="replace")
        begin, end = text.find("-----BEGIN"), text.find("-----END CERTIFICATE-----")
        return text[begin:end] + "-----END CERTIFICATE-----\n" if begin >= 0 else None

    def as_wanted(self, port):
        """GET and the listeners say the same."""
        def same():
            with contextlib.suppress(Unanswered):
                reply = self.admin.get(PATH)
                return reply.status == 200 and reply.data["httpsPort"] == port and \
                    "fault" not in reply.data and is_open(port)
        wait_for(f"HTTPS on {port} and nothing else wanted", same, 25)
        # what was seen may be from before sysd and the gateway met again
        wait_for("a change to be possible", lambda: self.admin.patch(PATH, {}).status == 200)
        self.fleet.https_port = port

    def plain(self, path, host=None):
        conn = http.client.HTTPConnection("127.0.0.1", self.fleet.redirect_port, timeout=10)
        try:
            conn.request("GET", path, headers={"Host": host} if host else {})
            got = conn.getresponse()
            got.read()
            return got
        finally:
            conn.close()


class Httpserver(Front):
    # ---- what is shown and refused ----

    def test_0_it_shows_the_listeners_and_the_shipped_names(self):
        data = self.assert_ok(self.admin.get(PATH)).data
        self.assertEqual(data["httpsPort"], self.fleet.https_port)
        self.assertEqual(data["httpPort"], self.fleet.redirect_port)
        self.assertTrue(data["httpsEnable"])
        self.assertEqual((data["certFileName"], data["keyFileName"]),
                         ("thingspro_https_default.crt", "thingspro_https_default.key"))
        self.assertNotIn("fault", data)
        # all of it sent back changes nothing
        self.assertEqual(self.assert_ok(self.admin.put(PATH, data)).data, data)
        self.assertEqual(self.assert_ok(self.admin.patch(PATH, {})).data, data)

    def test_what_cannot_be_changed_and_ports_out_of_range_are_refused(self):
        before = self.admin.get(PATH).data
        for member, value in (("httpsEnable", False), ("httpPort", 81), ("httpsPort", 444),
                              ("httpsPort", 1023), ("httpsPort", 80), ("httpsPort", 65536),
                              ("httpsPort", self.fleet.redirect_port),
                              ("redirectToHttps", "yes")):
            self.assert_refused(self.admin.patch(PATH, {member: value}), 400, f"/{member}")
            raw, kind = form(**{member: str(value).lower()})
            self.assert_refused(self.admin.put(PATH, raw=raw, headers={"Content-Type": kind}), 400,
                                f"/{member}")
        self.assertEqual(self.admin.get(PATH).data, before)

    def test_a_port_in_use_is_refused_and_all_is_as_before(self):
        before, old = self.admin.get(PATH).data, self.fleet.https_port
        port = free_port()
        with socket.socket() as taken:
            taken.bind(("0.0.0.0", port))
            taken.listen(1)
            for body in ({"httpsPort": port}, {"httpsPort": port, "redirectToHttps": False}):
                self.assert_refused(self.admin.put(PATH, body), 400, "/httpsPort",
                                    f"port {port} is in use")
        self.assertEqual(self.admin.get(PATH).data, before)
        self.assert_ok(self.tls().get("/users/me"))
        self.assertEqual(self.plain("/x").status, 308)
        self.assertTrue(is_open(old))
        self.change(httpsPort=port)  # free now

    # ---- ports ----

    def test_a_port_changes_under_load_without_a_failed_request(self):
        ports = [self.fleet.https_port, free_port()]
        faults, done, counts = [], threading.Event(), [{} for _ in range(CLIENTS)]

        def connect(client):
            for port in ports * 50:
                conn = http.client.HTTPSConnection("127.0.0.1", port, timeout=20 * harness.SLOW,
                                                   context=client.context)
                with contextlib.suppress(ConnectionRefusedError):
                    conn.connect()
                    return port, conn
            raise AssertionError("no port is open")

        def work(count):
            client = self.tls()
            try:
                while not done.is_set():
                    port, conn = connect(client)
                    for _ in range(20):
                        conn.request("GET", "/api/v1/users/me", headers=client.headers())
                        got = conn.getresponse()
                        got.read()
                        if got.status != 200:
                            faults.append(f"{port}: {got.status}")
                        count[port] = count.get(port, 0) + 1
                        if got.will_close:
                            break
                    conn.close()
            except (OSError, http.client.HTTPException, AssertionError) as e:
                faults.append(repr(e))
        threads = [threading.Thread(target=work, args=(c,)) for c in counts]
        for t in threads:
            t.start()
        try:
            for n in range(1, 9):
                was, now = ports[(n + 1) % 2], ports[n % 2]
                self.change(client=self.tls(), httpsPort=now)  # answered on the old port
                self.assertFalse(is_open(was), "the old port still accepts")
                self.assert_ok(self.tls().get("/users/me"))  # at once
                before = [c.get(now, 0) for c in counts]
                wait_for("all clients on the new port", lambda: faults or all(
                    c.get(now, 0) > b for c, b in zip(counts, before)))
        finally:
            done.set()
            for t in threads:
                t.join()
        self.assertEqual(faults, [])

    def test_what_is_under_way_on_the_old_port_goes_on(self):
        old, port = self.tls(), free_port()
        stream = old.stream("/audits?monitor=true")
        self.assertEqual(stream.status, 200)
        self.assert_ok(old.get("/users/me"))
        sock = old.local.conn.sock
        # a body of which half was sent
        slow = old.connect()
        body = json.dumps({"description": "slow"}).encode()
        slow.putrequest("PUT", "/api/v1/users/me")
        for name, value in {**old.headers(), "Content-Type": "application/json",
                            "Content-Length": str(len(body))}.items():
            slow.putheader(name, value)
        slow.endheaders(body[:5])
        self.change(httpsPort=port)
        slow.send(body[5:])
        got = slow.getresponse()
        got.read()
        self.assertEqual(got.status, 200)
        slow.close()
        self.assert_ok(old.get("/users/me"))
        self.assertIs(old.local.conn.sock, sock, "the old connection was dropped")
        stream.wait_event(lambda e: e["name"] == "httpserverUpdate")
        self.assertIsNone(stream.ended)
        stream.close()
        self.assert_audited("httpserverUpdate", f"port {port}")

    def test_twenty_changes_leave_nothing_behind(self):
        gateway = self.fleet.d["gateway"]
        ports = [self.fleet.https_port, free_port()]

        def measure():
            return gateway.threads(), len(os.listdir(f"/proc/{gateway.pid}/fd"))
        for n in range(1, 5):
            self.change(httpsPort=ports[n % 2])
        self.admin.close()
        before, memory = measure(), gateway.memory_kib()
        for n in range(1, 21):
            self.change(httpsPort=ports[n % 2], redirectToHttps=n % 2 == 0)
        self.admin.close()
        wait_for("threads and descriptors as before", lambda: measure() == before)
        if not harness.SANITIZED:
            self.assertLess(gateway.memory_kib() - memory, 512)
        kept = [os.path.basename(f) for f in glob.glob(f"{self.fleet.state}/gateway/https.*")]
        self.assertLessEqual(set(kept), {"https.conf", "https.last"})

    def test_two_changes_at_once_are_made_one_after_the_other(self):
        ports, replies = [free_port() for _ in range(6)], []
        def put(port):
            replies.append(Client(self.fleet, token=self.admin.token).put(PATH, {"httpsPort": port}))
        threads = [threading.Thread(target=put, args=(p,)) for p in ports]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for reply in replies:
            self.assert_ok(reply)
        port = self.admin.get(PATH).data["httpsPort"]
        self.assertEqual([p for p in ports if is_open(p)], [port])
        self.fleet.https_port = port

    # ---- redirect ----

    def test_plain_http_leads_to_the_present_port_or_is_closed(self):
        self.change(redirectToHttps=True)
        for port in (free_port(), free_port()):
            self.change(method="PATCH", httpsPort=port)
            got = self.plain("/api/v1/users/me?a=b", "gate.example")
            self.assertEqual(got.status, 308)
            self.assertEqual(got.headers["Location"],
                             f"https://gate.example:{port}/api/v1/users/me?a=b")
        self.assertFalse(self.change(redirectToHttps=False)["redirectToHttps"])
        self.assertFalse(is_open(self.fleet.redirect_port))
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("0.0.0.0", self.fleet.redirect_port))
            taken.listen(1)
            self.assert_refused(self.admin.put(PATH, {"redirectToHttps": True}), 400,
                                "/redirectToHttps", "is in use")
        self.change(redirectToHttps=True)
        self.assertEqual(self.plain("/").status, 308)

    # ---- certificates ----

    def test_a_new_certificate_is_in_the_next_handshake_while_connections_go_on(self):
        cert, key = self.pairs.make()
        old = self.tls()
        self.assert_ok(old.get("/users/me"))
        sock = old.local.conn.sock
        stream = old.stream("/audits?monitor=true")
        data = self.assert_ok(self.upload(old, certFile=("plant.cer", cert),
                                          keyFile=("plant.pk", key))).data
        self.assertEqual((data["certFileName"], data["keyFileName"]), ("plant.cer", "plant.pk"))
        self.assertEqual(self.served(self.fleet.https_port), cert.decode())
        self.assert_ok(old.get("/users/me"))
        self.assertIs(old.local.conn.sock, sock, "the old connection was dropped")
        stream.wait_event(lambda e: e["name"] == "httpserverUpdate")
        stream.close()
        row = self.assert_audited("httpserverUpdate", "plant.cer")[-1]
        self.assertNotIn("PRIVATE KEY", json.dumps(row))
        # the key is in one place, which only the gateway reads
        found = []
        for path in glob.glob(f"{self.fleet.state}/**", recursive=True):
            if os.path.isfile(path):
                with open(path, "rb") as f:
                    if key.splitlines()[1] in f.read():
                        found.append(path)
                        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.assertEqual([os.path.dirname(p) for p in found], [f"{self.fleet.state}/gateway"])
        # it stays over a restart of all, and HUP is not for it
        self.fleet.d["gateway"].process.send_signal(signal.SIGHUP)
        self.restart("sysd")
        self.restart("gateway")
        self.assertEqual(self.served(self.fleet.https_port), cert.decode())
        self.assertEqual(self.admin.get(PATH).data["certFileName"], "plant.cer")

    def test_browsers_are_held_to_https_only_with_a_certificate_that_somebody_vouches_for(self):
        def held(client):
            return [client.get(path, **more).headers.get("Strict-Transport-Security")
                    for path, more in (("/users/me", {}), ("/none", {}), ("/docs", {"base": "/api"}))]
        ca_key, key = pki.key(), pki.key()
        ca = pki.cert("CA", ca_key, ca=True)
        for chain, told in ((pki.issued("gate", key, ca, ca_key) + ca, "max-age=31536000"),
                            (pki.cert("gate", key), None)):
            self.assert_ok(self.upload(certFile=("a.crt", chain), keyFile=("a.key", key)))
            self.assertEqual(held(self.tls()), [told] * 3)
            self.assertEqual(held(self.admin), [None] * 3, "in plain HTTP")

    def test_the_certificate_in_use_is_listed_by_the_name_of_its_upload(self):
        def listed():
            rows = self.assert_ok(self.admin.get("/secrets/certificates")).data
            return [r["name"] for r in rows if r["sourceName"] == "httpserver"]
        cert, key = self.pairs.make()
        long = "ü" * 120 + ".crt"
        for name, shown in (("plant.cer", "plant.cer"), ("the same, renamed.crt",) * 2,
                            (long, long.encode()[:128].decode())):
            self.assert_ok(self.upload(certFile=(name, cert), keyFile=("a.key", key)))
            wait_for(name, lambda s=shown: listed() == [s])
            self.assertEqual(self.admin.get(PATH).data["certFileName"], name)

    def test_one_file_alone_must_fit_the_other_that_is_there(self):
        cert, key = self.pairs.make()
        self.assert_ok(self.upload(certFile=("a.crt", cert), keyFile=("a.key", key)))
        other_cert, other_key = self.pairs.make()
        self.assert_refused(self.upload(certFile=("b.crt", other_cert)), 400, "/certFile", "pair")
        self.assert_refused(self.upload(keyFile=("b.key", other_key)), 400, "/keyFile", "pair")
        path = os.path.join(self.fleet.dir, "renew.key")
        with open(path, "wb") as f:
            f.write(key)
        renewed, _ = self.pairs.make(kind=("-key", path))
        data = self.assert_ok(self.upload(certFile=("c.crt", renewed))).data
        self.assertEqual((data["certFileName"], data["keyFileName"]), ("c.crt", "a.key"))
        self.assertEqual(self.served(self.fleet.https_port), renewed.decode())
        self.assert_ok(self.upload(keyFile=("d.key", key)))
        files = [f for f in os.listdir(f"{self.fleet.state}/gateway") if f.startswith("https-")]
        self.assertLessEqual(len(files), 4, "files of pairs that nobody needs")

    def test_pairs_that_are_no_good_are_refused_with_the_reason(self):
        before, served = self.admin.get(PATH).data, self.served(self.fleet.https_port)
        cert, key = self.pairs.make()
        weak = self.pairs.make(kind=("-newkey", "rsa:1024"))
        old = self.pairs.expired()
        cases = [
            ("/certFile", "1024", ("a.crt", weak[0]), ("a.key", weak[1])),
            ("/certFile", "pair", ("a.crt", cert), ("a.key", old[1])),
            ("/certFile", "expired", ("a.crt", old[0]), ("a.key", old[1])),
            ("/certFile", "", ("a.crt", b"nothing"), ("a.key", key)),
            ("/certFile", "", ("a.crt", b""), ("a.key", key)),
            ("/certFile", "", ("a.crt", key), ("a.key", key)),
            ("/certFile", "", ("a.crt", cert + b"\0"), ("a.key", key)),
            ("/certFile", "", ("a.crt", cert * 200), ("a.key", key)),
            ("/keyFile", "", ("a.crt", cert), ("a.key", b"nothing")),
            ("/certFile", ".crt, .cer or .pem", ("a.txt", cert), ("a.key", key)),
            ("/certFile", ".crt, .cer or .pem", (".crt", cert), ("a.key", key)),
            ("/certFile", "", ("a/b.crt", cert), ("a.key", key)),
            ("/keyFile", ".key, .pk or .pem", ("a.crt", cert), ("a.crt", key)),
        ]
        for pointer, word, a, b in cases:
            self.assert_refused(self.upload(certFile=a, keyFile=b), 400, pointer, word)
        # a good pair with a bad port changes neither
        with socket.socket() as taken:
            taken.bind(("0.0.0.0", 0))
            taken.listen(1)
            self.assert_refused(self.upload(certFile=("a.crt", cert), keyFile=("a.key", key),
                                            httpsPort=taken.getsockname()[1]), 400, "/httpsPort")
        self.assertEqual(self.admin.get(PATH).data, before)
        self.assertEqual(self.served(self.fleet.https_port), served)

    def test_port_redirect_and_pair_change_in_one_request(self):
        cert, key = self.pairs.make()
        port = free_port()
        data = self.assert_ok(self.upload(certFile=("a.pem", cert), keyFile=("b.pem", key),
                                          httpsPort=port, redirectToHttps="false")).data
        self.assertEqual((data["httpsPort"], data["redirectToHttps"]), (port, False))
        self.assertEqual(self.served(port), cert.decode())
        self.assertFalse(is_open(self.fleet.redirect_port))
        self.fleet.https_port = port
        self.change(redirectToHttps=True)


class Rollback(Front):
    """Deaths, ports that are taken, damaged files."""

    def test_the_gateway_starts_with_what_was_in_force_without_sysd(self):
        port = free_port()
        self.change(httpsPort=port)
        self.kill("sysd")
        self.kill("gateway")
        self.start("gateway", wait=False)
        wait_for("HTTPS", lambda: is_open(port))
        first = self.tls().get("/users/me")
        self.assertLess(first.took, harness.AT_ONCE, "the port was open before it was served")
        wait_for("authd", lambda: self.tls().get("/users/me").status == 200)
        self.assert_refused(self.admin.get(PATH), 503)
        self.start("sysd")
        self.as_wanted(port)

    def test_a_port_taken_at_the_start_rolls_back_and_is_mended_when_it_is_free(self):
        before, port = self.fleet.https_port, free_port()
        self.change(httpsPort=port)
        self.kill("gateway")
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("0.0.0.0", port))
            taken.listen(1)
            self.start("gateway")
            self.fleet.https_port = before
            self.assert_ok(self.tls().get("/users/me"))
            self.assert_audited("httpserverRollback", f"port {port} is in use", "sysd", count=1)
            data = self.admin.get(PATH).data
            self.assertEqual(data["httpsPort"], port)
            self.assertIn("is in use", data["fault"])
            self.assertEqual(urlport(self.plain("/")), before)
        self.as_wanted(port)
        self.assertEqual(urlport(self.plain("/")), port)

    def test_a_damaged_setting_is_rolled_back_and_mended(self):
        port = free_port()
        self.change(httpsPort=port)
        for damage in (b"", b"{", b'{"httpsPort":0}', os.urandom(600)):
            self.kill("gateway")
            with open(f"{self.fleet.state}/gateway/https.conf", "wb") as f:
                f.write(damage)
            self.start("gateway")
            self.as_wanted(port)
        self.assert_audited("httpserverRollback", "damaged", "sysd")

    def test_a_certificate_that_cannot_be_loaded_rolls_back_until_a_new_one_comes(self):
        cert, key = self.pairs.make()
        self.assert_ok(self.upload(certFile=("a.crt", cert), keyFile=("a.key", key)))
        newest = max(glob.glob(f"{self.fleet.state}/gateway/https-*.key"), key=os.path.getmtime)
        self.kill("gateway")
        with open(newest, "wb") as f:
            f.write(b"damaged")
        self.start("gateway")
        self.assertNotEqual(self.served(self.fleet.https_port), cert.decode())
        self.assert_audited("httpserverRollback", "the key cannot be read", "sysd")
        self.assertIn("the key", self.admin.get(PATH).data["fault"])
        self.assert_ok(self.upload(certFile=("a.crt", cert), keyFile=("a.key", key)))
        self.as_wanted(self.fleet.https_port)
        self.assertEqual(self.served(self.fleet.https_port), cert.decode())

    def test_deaths_at_any_moment_leave_one_setting_in_both(self):
        ports = [free_port(), free_port()]
        self.change(httpsPort=ports[0])
        stop = threading.Event()

        def change():
            client, n = Client(self.fleet, token=self.admin.token), 0
            while not stop.is_set():
                n += 1
                with contextlib.suppress(Unanswered):
                    client.put(PATH, {"httpsPort": ports[n % 2]})
        for n in range(16):
            stop.clear()
            t = threading.Thread(target=change)
            t.start()
            name = ("sysd", "gateway")[n % 2]
            stop.wait(int.from_bytes(os.urandom(1), "big") / 2000)  # a death anywhere in a change
            self.kill(name)
            stop.set()
            self.fleet.d[name].start()
            t.join()
            self.fleet.wait_ready()
            self.wait_daemons(["sysd"])
            port = self.admin.get(PATH).data["httpsPort"]
            self.as_wanted(port)
            wait_for("the other port to be closed", lambda: not is_open(
                ports[ports[0] == port]), 8)


class FullDisk(harness.SmallDisk, Front):
    def test_a_full_disk_refuses_the_change_and_nothing_else(self):
        before, served = self.admin.get(PATH).data, self.served(self.fleet.https_port)
        cert, key = self.pairs.make()
        self.fill()
        for _ in range(3):
            self.assert_refused(self.admin.put(PATH, {"httpsPort": free_port()}), 507)
            self.assert_refused(self.upload(certFile=("a.crt", cert), keyFile=("a.key", key)), 507)
        self.assertEqual(self.admin.get(PATH).data, before)
        self.assertEqual(self.served(self.fleet.https_port), served)
        self.assert_ok(self.tls().get("/users/me"))
        os.unlink(self.big)
        port = free_port()
        wait_for("room", lambda: self.admin.put(PATH, {"httpsPort": port}).status == 200)
        self.as_wanted(port)


def urlport(got):
    return int(got.headers["Location"].split(":")[2].split("/")[0])


