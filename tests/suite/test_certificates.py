"""Certificates and private keys as a client sees them: uploaded as curl does,
refused with the reason, downloaded as they were; and the one of the front door
itself, which is listed with them.
"""
import calendar
import itertools
import json
import os
import ssl
import subprocess
import tempfile
import time
import uuid

import harness
import pki
from harness import ShiftedClock, SmallDisk, Suite, wait_for

PRIVATE_MOUNTS = True  # for FullDisk

TEST_SECONDS = 180
DAY = 24 * 3600


def seconds(text):
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


class Certificates(Suite):
    daemons = ("auditd", "authd", "cloudd", "gateway")
    n = itertools.count(1)

    def upload(self, path, pem, name=None, source="tests", client=None):
        name = name or f"file-{next(self.n)}.pem"
        return (client or self.admin).form("POST", f"/secrets/{path}", sourceName=source,
                                           name=name, file=(name, pem))

    def kept(self, path, pem, **more):
        return self.assert_ok(self.upload(path, pem, **more)).data

    def row(self, uuid_):
        return self.assert_ok(self.admin.get(f"/secrets/certificates/{uuid_}")).data

    def rows(self, source="tests"):
        reply = self.assert_ok(self.admin.get("/secrets/certificates"))
        self.assertEqual(reply.json["count"], len(reply.data))
        return [c for c in reply.data if c["sourceName"] == source]

    def curl(self, *argv):
        done = subprocess.run(
            ["curl", "-sS", "-k", "-H", f"Authorization: Bearer {self.admin.token}", *argv],
            check=True, capture_output=True)
        return done.stdout

    def url(self, path):
        return f"https://127.0.0.1:{self.fleet.https_port}/api/v1/secrets/{path}"

    # ---- what is kept ----

    def test_an_uploaded_certificate_is_listed_and_comes_back_as_the_same_file(self):
        pem = "# written by hand\n" + pki.cert("gw-1", pki.key(), ca=True)
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "ca.crt")
            with open(path, "w", encoding="ascii") as f:
                f.write(pem)
            made = json.loads(self.curl("-F", "sourceName=mqtt-1", "-F", "name=ca.crt", "-F",
                                        f"file=@{path}", self.url("certificates")))["data"]
            self.assertEqual(uuid.UUID(made["uuid"]).version, 4)
            self.assertEqual(self.rows("mqtt-1"), [made])
            self.assertEqual(self.row(made["uuid"]), made)
            self.assertEqual((made["name"], made["rootCA"], made["status"], made["system"],
                              made["keyUuid"]), ("ca.crt", True, "valid", False, ""))
            self.assertEqual(made["subjectNames"], {
                "country": ["TW"], "state": ["Taipei"], "locality": ["Neihu"],
                "organization": ["Fieldgate"], "commonName": "gw-1", "issuer": "gw-1"})
            end = pki.openssl("x509", "-in", "@pem", "-noout", "-enddate", "-dateopt",
                              "iso_8601", pem=pem)
            self.assertEqual(end.split("=")[1].strip().replace(" ", "T"), made["expiredAt"])
            back, head = os.path.join(d, "back"), os.path.join(d, "head")
            self.curl("-o", back, "-D", head,
                      self.url(f"certificates/{made['uuid']}?download=true"))
            with open(back, encoding="ascii") as f:
                self.assertEqual(f.read(), pem)
            with open(head, encoding="ascii") as f:
                text = f.read()
            self.assertIn("application/pem-certificate-chain", text)
            self.assertIn('filename="ca.crt"', text)
            self.assertIn("CN = gw-1", subprocess.run(
                ["openssl", "x509", "-in", back, "-noout", "-subject"], check=True,
                capture_output=True, text=True).stdout)
        self.assert_audited("certificateImport", "ca.crt of mqtt-1", count=1)
        self.restart("authd")
        self.assertEqual(self.row(made["uuid"]), made)
        self.assert_ok(self.admin.delete(f"/secrets/certificates/{made['uuid']}"), 204)
        self.assertEqual(self.rows("mqtt-1"), [])
        self.assert_audited("certificateDelete", "ca.crt of mqtt-1", count=1)
        again = self.kept("certificates", pem, source="mqtt-1", name="ca.crt")
        self.assertGreater(again["id"], made["id"])
        self.assertNotEqual(again["uuid"], made["uuid"])

    def test_a_chain_is_kept_in_order_and_is_that_of_its_first_certificate(self):
        ca_key, key = pki.key(*pki.rsa(2048)), pki.key("-algorithm", "ED25519")
        ca = pki.cert("plant CA", ca_key, ca=True, digest="sha1")  # its own: nothing rests on it
        leaf = pki.issued("gw-2", key, ca, ca_key)
        row = self.kept("certificates", leaf + ca)
        self.assertEqual((row["rootCA"], row["subjectNames"]["commonName"],
                          row["subjectNames"]["issuer"]), (False, "gw-2", "plant CA"))
        reply = self.admin.get(f"/secrets/certificates/{row['uuid']}?download=true")
        self.assertEqual(reply.body.decode(), leaf + ca)
        self.assert_refused(self.upload("certificates", ca + leaf), 400, "/file",
                            "certificate 1 was not issued by certificate 2")

    def test_keys_of_every_kind_pair_with_their_certificates(self):
        for options in (pki.EC, pki.rsa(2048), pki.rsa(3072), ("-algorithm", "ED25519"),
                        ("-algorithm", "ED448"), ("-algorithm", "EC", "-pkeyopt",
                                                  "ec_paramgen_curve:P-384")):
            key = pki.key(*options)
            row = self.kept("certificates", pki.cert("pair", key))
            made = self.kept("keys", key)
            self.assertTrue(made["paired"] and made["usable"])
            self.assertEqual(self.row(row["uuid"])["keyUuid"], made["uuid"])
            self.assert_ok(self.admin.delete(f"/secrets/keys/{made['uuid']}"), 204)
            self.assertEqual(self.row(row["uuid"])["keyUuid"], "")
        self.assert_audited("keyImport", count=6)
        self.assert_audited("keyDelete", count=6)

    # ---- what is refused ----

    def test_each_fault_of_a_certificate_is_told(self):
        key = pki.key()
        ca_key = pki.key(*pki.rsa(2048))
        ca = pki.cert("CA", ca_key, ca=True)
        good = pki.cert("good", key)
        before = self.rows()
        for pem, reason in (
                ("", "is empty"),
                ("hello", "no certificate in the file"),
                (good[:-40], "cut off or damaged"),
                (good + "junk", "something follows"),
                (good + key, "a private key is in the certificate file"),
                (key, "a private key is in the certificate file"),
                (good + good.replace("MII", "AAA"), "no X.509 certificate"),
                (ca * 9, "more than 8 certificates"),
                ("x" * 65537, "more than 65536 bytes"),
                (pki.cert("w", pki.key(*pki.rsa(1024))), "1024 bits"),
                (pki.cert("w", pki.key("-algorithm", "EC", "-pkeyopt",
                                       "ec_paramgen_curve:prime192v1")), "192 bits"),
                (pki.cert("w", pki.key(*pki.EC, "-pkeyopt", "ec_param_enc:explicit")),
                 "no named curve"),
                (pki.issued("w", key, ca, ca_key, digest="sha1"), "sha1WithRSAEncryption"),
                (pki.issued("w", key, ca, ca_key, digest="md5"), "md5WithRSAEncryption"),
                (good + ca, "was not issued by")):
            self.assert_refused(self.upload("certificates", pem), 400, "/file",
                                "invalid certificate content: ")
            self.assert_refused(self.upload("certificates", pem), 400, "/file", reason)
        self.assertEqual(self.rows(), before)

    def test_each_fault_of_a_key_is_told(self):
        key = pki.key()
        parameters = pki.openssl("genpkey", "-genparam", "-algorithm", "DSA", "-pkeyopt",
                                 "dsa_paramgen_bits:1024")
        dsa = pki.openssl("genpkey", "-paramfile", "@parameters", parameters=parameters)
        for pem, reason in (
                ("", "is empty"), ("hello", "no private key"), (key + key, "more than one key"),
                (key + "junk", "something follows"), (key[:-30], "cut off or damaged"),
                (pki.cert("x", key), "holds a CERTIFICATE"),
                (pki.key(*pki.rsa(1024)), "1024 bits"), (dsa, "DSA"),
                (pki.key("-algorithm", "X25519"), "is not RSA, elliptic curve or Ed25519"),
                (pki.openssl("pkcs8", "-topk8", "-in", "@key", "-passout", "pass:secret",
                             key=key), "the key is encrypted"),
                (pki.openssl("ec", "-in", "@key", "-aes128", "-passout", "pass:secret",
                             key=key), "the key is encrypted")):
            self.assert_refused(self.upload("keys", pem), 400, "/file", reason)
        self.assertEqual(self.admin.get("/secrets/keys").json["count"], 0)

    def test_what_exists_is_not_taken_twice(self):
        key, other = pki.key(), pki.key()
        pem = pki.cert("once", key)
        self.kept("certificates", pem, name="once.crt")
        self.assert_refused(self.upload("certificates", pem), 409, "/file", "certificate exists")
        self.assert_refused(self.upload("certificates", pki.cert("more", key), name="once.crt"),
                            409, "/name", "certificate exists")
        self.kept("certificates", pki.cert("more", key), name="once.crt", source="elsewhere")
        made = self.kept("keys", key, name="once.key")
        self.assert_refused(self.upload("keys", key), 409, "/file", "key exists")
        self.assert_refused(self.upload("keys", other, name="once.key"), 409, "/name",
                            "key exists")
        self.assert_ok(self.admin.delete(f"/secrets/keys/{made['uuid']}"), 204)

    def test_what_is_not_there_is_said_so(self):
        nobody = uuid.uuid4()
        for path, text in (("certificates", "certificate not found"), ("keys", "key not found")):
            self.assert_refused(self.admin.delete(f"/secrets/{path}/{nobody}"), 404, "/uuid",
                                text)
            self.assert_refused(self.admin.delete(f"/secrets/{path}/7"), 400, "/uuid",
                                "UUID is required")
        for query in ("", "?download=true"):
            self.assert_refused(self.admin.get(f"/secrets/certificates/{nobody}{query}"), 404,
                                "/uuid", "certificate not found")
        self.assert_refused(self.admin.get("/secrets/certificates/x"), 400, "/uuid",
                            "UUID is required")
        self.assert_refused(self.admin.post("/secrets/certificates", {"name": "x"}), 400)
        self.assert_refused(self.upload("certificates", "x" * 200000), 413)
        self.assert_refused(self.anyone.get("/secrets/keys"), 401)

    # ---- the front door's own ----

    def front_row(self):
        rows = self.rows("httpserver")
        return rows[0] if len(rows) == 1 else None

    def served(self):
        return ssl.get_server_certificate(("127.0.0.1", self.fleet.https_port))

    def test_the_certificate_of_the_front_door_is_listed_and_follows_its_change(self):
        row = wait_for("the front door's certificate", self.front_row)
        self.assertEqual((row["name"], row["system"], row["rootCA"], row["status"]),
                         ("thingspro_https_default.crt", True, False, "valid"))
        path = f"/secrets/certificates/{row['uuid']}"
        pem = self.admin.get(f"{path}?download=true").body.decode()
        self.assertEqual(ssl.PEM_cert_to_DER_cert(pem),
                         ssl.PEM_cert_to_DER_cert(self.served()))
        self.assert_refused(self.admin.delete(path), 403, "/uuid",
                            "can't delete the system's develop certificate")
        self.assert_refused(self.upload("certificates", pki.cert("mine", pki.key()),
                                        source="httpserver"), 403, "/sourceName",
                            "can't change the system's develop certificate")
        # authd and the gateway come and go: it stays the same one
        self.kill("authd")
        self.start("authd")
        self.restart("gateway")
        wait_for("the same row", lambda: self.front_row() == row)
        # and another takes its place while all run
        key = pki.key()
        ca = pki.cert("CA", key, ca=True)
        leaf_key = pki.key()
        fresh = pki.issued("renewed", leaf_key, ca, key) + ca
        files = os.path.join(self.fleet.state, "gateway", "thingspro_https_default")
        for ending, text in ((".key", leaf_key), (".crt", fresh)):
            with open(files + ending, "w", encoding="ascii") as f:
                f.write(text)
        row = wait_for("the new one", lambda: (self.front_row() or row)["uuid"] != row["uuid"]
                       and self.front_row())
        self.assertEqual(row["subjectNames"]["commonName"], "renewed")
        pem = self.admin.get(f"/secrets/certificates/{row['uuid']}?download=true").body.decode()
        self.assertEqual(pem, fresh)

    def test_the_gateway_starts_without_authd_and_tells_it_later(self):
        row = wait_for("the front door's certificate", self.front_row)
        self.kill("gateway")
        self.kill("authd")
        self.fleet.d["gateway"].start()
        wait_for("the listener", self.listens)
        self.start("authd")
        wait_for("the row", lambda: self.front_row() == row)

    def test_certificates_of_mqtt_clients_are_listed_and_keys_with_them_are_not(self):
        client = self.add_mqtt(1, enable=False)
        key = pki.key()
        pem = pki.cert("gw-mqtt", key)
        self.assert_ok(self.admin.form("PUT", f"/mqtt/{client}", caCertFile=("c.crt", pem),
                                       caPkFile=("c.key", key), rootCaCertFile=("r.crt", pem)))
        row, = wait_for("the client's certificate", lambda: self.rows("mqtt"))
        self.assertEqual((row["name"], row["system"], row["subjectNames"]["commonName"]),
                         (f"mqtt-{client}.crt", True, "gw-mqtt"))
        self.assert_ok(self.admin.form("PUT", f"/mqtt/{client}", caCertFile=("c.crt", pem + key)))
        wait_for("the mixed file to be left out", lambda: not self.rows("mqtt"))
        self.assert_ok(self.admin.form("PUT", f"/mqtt/{client}", caCertFile=("c.crt", pem)))
        wait_for("the certificate", lambda: self.rows("mqtt"))
        self.assert_ok(self.admin.delete(f"/mqtt/{client}"))
        wait_for("its end", lambda: not self.rows("mqtt"))

    def test_a_key_that_an_mqtt_client_cannot_sign_with_is_refused(self):
        client = self.add_mqtt(1, enable=False)
        key, slow = pki.key(), pki.key(*pki.rsa(2048), "-pkeyopt", "rsa_keygen_primes:3")
        pem = pki.cert("gw-mqtt", key)
        put = lambda **files: self.admin.form("PUT", f"/mqtt/{client}", **files)
        # also where paho looks for it when there is no other file
        for part, text in (("caPkFile", slow), ("caPkFile", pem + slow),
                           ("caCertFile", pem + slow), ("caCertFile", slow + pem)):
            self.assert_refused(put(**{part: ("k.pem", text)}), 400, f"/{part}",
                                "more than two primes")
        self.assert_refused(put(caPkFile=("k.pem", key.replace("\n", "\n!", 1))), 400, "/caPkFile",
                            "invalid key content")
        names = self.admin.get(f"/mqtt/{client}").data["certificate"]
        self.assertEqual(set(names.values()), {""})
        self.assert_ok(put(caPkFile=("k.pem", pem + key), caCertFile=("c.pem", pem + key)))
        self.assert_ok(self.admin.delete(f"/mqtt/{client}"))

    def listens(self):
        try:
            return self.served()
        except OSError:
            return False


class FullDisk(SmallDisk, Suite):
    daemons = ("auditd", "authd", "gateway")

    def test_on_a_full_disk_certificates_and_keys_are_kept_whole_or_not_at_all(self):
        self.kill("auditd")  # so that records stay in authd's store
        self.fill()
        kept, refused = set(), 0
        for n in range(150):
            key = pki.key()
            for path, text in (("/secrets/keys", key), ("/secrets/certificates", pki.cert(f"c{n}", key))):
                reply = self.admin.form("POST", path, sourceName="full", name=f"n{n}", file=text)
                if reply.status == 200:
                    kept.add((path, reply.data["uuid"]))
                else:
                    self.assert_refused(reply, 507)
                    refused += 1
            if refused > 5:
                break
        self.assertGreater(refused, 5)
        self.kill("authd")
        os.unlink(self.big)
        for name in ("auditd", "authd"):
            self.fleet.d[name].start()
        self.wait_daemons(["authd", "auditd"])
        listed = {(path, one["uuid"]) for path in ("/secrets/keys", "/secrets/certificates")
                  for one in self.admin.get(path).data if one["sourceName"] == "full"}
        self.assertEqual(listed, kept)
        wait_for("a record of each", lambda: len(kept) == len(
            self.audits(names="keyImport,certificateImport", limit=1000)))


class Expiry(ShiftedClock, Suite):
    """Certificates that come to their end while authd's clock is moved."""

    daemons = ("auditd", "authd", "gateway")
    shifted_daemons = ("authd",)

    def at(self, days):
        """authd starts with the clock that many days ahead."""
        self.fleet.d["authd"].stop()
        self.shift(days * DAY)
        self.fleet.d["authd"].start()
        type(self).admin = wait_for("a sign-in", self.try_sign_in)

    def try_sign_in(self):
        reply = self.anyone.post("/auth", {"name": "admin", "password": harness.PASSWORD})
        return reply.status == 200 and self.anyone.with_token(reply.data["token"])

    def told(self):
        """Counts of both events for the certificate of the test."""
        return [len([r for r in self.audits(names=name) if "watched.crt" in r["message"]])
                for name in ("certificateExpiring", "certificateExpired")]

    def status(self, cn):
        return next(c["status"] for c in self.admin.get("/secrets/certificates").data
                    if c["subjectNames"]["commonName"] == cn)

    def upload(self, cn, days, name):
        return self.admin.form("POST", "/secrets/certificates", sourceName="tests", name=name,
                               file=(name, pki.cert(cn, pki.key(), days=days)))

    def test_1_the_end_is_told_once_each_whatever_restarts_and_whatever_the_clock_does(self):
        self.assert_ok(self.upload("watched", 40, "watched.crt"))
        for days, status, expected in (
                (5, "valid", [0, 0]), (15, "expiring", [1, 0]), (16, "expiring", [1, 0]),
                (-20000, "valid", [1, 0]),  # 1971: the time is not known yet
                (16, "expiring", [1, 0]), (41, "expired", [1, 1]), (45, "expired", [1, 1])):
            self.at(days)
            self.assertEqual(self.status("watched"), status, days)
            wait_for(f"{expected} after {days} days", lambda e=expected: self.told() == e)
        self.at(0)  # the clock was wrong: the true end is told
        self.assertEqual(self.status("watched"), "valid")
        self.at(15)
        wait_for("the true one", lambda: self.told() == [2, 1])

    def test_2_one_that_has_not_long_to_go_is_told_when_it_comes(self):
        self.at(0)
        self.assert_ok(self.upload("short", 7, "short.crt"))
        self.assertEqual(self.status("short"), "expiring")
        self.assert_audited("certificateExpiring", "short.crt of tests", source="authd", count=1)

    def test_3_one_that_is_out_of_date_is_refused_and_told_what_the_clock_says(self):
        pem, names = pki.cert("early", pki.key(), days=40), {"sourceName": "t", "name": "early"}
        self.at(-20000)
        self.assert_refused(self.admin.form("POST", "/secrets/certificates", file=pem, **names),
                            400, "/file", "the device's clock says 197")
        self.at(50)
        self.assert_refused(self.admin.form("POST", "/secrets/certificates", file=pem, **names),
                            400, "/file",
                            "certificate is out of date (certificate 1: expired at ")
        self.at(0)
        self.assert_ok(self.admin.form("POST", "/secrets/certificates", file=pem, **names))
