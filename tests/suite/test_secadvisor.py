"""The security advisor: each setting that can be changed turns its finding, what does not answer
is unknown, and the document says what the answer says."""
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import contract
import harness
import pki
from harness import PASSWORD, Suite, wait_for

POLICY = {"atLeastOneDigit": False, "atLeastOneSpecial": False, "lengthMin": 8,
          "mixedUpperLowerLetters": False, "enableReminder": True, "reminderFrequencyDay": 180}
LOCK = {"enable": True, "failWindow": 15, "failTimes": 10, "lockWindow": 10}
SESSION = {"maxCountByUser": 32, "timeoutMin": 1440, "idleTimeoutMin": 60}
AUDIT = {"enableTimeToLive": False, "timeToLiveDay": 7, "alertThreshold": 80}
LOG = {"enableTimeToLive": False, "timeToLiveDay": 7}
# finding, where it is set, what was there, what makes it fail, what makes it pass
SETTINGS = (
    ("SEC-PWD-01", "/password-policy", POLICY, {"lengthMin": 11}, {"lengthMin": 12}),
    ("SEC-PWD-02", "/password-policy", POLICY, {"atLeastOneDigit": False}, {"atLeastOneDigit": True}),
    ("SEC-PWD-03", "/password-policy", POLICY, {"atLeastOneSpecial": False}, {"atLeastOneSpecial": True}),
    ("SEC-PWD-04", "/password-policy", POLICY, {"mixedUpperLowerLetters": False},
     {"mixedUpperLowerLetters": True}),
    ("SEC-PWD-05", "/password-policy", POLICY, {"enableReminder": False}, {"enableReminder": True}),
    ("SEC-LCK-01", "/auth-lock", LOCK, {"enable": False}, {"enable": True}),
    ("SEC-LCK-02", "/auth-lock", LOCK, {"failTimes": 11}, {"failTimes": 10}),
    ("SEC-LCK-03", "/auth-lock", LOCK, {"lockWindow": 9}, {"lockWindow": 10}),
    ("SEC-SES-01", "/sessions/configuration", SESSION, {"idleTimeoutMin": 31}, {"idleTimeoutMin": 30}),
    ("SEC-SES-02", "/sessions/configuration", SESSION, {"timeoutMin": 1441}, {"timeoutMin": 1440}),
    ("SEC-SES-03", "/sessions/configuration", SESSION, {"maxCountByUser": 6}, {"maxCountByUser": 5}),
    ("SEC-AUD-02", "/audits/configuration", AUDIT, {"enableTimeToLive": True, "timeToLiveDay": 89},
     {"enableTimeToLive": True, "timeToLiveDay": 90}),
    ("SEC-LOG-04", "/system/log", LOG, {"enableTimeToLive": True, "timeToLiveDay": 29},
     {"enableTimeToLive": True, "timeToLiveDay": 30}),
    ("SEC-AUD-03", "/audits/configuration", AUDIT, {"alertThreshold": 91}, {"alertThreshold": 90}),
)


class Scans(Suite):
    def report(self, client=None):
        return self.assert_ok((client or self.admin).get("/secadvisor/report"))

    def findings(self, client=None):
        return {f["id"]: f for group in self.report(client).data.values() for f in group}

    def wait_status(self, id_, status):
        """A scan may be a second old. Returns the finding."""
        def there():
            f = self.findings()[id_]
            return f if f["status"] == status else None
        return wait_for(f"{id_} to be {status}", there, 6, 0.1)


class AnUpload(Scans):
    def test_an_uploaded_certificate_turns_the_findings_that_name_the_operation(self):
        found = self.wait_status("SEC-TLS-02", "fail")
        self.assertEqual(found["operation"], "putSystemHttpserver")
        self.assertIn("signed by itself", found["evidence"])
        ca_key, key = pki.key(), pki.key()
        cert = pki.issued("elsewhere", key, pki.cert("Plant CA", ca_key, ca=True), ca_key, days=20)
        self.assert_ok(self.admin.form("PUT", "/system/httpserver", certFile=("a.crt", cert),
                                       keyFile=("a.key", key)))
        self.assertIn("CN=Plant CA", self.wait_status("SEC-TLS-02", "pass")["evidence"])
        self.wait_status("SEC-TLS-03", "fail")  # 20 days
        self.assertIn(os.uname().nodename, self.wait_status("SEC-TLS-06", "fail")["evidence"])
        path = re.match(r"Mode of (.*): 0600$", self.findings()["SEC-TLS-07"]["evidence"]).group(1)
        with open(path, encoding="ascii") as f:
            self.assertEqual(f.read(), key)  # of the pair that is in use


class Advisor(Scans):
    # ---- findings ----

    def test_every_finding_says_what_was_seen_and_what_to_do(self):
        reply = self.report()
        self.assertGreaterEqual(len(self.findings()), 30)
        known = {o.name for o in contract.load(harness.BUILD).operations}
        counted = {"pass": 0, "fail": 0, "unknown": 0}
        for group, findings in reply.data.items():
            self.assertTrue(findings, group)
            for f in findings:
                self.assertTrue(f["evidence"] and f["remedy"] and f["message"], f)
                self.assertLess(abs(f["timestamp"] - time.time()), 30, f)
                self.assertLessEqual(f["since"], f["timestamp"], f)
                if f["operation"] is not None:
                    self.assertIn(f["operation"], known)
                counted[f["status"]] += 1
        s = reply.json["summary"]
        self.assertEqual((s["passed"], s["failed"], s["unknown"]), tuple(counted.values()))
        self.assertEqual(s["failed"], s["failedHigh"] + s["failedMedium"] + s["failedLow"])

    def test_each_setting_turns_its_finding(self):
        for which, status in ((3, "fail"), (4, "pass")):
            bodies = {path: dict(was) for _, path, was, _, _ in SETTINGS}
            for setting in SETTINGS:
                bodies[setting[1]].update(setting[which])
            for path, body in bodies.items():
                self.assert_ok(self.admin.put(path, body))
            for setting in SETTINGS:
                self.wait_status(setting[0], status)
        for path, was in {path: was for _, path, was, _, _ in SETTINGS}.items():
            self.assert_ok(self.admin.put(path, was))

    def test_accounts_turn_their_findings(self):
        self.wait_status("SEC-DEF-01", "pass")
        self.wait_status("SEC-DEF-02", "fail")  # admin
        self.wait_status("SEC-ACC-03", "pass")
        ids = []
        for i in range(3):
            ids.append(self.admin.post("/users", {
                "name": f"chief{i}", "password": PASSWORD, "isActive": True,
                "roles": [{"id": 1}]}).data["id"])
        self.assertIn("chief2", self.wait_status("SEC-ACC-01", "fail")["evidence"])
        self.assertIn("chief0", self.wait_status("SEC-ACC-03", "fail")["evidence"])
        self.assert_ok(self.admin.put(f"/users/{ids[0]}", {"isActive": False}))
        self.wait_status("SEC-ACC-01", "pass")
        self.assertIn("chief0", self.wait_status("SEC-ACC-04", "fail")["evidence"])
        for i in range(1, 3):
            self.assert_ok(self.sign_in(f"chief{i}").put(
                "/users/me/password", {"oldPassword": PASSWORD, "newPassword": PASSWORD + "x"}))
        self.wait_status("SEC-ACC-03", "pass")
        self.assert_ok(self.admin.put(f"/users/{ids[2]}/password",
                                      {"newPassword": PASSWORD + "y"}))
        self.assertIn("chief2", self.wait_status("SEC-ACC-03", "fail")["evidence"])
        for id_ in ids:
            self.assert_ok(self.admin.delete(f"/users/{id_}"), 204)
        self.wait_status("SEC-ACC-04", "pass")
        self.wait_status("SEC-ACC-03", "pass")

    def test_a_program_that_may_manage_accounts_is_told(self):
        self.wait_status("SEC-ACC-05", "pass")
        self.assert_ok(self.admin.post("/azure-iotedge/services", {
            "name": "mighty", "required": ["SYS_ACCOUNT_RW"]}))
        self.assertIn("mighty", self.wait_status("SEC-ACC-05", "fail")["evidence"])
        self.assert_ok(self.admin.delete("/azure-iotedge/services/mighty"), 204)
        self.wait_status("SEC-ACC-05", "pass")
        for id_ in ("SEC-TLS-09", "SEC-TLS-10"):
            self.wait_status(id_, "pass")

    def test_a_locked_account_is_told(self):
        self.assert_ok(self.admin.put("/auth-lock", {**LOCK, "failTimes": 3}))
        user = self.admin.post("/users", {"name": "guessed", "password": PASSWORD,
                                          "isActive": True, "roles": [{"id": 1}]}).data["id"]
        for _ in range(3):
            self.assert_refused(self.anyone.post("/auth", {
                "name": "guessed", "password": "wrong-password"}), 401)
        self.wait_status("SEC-LCK-04", "fail")
        self.assert_ok(self.admin.put("/auth-lock", {**LOCK, "enable": False}))
        self.wait_status("SEC-LCK-04", "pass")
        self.assert_ok(self.admin.put("/auth-lock", LOCK))
        self.assert_ok(self.admin.delete(f"/users/{user}"), 204)

    def test_connections_to_brokers_turn_their_findings(self):
        client = self.add_mqtt(1883, server="broker.invalid")
        self.assertIn("broker.invalid", self.wait_status("SEC-MQT-01", "fail")["evidence"])
        self.wait_status("SEC-MQT-04", "fail")
        steps = (({"certificateOverTLS": True, "tlsVersion": "1.0"}, "SEC-MQT-03", "SEC-MQT-01"),
                 ({"tlsVersion": "1.2", "insecureSkipVerify": True}, "SEC-MQT-02", "SEC-MQT-03"),
                 ({"insecureSkipVerify": False, "server": "other.invalid"}, "SEC-MQT-04", "SEC-MQT-02"),
                 ({"certificateOverTLS": False, "userName": "gw"}, "SEC-MQT-01", "SEC-MQT-04"),
                 ({"server": "127.0.0.1", "userName": ""}, None, "SEC-MQT-01"))
        key = pki.key()
        cert = pki.cert("client", key)
        for change, fails, passes in steps:
            self.assert_ok(self.admin.put(f"/mqtt/{client}", change))
            if fails:
                self.wait_status(fails, "fail")
            self.wait_status(passes, "pass")
        self.assert_ok(self.admin.put(f"/mqtt/{client}", {"server": "broker.invalid"}))
        self.wait_status("SEC-MQT-01", "fail")
        self.assert_ok(self.admin.form("PUT", f"/mqtt/{client}", caCertFile=("c.crt", cert),
                                       caPkFile=("c.key", key)))
        self.wait_status("SEC-MQT-04", "fail")  # without TLS nobody sees the certificate
        self.assert_ok(self.admin.put(f"/mqtt/{client}", {"certificateOverTLS": True}))
        self.wait_status("SEC-MQT-04", "pass")
        self.assert_ok(self.admin.put(f"/mqtt/{client}", {"certificateOverTLS": False}))
        self.wait_status("SEC-MQT-04", "fail")
        self.assert_ok(self.admin.put(f"/mqtt/{client}", {"enable": False}))
        self.wait_status("SEC-MQT-01", "pass")
        self.assert_ok(self.admin.delete(f"/mqtt/{client}"))

    def test_a_field_device_in_the_internet_is_told(self):
        self.wait_status("SEC-FLD-01", "pass")
        device = self.add_device("far", 502, [], slaveIpaddr="203.0.113.9")["device"]
        self.assertIn("203.0.113.9", self.wait_status("SEC-FLD-01", "fail")["evidence"])
        self.assert_ok(self.admin.delete(f"/modbusmaster/config/remote-devs/{device}"), 204)
        self.wait_status("SEC-FLD-01", "pass")

    def test_the_certificate_turns_its_findings(self):
        place = os.path.join(self.fleet.state, "gateway", "thingspro_https_default")
        kept = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, kept)
        for end in (".crt", ".key"):
            shutil.copy2(place + end, kept)
        self.wait_status("SEC-TLS-03", "pass")
        self.wait_status("SEC-TLS-02", "fail")  # made at the first start

        def openssl(*args):
            subprocess.run(["openssl", *args], cwd=kept, check=True, capture_output=True)
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out",
                "ca.crt", "-days", "99", "-subj", "/CN=Our authority")
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "new.key", "-out", "new.csr",
                "-subj", "/CN=Größe", "-utf8")
        openssl("x509", "-req", "-in", "new.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-days",
                "9", "-sha1", "-CAcreateserial", "-out", "new.crt")
        for end in (".key", ".crt"):
            shutil.copy(f"{kept}/new{end}", place + end)
        os.chmod(place + ".key", 0o640)
        self.assertIn("CN=Größe", self.wait_status("SEC-TLS-02", "pass")["evidence"])
        self.assertIn("RSA", self.wait_status("SEC-TLS-04", "pass")["evidence"])
        for id_ in ("SEC-TLS-03", "SEC-TLS-05", "SEC-TLS-06", "SEC-TLS-07"):
            self.wait_status(id_, "fail")
        self.assertIn("CN=Größe", self.document()[1])
        for end in (".key", ".crt"):
            shutil.copy2(f"{kept}/thingspro_https_default{end}", place + end)
        for id_ in ("SEC-TLS-03", "SEC-TLS-05", "SEC-TLS-07"):
            self.wait_status(id_, "pass")

    def test_an_origin_without_encryption_turns_its_finding(self):
        gateway = self.fleet.d["gateway"]
        was = list(gateway.argv)
        for origin, status in (("http://hmi.example", "fail"), ("https://hmi.example", "pass")):
            gateway.argv = was + ["--set", f"cors-origin={origin}"]
            self.restart("gateway")
            self.wait_status("SEC-TLS-08", status)
        gateway.argv = was
        self.restart("gateway")
        self.wait_status("SEC-TLS-08", "pass")

    def test_the_mode_of_the_state_turns_its_finding(self):
        state = os.path.join(self.fleet.state, "auditd")
        self.wait_status("SEC-SYS-08", "pass")
        os.chmod(state, 0o755)
        self.assertIn("0755", self.wait_status("SEC-SYS-08", "fail")["evidence"])
        os.chmod(state, 0o700)
        self.wait_status("SEC-SYS-08", "pass")

    # ---- who is away ----

    def test_a_daemon_that_is_away_makes_its_findings_unknown_and_no_other(self):
        before = self.findings()
        self.kill("cloudd")
        for id_ in ("SEC-MQT-01", "SEC-MQT-02", "SEC-MQT-03", "SEC-MQT-04"):
            self.assertIn("cloudd", self.wait_status(id_, "unknown")["evidence"])
        now = self.findings()
        self.assertEqual({i for i in now if now[i]["status"] == "unknown"},
                         {i for i in now if i.startswith("SEC-MQT")}
                         | {i for i in before if before[i]["status"] == "unknown"})
        self.start("cloudd")
        self.wait_status("SEC-MQT-01", "pass")

    def test_a_daemon_that_stands_still_holds_up_the_report_only(self):
        self.report()  # the token is known, the connections stand
        os.kill(self.fleet.d["modbusd"].pid, signal.SIGSTOP)
        try:
            time_left = wait_for("the last scan to be old", lambda: self.findings()
                                 ["SEC-FLD-01"]["status"] == "unknown", 10, 0.1)
            self.assertTrue(time_left)
            got = []
            other = self.admin.with_token(self.admin.token)
            waits = threading.Thread(target=lambda: got.append(self.findings(other)))
            waits.start()
            reply = self.assert_ok(self.admin.get("/audits?limit=1"))
            self.assertLess(reply.took, harness.AT_ONCE)
            waits.join()
            self.assertEqual(got[0]["SEC-FLD-01"]["status"], "unknown")
        finally:
            os.kill(self.fleet.d["modbusd"].pid, signal.SIGCONT)
        self.wait_status("SEC-FLD-01", "pass")

    def test_since_when_it_is_so_survives_kill_9(self):
        first = self.findings()
        self.assert_ok(self.admin.put("/auth-lock", {**LOCK, "failTimes": 20}))
        turned = self.wait_status("SEC-LCK-02", "fail")
        self.assertGreaterEqual(turned["since"], first["SEC-LCK-02"]["since"])
        self.kill("auditd")
        self.start("auditd")
        now = self.findings()
        self.assertEqual(now["SEC-LCK-02"]["since"], turned["since"])
        self.assertEqual(now["SEC-PWD-02"]["since"], first["SEC-PWD-02"]["since"])
        self.assertGreaterEqual(now["SEC-PWD-02"]["timestamp"], turned["timestamp"])
        self.assert_ok(self.admin.put("/auth-lock", LOCK))
        self.wait_status("SEC-LCK-02", "pass")

    # ---- who asks ----

    def test_only_who_maintains_the_device_may_see_it(self):
        role = self.admin.post("/roles", {"name": "mqtt", "permissions": ["APP_MQTT_RW"]}).data["id"]
        user = self.admin.post("/users", {"name": "mo", "password": PASSWORD, "isActive": True,
                                          "roles": [{"id": role}]}).data["id"]
        client = self.sign_in("mo")
        for path in ("/secadvisor/report", "/secadvisor/report?download=true"):
            self.assert_refused(client.get(path), 403)
            self.assert_refused(self.anyone.get(path), 401)
        self.assert_refused(self.admin.get("/secadvisor/report?download=pdf"), 400, "/download")
        self.assert_ok(self.admin.delete(f"/users/{user}"), 204)
        self.assert_ok(self.admin.delete(f"/roles/{role}"), 204)

    def test_many_ask_at_the_same_time(self):
        replies, lock = [], threading.Lock()

        def ask(i):
            client = self.admin.with_token(self.admin.token)
            for k in range(4):
                got = client.get("/secadvisor/report" + ("?download=true" if (i + k) % 2 else ""))
                with lock:
                    replies.append(got)
            client.close()
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual([r.status for r in replies], [200] * 32)
        self.assertEqual({r.body[:5] for r in replies}, {b"%PDF-", b'{"dat'})
        self.assertEqual(os.listdir(os.path.join(self.fleet.run, "spool")), [])

    # ---- the document ----

    def document(self):
        """Path and text (white space made one) of a downloaded report."""
        reply = self.assert_ok(self.admin.get("/secadvisor/report?download=true"))
        self.assertEqual(reply.headers["Content-Type"], "application/pdf")
        name = re.search(r'filename="([^"]+)"', reply.headers["Content-Disposition"]).group(1)
        self.assertRegex(name, r"^security-report-[\w.-]+-\d{4}-\d\d-\d\d\.pdf$")
        path = os.path.join(self.fleet.dir, "report.pdf")
        with open(path, "wb") as f:
            f.write(reply.body)
        return path, re.sub(r"\s+", " ", self.tool("pdftotext", "-layout", path, "-"))

    def tool(self, *argv):
        if not shutil.which(argv[0]):
            self.skipTest(f"no {argv[0]} here")
        done = subprocess.run(argv, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def test_the_document_holds_every_finding(self):
        def of_one_scan():
            path, text = self.document()
            found = self.findings()
            at = time.gmtime(found["SEC-DEF-01"]["timestamp"])
            same = f"Inspected {time.strftime('%Y-%m-%d %H:%M:%S', at)} UTC" in text
            return (path, text, found) if same else None
        path, text, found = wait_for("answer and document of one scan", of_one_scan)
        words, letters = set(text.split()), "".join(text.split())
        routes = {o.name: f"{o.method} {o.path} ({o.name})"
                  for o in contract.load(harness.BUILD).operations}
        for f in found.values():
            self.assertIn(f["id"], words)
            self.assertIn(f["message"], text)
            parts = [f["evidence"]]
            if f["status"] == "fail":
                parts += [f["remedy"], routes[f["operation"]] if f["operation"] else
                          "none: it is done on the device itself"]
                self.assertEqual(text.count(f["message"]), 2, f)  # what is to be done begins it
            for part in parts:
                # the rest of a wrapped line stands under its beginning
                self.assertIn("".join(part.split()), letters, f)
        info = self.tool("pdfinfo", path)
        self.assertRegex(info, r"Title: +Security report")
        self.assertRegex(info, r"Author: +Fieldgate")
        self.assertRegex(info, r"CreationDate: +\w+ \w+ +\d+")
        pages = int(re.search(r"Pages: +(\d+)", info).group(1))
        for i in range(1, pages + 1):
            self.assertIn(f"Page {i} of {pages}", text)
        self.assertIn("Profile bench", text)
        fonts = self.tool("pdffonts", path).splitlines()[2:]
        self.assertTrue(fonts)
        for font in fonts:
            self.assertRegex(font, r" yes yes yes ")  # embedded, a subset, with its characters

    def test_no_text_of_the_document_runs_off_the_page(self):
        for i in range(8):  # a long line of evidence
            self.admin.post("/users", {"name": f"n{i}" + "x" * 60, "password": PASSWORD,
                                       "isActive": True, "roles": [{"id": 1}]})
        self.wait_status("SEC-ACC-01", "fail")
        path, _ = self.document()
        words = re.findall(r'<word xMin="([\d.]+)" yMin="([\d.]+)" xMax="([\d.]+)" '
                           r'yMax="([\d.]+)">', self.tool("pdftotext", "-bbox", path, "-"))
        self.assertGreater(len(words), 1000)
        for left, top, right, bottom in words:
            self.assertGreaterEqual(float(left), 50)
            self.assertLessEqual(float(right), 545)
            self.assertGreaterEqual(float(top), 25)
            self.assertLessEqual(float(bottom), 842 - 25)
        for user in self.admin.get("/users").data:
            if user["name"].endswith("xxx"):
                self.assert_ok(self.admin.delete(f"/users/{user['id']}"), 204)
