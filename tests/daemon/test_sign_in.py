"""Sign-ins from many addresses, which only the gateway can tell: authd is driven over the bus."""
import collections
import contextlib
import json
import unittest

import buspeer
import harness
from buspeer import Peer, request
from harness import Fleet, wait_for


class SignIn(unittest.TestCase):
    def setUp(self):
        self.fleet = Fleet(("auditd", "authd")).start()
        self.addCleanup(self.remove)
        self.peer = wait_for("authd's socket", self.connect)
        self.addCleanup(self.peer.close)

    def connect(self):
        try:
            return Peer(f"{self.fleet.run}/bus/authd.rpc", 10 * harness.SLOW)
        except OSError:
            return None

    def remove(self):
        complaints = self.fleet.stop()
        self.fleet.remove()
        self.assertEqual(complaints, [])

    def attempt(self, addr, name="nobody", password="wrong-password"):
        return request(buspeer.fnv1a("postAuth"), json.dumps({"name": name, "password": password})
                       .encode(), kind=buspeer.KIND_API, body_kind=buspeer.JSON,
                       who=(buspeer.WHO_NOBODY, 0, 0, 0, "", addr))

    def right(self, addr):
        return self.attempt(addr, "admin", harness.FIRST_PASSWORD)

    def count(self, replies):
        for r in replies:
            if r.status == 429:
                self.assertGreater(r.retry_after, 0)
        return dict(collections.Counter(r.status for r in replies))

    def test_one_address_does_not_keep_others_from_signing_in(self):
        storm = [self.attempt("192.0.2.1", f"n{i}") for i in range(20)]
        *refused, other, local = self.peer.ask(*storm, self.right("192.0.2.2"),
                                               self.right("127.0.0.1"))
        self.assertEqual(self.count(refused), {401: 4, 429: 16})
        self.assertEqual((other.status, local.status), (200, 200))

    def records(self, addr):
        with contextlib.closing(Peer(f"{self.fleet.run}/bus/auditd.rpc", 10 * harness.SLOW)) as p:
            reply, = p.ask(request(buspeer.fnv1a("getAudits"), kind=buspeer.KIND_API,
                                   who=(buspeer.WHO_USER, 1, 1, 0xFFFF, "admin", "127.0.0.1"),
                                   query=[("names", "signInFail"), ("limit", "1000")]))
        return [r["message"] for r in reply.json["data"] if r["sourceIp"] == addr]

    def test_an_address_that_fails_on_and_on_is_refused_and_recorded_in_one(self):
        ask = lambda *envelopes: self.peer.ask(*envelopes)[0]
        for i in range(30):
            self.assertEqual(ask(self.attempt("192.0.2.1", f"n{i}")).status, 401)
            self.assertEqual(ask(self.attempt("127.0.0.1", f"m{i}")).status, 401)
        for i in range(5):
            self.assertEqual(self.count([ask(self.right("192.0.2.1"))]), {429: 1})
            self.assertEqual(ask(self.attempt("127.0.0.1", f"k{i}")).status, 401)
        self.assertEqual(ask(self.right("127.0.0.1")).status, 200)
        self.assertEqual(ask(self.right("192.0.2.2")).status, 200)
        self.fleet.d["authd"].stop()  # what is untold is recorded at the latest now
        self.fleet.d["authd"].start()
        for addr in ("192.0.2.1", "127.0.0.1"):
            rows = wait_for("all records", lambda a=addr: len(self.records(a)) >= 31 and
                            self.records(a), 20)
            self.assertEqual(len(rows), 31)
            self.assertEqual([r for r in rows if r.startswith("5 more failed")],
                             ["5 more failed or refused sign-ins from this address"])

    def test_many_addresses_leave_places_for_programs_on_the_device(self):
        storm = [self.attempt(f"192.0.2.{i}", f"n{i}") for i in range(40)]
        *refused, local = self.peer.ask(*storm, self.right("127.0.0.1"))
        self.assertEqual(self.count(refused), {401: 10, 429: 30})
        self.assertEqual(local.status, 200)

    def test_programs_on_the_device_leave_places_for_others(self):
        storm = [self.attempt("127.0.0.1", f"n{i}") for i in range(40)]
        *refused, other = self.peer.ask(*storm, self.right("192.0.2.1"))
        self.assertEqual(self.count(refused), {401: 8, 429: 32})
        self.assertEqual(other.status, 200)
