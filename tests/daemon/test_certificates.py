"""The certificates that daemons tell authd of, private keys at rest,
and what becomes of both when the process dies or its files are lost."""
import itertools
import json
import os
import threading

import buspeer
import pki
from harness import wait_for
from onedaemon import ADMIN, GUEST, OneDaemon


class Certificates(OneDaemon):
    name = "authd"

    @classmethod
    def prepare(cls):
        cls.audit = cls.fake_auditd()
        cls.n = itertools.count(1)

    @classmethod
    def upload(cls, operation, pem="", name=None, source="tests", who=ADMIN, parts=None):
        """A form as the gateway leaves it in the spool."""
        parts = parts or {"sourceName": source, "name": name or f"f{next(cls.n)}.pem", "file": pem}
        text = "".join(f'--B\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n'
                       for n, v in parts.items() if v is not None) + "--B--\r\n"
        spooled = f"test-{next(cls.n)}"
        with open(f"{cls.fleet.run}/spool/{spooled}", "w", encoding="utf-8", newline="") as f:
            f.write(text)
        return cls.call(operation, spooled.encode(), who=who, body_kind=buspeer.FILE,
                        content_type="multipart/form-data; boundary=B")

    def kept(self, operation, pem, **more):
        got = self.upload(operation, pem, **more)
        self.assertEqual(got.status, 200, got.body)
        return got.json["data"]

    def refused(self, got, status, text):
        self.assertEqual(got.status, status, got.body)
        self.assertIn(text, got.json["error"]["message"])

    def publish(self, source, *certificates):
        return self.tell(buspeer.CERT_PUBLISH, {"sourceName": source, "certificates": [
            {"name": n, "pem": p} for n, p in certificates]}).status

    def listed(self, source):
        return [c for c in self.done("getCertificates") if c["sourceName"] == source]

    @staticmethod
    def pair(cn, key=None):
        key = key or pki.key()
        return pki.cert(cn, key), key

    # ---- what daemons tell ----

    def test_a_source_that_is_told_again_keeps_its_ids_and_loses_what_is_gone(self):
        a, b = self.pair("a")[0], self.pair("b")[0]
        self.assertEqual(self.publish("web", ("a.crt", a), ("b.crt", b)), 200)
        first = self.listed("web")
        self.assertEqual([(c["name"], c["system"], c["status"], c["subjectNames"]["commonName"])
                          for c in first],
                         [("a.crt", True, "valid", "a"), ("b.crt", True, "valid", "b")])
        self.assertEqual(self.publish("web", ("a.crt", a), ("b.crt", b)), 200)
        self.assertEqual(self.listed("web"), first)
        self.kill_and_start()
        self.assertEqual(self.publish("web", ("b.crt", b)), 200)
        self.assertEqual(self.listed("web"), first[1:])
        self.assertEqual(self.publish("other"), 200)
        self.assertEqual(self.listed("web"), first[1:])
        self.assertEqual(self.publish("web"), 200)
        self.assertEqual(self.listed("web"), [])

    def test_what_a_daemon_uses_is_listed_though_it_is_weak_and_cannot_be_deleted(self):
        key = pki.key(*pki.rsa(1024))
        weak = self.pair("weak", key=key)[0]
        self.assertEqual(self.publish("plc", ("weak.crt", weak)), 200)
        uuid = self.listed("plc")[0]["uuid"]
        self.refused(self.call("deleteCertificate", path=[uuid]), 403,
                     "can't delete the system's develop certificate")
        self.refused(self.upload("postCertificate", self.pair("mine")[0], source="plc"), 403,
                     "can't change the system's develop certificate")
        self.assertEqual(len(self.listed("plc")), 1)
        self.assertEqual(self.publish("plc"), 200)

    def test_what_cannot_be_read_is_left_out_and_what_is_no_list_is_refused(self):
        good = self.pair("good")[0]
        self.assertEqual(self.publish("mixed", ("bad.crt", "no PEM"), ("good.crt", good)), 200)
        self.assertEqual([c["name"] for c in self.listed("mixed")], ["good.crt"])
        for body in ({}, {"sourceName": "mixed"}, {"sourceName": "mixed", "certificates": {}},
                     {"sourceName": "", "certificates": []},
                     {"sourceName": "mixed", "certificates": [{"name": "x"}]},
                     {"sourceName": "mixed", "certificates": [{"name": "a\nb", "pem": good}]},
                     {"sourceName": "mixed", "certificates": [{"name": "x", "pem": good}] * 17}):
            self.assertEqual(self.tell(buspeer.CERT_PUBLISH, body).status, 400, body)
        self.assertEqual(self.tell(buspeer.CERT_PUBLISH, b"\xff").status, 400)
        self.assertEqual([c["name"] for c in self.listed("mixed")], ["good.crt"])
        self.assertEqual(self.publish("mixed"), 200)

    def test_there_is_a_limit_of_what_daemons_tell(self):
        pem = self.pair("many")[0]
        rows = [(f"{i}.crt", pem) for i in range(16)]
        for i in range(4):
            self.assertEqual(self.publish(f"many-{i}", *rows), 200)
        self.assertEqual(self.publish("many-4", rows[0]), 403)
        self.assertEqual(self.listed("many-4"), [])
        self.assertEqual(self.publish("many-3", *rows[:15]), 200)
        self.assertEqual(self.publish("many-4", rows[0]), 200)
        for i in range(5):
            self.assertEqual(self.publish(f"many-{i}"), 200)

    def facts(self):
        return self.tell(buspeer.SECURITY_FACTS).json

    def test_the_security_advisor_is_told_of_those_that_have_expired(self):
        key = pki.key()
        late = pki.issued("late", key, pki.cert("ca", key, ca=True), key, days=-1)
        self.assertEqual(self.publish("plant", ("late.crt", late), ("b.crt", self.pair("b")[0])),
                         200)
        self.assertEqual(self.facts()["expiredCertificates"], ["late.crt"])
        self.assertEqual(self.publish("plant"), 200)
        self.assertEqual(self.facts()["expiredCertificates"], [])

    # ---- keys ----

    def state(self):
        out = b""
        for d, _, files in os.walk(f"{self.fleet.state}/authd"):
            for name in files:
                with open(os.path.join(d, name), "rb") as f:
                    out += f.read()
        return out

    def test_no_byte_of_a_private_key_is_on_disk_or_comes_back(self):
        cert, key = self.pair("keep")
        line = key.split("\n")[1].encode()
        got = self.upload("postKey", key, name="keep.key")
        self.assertEqual(got.status, 200, got.body)
        self.kept("postCertificate", cert, name="keep.crt")
        answers = [got.body] + [self.call(op).body for op in ("getKeys", "getCertificates")]
        for data in answers + [self.state()]:
            self.assertNotIn(line, data)
            self.assertNotIn(b"PRIVATE KEY", data)
        self.assertEqual(set(json.loads(answers[0])["data"]),
                         {"id", "uuid", "sourceName", "name", "paired", "usable"})
        self.assertEqual(os.listdir(f"{self.fleet.run}/spool"), [])

    def test_a_key_and_its_certificate_find_each_other_in_either_order(self):
        for first, second in (("postKey", "postCertificate"), ("postCertificate", "postKey")):
            cert, key = self.pair("pair")
            pem = {"postKey": key, "postCertificate": cert}
            one = self.kept(first, pem[first])
            self.assertFalse(one.get("paired") or one.get("keyUuid"))
            two = self.kept(second, pem[second])
            cert_uuid = (one if first == "postCertificate" else two)["uuid"]
            key_uuid = (one if first == "postKey" else two)["uuid"]
            row = self.done("getCertificate", path=[cert_uuid])
            self.assertEqual(row["keyUuid"], key_uuid)
            self.assertTrue([k for k in self.done("getKeys") if k["uuid"] == key_uuid][0]["paired"])
            self.assertEqual(self.call("deleteCertificate", path=[cert_uuid]).status, 204)
            self.assertFalse([k for k in self.done("getKeys")
                              if k["uuid"] == key_uuid][0]["paired"])
            self.assertEqual(self.call("deleteKey", path=[key_uuid]).status, 204)

    def test_keys_whose_sealing_key_was_lost_are_told_as_unusable(self):
        path = f"{self.fleet.state}/authd/secrets.key"
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.kept("postKey", pki.key(), name="before.key")
        with open(path, "rb") as f:
            sealing = f.read()

        def usable():
            return {k["name"]: k["usable"] for k in self.done("getKeys")}
        self.daemon.stop()
        os.unlink(path)
        self.start_again()
        self.assertFalse(usable()["before.key"])
        self.assertEqual(self.facts()["lostKeys"], 1)
        self.assertIn("private keys cannot be opened", self.fleet.tail("authd"))
        self.kept("postKey", pki.key(), name="after.key")
        self.assertTrue(usable()["after.key"])
        # A damaged file is nobody's to replace: it may be all that is left.
        self.daemon.stop()
        with open(path, "wb") as f:
            f.write(sealing[:20])
        self.start_again()
        self.assertEqual(set(usable().values()), {False})
        self.refused(self.upload("postKey", pki.key()), 500, "secrets.key")
        self.assertEqual(os.path.getsize(path), 20)
        with open(path, "wb") as f:
            f.write(sealing)
        self.kept("postKey", pki.key(), name="again.key")  # which opens it again
        self.assertTrue(usable()["before.key"])
        self.assertFalse(usable()["after.key"])
        for k in self.done("getKeys"):
            self.call("deleteKey", path=[k["uuid"]])
        self.assertEqual(self.facts()["lostKeys"], 0)

    def test_there_is_a_limit_of_certificates_and_of_keys(self):
        def fill(operation, listing, delete, thing, make):
            mine = []
            while True:
                got = self.upload(operation, make(len(mine)))
                if got.status != 200:
                    break
                mine.append(got.json["data"]["uuid"])
            self.refused(got, 403, f"{thing} creation failed: maximum {thing} limit reached")
            self.assertEqual(len([c for c in self.done(listing) if not c.get("system")]), 128)
            for uuid in mine:
                self.assertEqual(self.call(delete, path=[uuid]).status, 204)
        key = pki.key()
        fill("postCertificate", "getCertificates", "deleteCertificate", "certificate",
             lambda n: self.pair(f"n{n}", key=key)[0])
        fill("postKey", "getKeys", "deleteKey", "key", lambda n: pki.key())

    # ---- the process dies ----

    def test_what_was_answered_is_there_after_a_kill_and_has_its_record(self):
        key = pki.key()
        done, unknown, stopping = [], [], threading.Event()

        def write():
            while not stopping.is_set() and len(done) < 100:
                name = f"kill-{next(self.n)}-.crt"
                pem = self.pair(name, key=key)[0]
                try:
                    if self.upload("postCertificate", pem, name=name).status == 200:
                        done.append(name)
                except OSError:  # it is away, or went before it answered
                    unknown.append(name)
        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(5):
            before = len(done)
            wait_for("more uploads", lambda n=before: len(done) > n + 2)
            self.kill_and_start()
        stopping.set()
        writer.join()
        self.kill_and_start()
        names = [c["name"] for c in self.done("getCertificates") if "kill-" in c["name"]]
        self.assertEqual(len(names), len(set(names)))
        self.assertLessEqual(set(done), set(names))
        self.assertLessEqual(set(names), set(done) | set(unknown))
        for name in names:
            wait_for(f"the record of {name}", lambda n=name: self.audit.named(
                "certificateImport", f" {n} "))
            self.assertEqual(len(self.audit.named("certificateImport", f" {name} ")), 1)
        recorded = len(self.audit.named("certificateImport", "Certificate kill-"))
        self.assertEqual(recorded, len(names))
        for c in self.done("getCertificates"):
            if "kill-" in c["name"]:
                self.call("deleteCertificate", path=[c["uuid"]])

    def test_who_lacks_the_permission_is_refused(self):
        cert, key = self.pair("guest")
        for operation, pem in (("postCertificate", cert), ("postKey", key)):
            self.assertEqual(self.upload(operation, pem, who=GUEST).status, 403)
        self.assertEqual(self.call("getCertificates", who=GUEST).status, 403)
        self.assertEqual(self.call("getKeys", who=GUEST).status, 403)

    def test_what_is_no_whole_form_is_refused_by_the_name_of_its_part(self):
        pem = self.pair("form")[0]
        for part, bad in (("sourceName", None), ("name", None), ("file", None),
                          ("sourceName", ""), ("name", "a\tb"), ("name", "x" * 129),
                          ("sourceName", "\u4e2d" * 129)):
            got = self.upload("postCertificate", parts={"sourceName": "tests", "name": "form.crt",
                                                        "file": pem, part: bad})
            self.refused(got, 400, part)
            self.assertEqual(got.json["error"]["details"][0]["pointer"], f"/{part}")
        self.refused(self.call("postCertificate", {"name": "x"}), 400, "a form")
        self.kept("postCertificate", pem, name="\u4e2d" * 128)


class Told(OneDaemon):
    """cloudd alone, which tells an authd that refuses, stalls and goes."""
    name = "cloudd"
    WHO = ADMIN[:3] + (1 << 5,) + ADMIN[4:]  # APP_MQTT_RW

    @classmethod
    def prepare(cls):
        cls.audit = cls.fake_auditd()
        cls.mode, cls.told = "take", []
        cls.authd = cls.stand_in("authd", cls.listen)

    @classmethod
    def listen(cls, r):
        if r.op != buspeer.CERT_PUBLISH:
            return buspeer.reply(r.id, 404)
        cls.told.append([c["name"] for c in r.json["certificates"]])
        if cls.mode == "stall":
            return None
        return buspeer.reply(r.id, 200 if cls.mode == "take" else cls.mode)

    def tearDown(self):
        type(self).mode = "take"

    def told_since(self, mark, n=1):
        wait_for("authd to be told", lambda: len(self.told) >= mark + n, 15)
        return self.told[mark:]

    def change(self):
        """Any change of a client: its certificates are told again."""
        mark = len(self.told)
        self.done("postMqttClient", {"enable": False, "server": "h", "port": 1}, who=self.WHO)
        return mark

    def test_it_tells_at_the_start_after_a_change_and_to_an_authd_that_comes_again(self):
        self.assertEqual(self.told_since(0)[0], [])
        self.told_since(self.change())
        mark = len(self.told)
        self.authd.drop()
        self.told_since(mark)

    def test_it_tells_again_what_authd_could_not_keep(self):
        for status in (500, 507):
            type(self).mode = status
            mark = self.change()
            self.told_since(mark)
            type(self).mode = "take"
            self.told_since(mark, 2)

    def test_it_tells_again_when_no_answer_comes_and_serves_meanwhile(self):
        type(self).mode = "stall"
        mark = self.change()
        self.told_since(mark)
        self.done("getMqttClients", who=self.WHO)
        type(self).mode = "take"
        self.told_since(mark, 2)

    def test_a_change_while_authd_thinks_is_told_after_the_answer(self):
        type(self).mode = "stall"
        mark = self.change()
        self.told_since(mark)
        self.change()
        type(self).mode = "take"
        self.authd.drop()
        self.told_since(mark, 2)

    def test_what_authd_refuses_for_good_is_told_at_the_next_change_only(self):
        type(self).mode = 403
        mark = self.change()
        self.told_since(mark)
        wait_for("the log", lambda: "authd does not list the certificates"
                 in self.fleet.tail("cloudd"))
        type(self).mode = "take"
        self.told_since(self.change())
        self.assertEqual(len(self.told), mark + 2)
