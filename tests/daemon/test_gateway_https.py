"""The gateway's HTTPS front, asked over the bus in place of sysd."""
import json
import os
import socket

import buspeer
import harness
from harness import free_port, is_open, wait_for
from onedaemon import OneDaemon

PREPARED_S = 5  # what is prepared waits so long for its commit


def taken(port):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", port))
    s.listen(1)
    return s


def is_free(port):
    try:
        taken(port).close()
        return True
    except OSError:
        return False


class Https(OneDaemon):
    name = "gateway"

    def apply(self, step, **members):
        got = self.tell(buspeer.HTTP_APPLY, {"step": step, **members})
        return got.status, json.loads(got.body or b"{}")

    def state(self):
        status, state = self.apply("show")
        self.assertEqual(status, 200)
        return state

    def made_ready(self, port, redirect=True, **more):
        status, got = self.apply("prepare", httpsPort=port, redirectToHttps=redirect,
                                 **{"pair": "", **more})
        self.assertEqual(status, 200, got)
        return got

    def put(self, port, redirect=True, **more):
        status, state = self.apply("commit", id=self.made_ready(port, redirect, **more)["id"])
        self.assertEqual(status, 200, state)
        self.assertEqual((state["httpsPort"], state["redirectToHttps"], state["fault"]),
                         (port, redirect, ""))
        return state

    def test_the_state_names_what_the_options_said(self):
        state = self.state()
        self.assertEqual(state["defaultPort"], self.fleet.https_port)
        self.assertEqual(state["httpPort"], self.fleet.redirect_port)
        self.assertTrue(is_open(state["httpsPort"]))

    def test_what_is_prepared_is_not_in_force_until_it_is_committed(self):
        old, port = self.state()["httpsPort"], free_port()
        was = self.made_ready(port)
        self.assertFalse(is_free(port))
        self.assertTrue(is_open(old))
        self.assertEqual(self.apply("commit", id=was["id"] + 1)[0], 404)
        status, state = self.apply("commit", id=was["id"])
        self.assertEqual((status, state["httpsPort"]), (200, port))
        self.assertEqual((is_open(port), is_open(old)), (True, False))
        self.assertEqual(self.apply("commit", id=was["id"])[0], 404)

    def test_the_security_advisor_is_told_the_ports_in_force(self):
        for redirect in (True, False, True):
            port = self.put(free_port(), redirect)["httpsPort"]
            facts = json.loads(self.tell(buspeer.SECURITY_FACTS, {}).body)
            self.assertEqual((facts["httpsPort"], facts["redirectPort"]),
                             (port, self.fleet.redirect_port if redirect else 0))

    def test_what_is_not_committed_goes_by_itself(self):
        old, port = self.state()["httpsPort"], free_port()
        was = self.made_ready(port)
        wait_for("the port to be free", lambda: is_free(port), PREPARED_S + 2)
        self.assertEqual(self.apply("commit", id=was["id"])[0], 404)
        self.assertEqual(self.state()["httpsPort"], old)
        self.assertTrue(is_open(old))

    def test_another_preparation_or_a_look_drops_the_first(self):
        one, other = free_port(), free_port()
        first = self.made_ready(one)
        second = self.made_ready(other)
        self.assertTrue(is_free(one))
        self.assertEqual(self.apply("commit", id=first["id"])[0], 404)
        self.state()
        self.assertTrue(is_free(other))
        self.assertEqual(self.apply("commit", id=second["id"])[0], 404)

    def test_a_death_before_the_commit_leaves_the_old_setting(self):
        self.put(free_port(), certFileName="plant.crt")
        old, port = self.state()["httpsPort"], free_port()
        self.made_ready(port)
        self.kill_and_start()
        state = self.state()
        self.assertEqual((state["httpsPort"], state["certFileName"]), (old, "plant.crt"))
        self.assertEqual((is_open(old), is_open(port)), (True, False))

    def test_at_the_start_it_goes_back_to_the_last_good_one_and_then_to_the_options(self):
        one, two = free_port(), free_port()
        self.put(one)
        self.put(two)
        self.daemon.kill()
        with taken(two):
            self.start_again()
            state = self.state()
            self.assertEqual(state["httpsPort"], one)
            self.assertEqual(state["fault"], f"port {two} is in use")
            self.daemon.kill()
            with taken(one):
                self.start_again()
                state = self.state()
                self.assertEqual(state["httpsPort"], self.fleet.https_port)
                self.assertEqual(state["fault"], f"port {two} is in use")
                status, got = self.apply("prepare", httpsPort=two, redirectToHttps=True, pair="")
                self.assertEqual((status, got["pointer"]), (400, "/httpsPort"))
        self.put(two)

    def test_a_redirect_that_cannot_be_costs_only_itself(self):
        port = self.put(free_port())["httpsPort"]
        self.daemon.kill()
        with taken(self.fleet.redirect_port):
            self.start_again()
            state = self.state()
            self.assertEqual((state["httpsPort"], state["redirectToHttps"]), (port, False))
            self.assertIn(f"port {self.fleet.redirect_port} is in use", state["fault"])
        self.put(port)

    def test_files_cut_short_or_empty_are_passed_over(self):
        port = self.put(free_port())["httpsPort"]
        self.put(free_port())
        for name in ("https.conf", "https.last"):
            path = f"{self.fleet.state}/gateway/{name}"
            with open(path, "rb") as f:
                whole = f.read()
            for damage in (b"", whole[:-1], whole + b"x", whole * 40):
                self.daemon.kill()
                with open(path, "wb") as f:
                    f.write(damage)
                self.start_again()
                state = self.state()
                self.assertEqual(state["httpsPort"],
                                 port if name == "https.conf" else self.fleet.https_port)
                self.assertIn("https.conf is damaged", state["fault"])

    def test_a_death_between_the_two_names_of_a_commit_leaves_the_old_setting(self):
        port = self.put(free_port())["httpsPort"]
        self.daemon.kill()
        path = f"{self.fleet.state}/gateway/https."
        os.rename(path + "conf", path + "last")
        self.start_again()
        state = self.state()
        self.assertEqual((state["httpsPort"], state["fault"]), (port, ""))
        self.put(free_port())

    def test_no_request_that_makes_no_sense_changes_anything(self):
        before = self.state()
        good = {"httpsPort": free_port(), "redirectToHttps": True, "pair": ""}
        for bad in ({"httpsPort": 0}, {"httpsPort": 65536}, {"httpsPort": "x"}, {"httpsPort": None},
                    {"redirectToHttps": 1}, {"redirectToHttps": None}, {"pair": None},
                    {"certFileName": 5}, {"certFileName": "x" * 256},
                    {"pair": "../../etc/passwd"}, {"pair": "0" * 32}, {"pair": "x" * 32},
                    {"cert": "", "key": ""}, {"cert": "x" * 300000}):
            status, _ = self.apply("prepare", **{**good, **bad})
            self.assertEqual(status, 400, bad)
            self.assertTrue(is_free(good["httpsPort"]))
        for body in (b"", b"{", b"[]", b"5", b'{"step":5}', b'{"step":"jump"}', b'{"step":"commit"}',
                     b'{"step":"commit","id":-1}', os.urandom(100)):
            got = self.tell(buspeer.HTTP_APPLY, body, body_kind=buspeer.JSON)
            self.assertEqual(got.status, 400, body)
        self.assertEqual(self.state(), before)
        self.alive()

    def test_without_a_plain_port_there_is_no_redirect(self):
        fleet = harness.Fleet(("gateway",), options={"gateway": ["--set", "redirect-port=0"]})
        try:
            fleet.start()
            path = f"{fleet.run}/bus/gateway.rpc"
            wait_for("the gateway", lambda: buspeer.is_served(path) and is_open(fleet.https_port))
            peer = buspeer.Peer(path)
            ask = lambda body: peer.ask(buspeer.request(buspeer.HTTP_APPLY, body))[0]
            self.assertEqual(ask({"step": "show"}).json["httpPort"], 0)
            self.assertFalse(ask({"step": "show"}).json["redirectToHttps"])
            got = ask({"step": "prepare", "httpsPort": free_port(), "redirectToHttps": True,
                       "pair": ""})
            self.assertEqual((got.status, got.json["pointer"]), (400, "/redirectToHttps"))
            peer.close()
        finally:
            complaints = fleet.stop()
            fleet.remove()
        self.assertEqual(complaints, [])
