"""Rights that are taken away are gone, whatever else happens at that moment."""
import json
import signal
import socket
import threading

import buspeer
import harness
from harness import Client, PASSWORD, Suite, wait_for


class Rights(Suite):
    @classmethod
    def add_user(cls, name, *permissions):
        """An account with a role of its own: (client, user id, role id)."""
        role = cls.admin.post("/roles", {"name": name, "permissions": list(permissions)}).data["id"]
        user = cls.admin.post("/users", {"name": name, "password": PASSWORD, "isActive": True,
                                         "roles": [{"id": role}]}).data["id"]
        return cls.sign_in(name), user, role

    def session_of(self, user):
        return self.admin.get(f"/sessions?userIds={user}").data[0]["id"]

    def test_a_stream_ends_when_its_account_loses_the_permission(self):
        client, _, role = self.add_user("follower", "SYS_MAINTENANCE_RW", "APP_MQTT_RW")
        stream = client.stream("/audits?monitor=true")
        self.addCleanup(stream.close)
        self.assertEqual(stream.status, 200)
        self.assert_ok(self.admin.put(f"/roles/{role}", {"permissions": ["SYS_MAINTENANCE_RW"]}))
        stream.wait_event(lambda e: "follower" in json.dumps(e))  # goes on with what is left
        mark = len(stream.events)
        self.assert_ok(self.admin.put(f"/roles/{role}", {"permissions": ["APP_MQTT_RW"]}))
        self.assert_refused(client.get("/audits?monitor=true"), 403)
        wait_for("the end of the stream", lambda: stream.ended, 5)
        self.assertEqual(stream.ended, "clean")
        self.assertLessEqual(len(stream.events), mark + 2)

    def test_a_session_that_ended_while_its_body_came_changes_nothing(self):
        client, user, _ = self.add_user("trickler", "SYS_MAINTENANCE_RW")
        body = b'{"description":"too late"}'
        with socket.create_connection(("127.0.0.1", self.fleet.http_port), 10) as s:
            s.settimeout(10 * harness.SLOW)
            s.sendall(f"PUT /api/v1/users/me HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                      f"Authorization: Bearer {client.token}\r\nExpect: 100-continue\r\n\r\n"
                      .encode())
            self.assertRegex(s.recv(4096), rb"^HTTP/1\.1 100 ")  # it was let in
            s.sendall(body[:10])
            self.assert_ok(self.admin.delete(f"/sessions/{self.session_of(user)}"), 204)
            s.sendall(body[10:])
            self.assertRegex(s.recv(4096), rb"^HTTP/1\.1 401 ")
        self.assertIsNone(self.admin.get(f"/users/{user}").data["description"])

    def test_failed_sign_ins_lock_the_account_and_leave_its_sessions_alone(self):
        client, user, _ = self.add_user("guarded", "SYS_MAINTENANCE_RW")
        rule = {"enable": True, "failWindow": 15, "failTimes": 3, "lockWindow": 10}
        self.assert_ok(self.admin.put("/auth-lock", rule))
        wrong = {"name": "guarded", "password": "wrong-password"}
        for _ in range(3):
            self.assert_refused(self.anyone.post("/auth", wrong), 401)
        self.assert_refused(self.anyone.post("/auth", {**wrong, "password": PASSWORD}), 403)
        self.assertEqual(self.admin.get("/auth-lock/users").data, [user])
        self.assert_ok(client.get("/audits?limit=1"))
        self.restart("gateway")  # which knows nobody now
        wait_for("the session", lambda: client.get("/audits?limit=1").status == 200, 5)
        self.assert_refused(client.put("/users/me/password", {
            "oldPassword": PASSWORD, "newPassword": PASSWORD + "x"}), 403)
        self.assert_ok(self.admin.put("/auth-lock", {**rule, "enable": False}))
        self.assert_ok(self.anyone.post("/auth", {**wrong, "password": PASSWORD}))

    def test_ending_sessions_tells_nothing_of_those_of_others(self):
        client, user, _ = self.add_user("prober", "APP_MQTT_RW")
        other, other_user, _ = self.add_user("probed", "APP_MQTT_RW")
        theirs, own = self.session_of(other_user), self.session_of(user)
        cached = "fieldgate_auth_cache_entries"
        self.assert_ok(other.get("/users/me"))
        before = self.metrics()[f'{cached}{{daemon="gateway"}}']
        for ids in (999999, theirs, f"{theirs},999999"):
            self.assert_ok(client.delete(f"/sessions?ids={ids}"), 204)
        self.assert_refused(client.delete(f"/sessions?userIds={other_user}"), 403)
        self.assert_ok(other.get("/users/me"))
        self.assertGreaterEqual(self.metrics()[f'{cached}{{daemon="gateway"}}'], before)
        self.assert_ok(client.delete(f"/sessions?ids={theirs},{own}"), 204)
        self.assert_refused(client.get("/users/me"), 401)
        self.assert_ok(other.get("/users/me"))
        self.assert_ok(self.admin.delete(f"/sessions?ids={theirs}"), 204)
        self.assert_refused(other.get("/users/me"), 401)

    def test_an_unknown_token_is_not_kept_waiting_for_authd(self):
        _, user, _ = self.add_user("gone", "APP_MQTT_RW")
        self.assert_ok(self.admin.delete(f"/sessions/{self.session_of(user)}"), 204)
        self.kill("authd")
        try:
            reply = self.assert_refused(Client(self.fleet, token="a.b.c").get("/audits?limit=1"), 503)
            self.assertLess(reply.took, harness.AT_ONCE)
            self.assert_ok(self.admin.get("/audits?limit=1"))  # who is known goes on
        finally:
            self.start("authd")

    def test_who_is_known_does_not_notice_that_authd_starts_again(self):
        client, done, faults = Client(self.fleet, token=self.admin.token), threading.Event(), []

        def read():
            while not done.is_set():
                reply = client.get("/tags/list")
                if reply.status != 200:
                    faults.append(reply)
        readers = [threading.Thread(target=read) for _ in range(3)]
        for t in readers:
            t.start()
        try:
            for _ in range(8):
                self.kill("authd")
                self.start("authd")
                wait_for("authd's word about tokens", lambda: Client(
                    self.fleet, token="a.b.c").get("/tags/list").status == 401)
                self.assert_ok(self.admin.get("/tags/list"))  # known again
        finally:
            done.set()
            for t in readers:
                t.join()
        self.assertEqual(faults, [])

    def test_a_change_that_the_gateway_did_not_confirm_is_told_again(self):
        client, user, _ = self.add_user("stalled", "SYS_MAINTENANCE_RW")
        self.assert_ok(client.get("/users/me"))
        session = self.session_of(user)
        gateway = self.fleet.d["gateway"].process
        authd = buspeer.Peer(f"{self.fleet.run}/bus/authd.rpc", 10 * harness.SLOW)
        gateway.send_signal(signal.SIGSTOP)
        try:
            reply, = authd.ask(buspeer.request(
                buspeer.fnv1a("deleteSession"), kind=buspeer.KIND_API, path=[str(session)],
                who=(buspeer.WHO_USER, 1, 0, 0xFFFF, "admin", "127.0.0.1")))
        finally:
            gateway.send_signal(signal.SIGCONT)
            authd.close()
        self.assertEqual(reply.status, 503)
        wait_for("the end of the session", lambda: client.get("/users/me").status == 401, 5)
        self.assert_ok(self.admin.get("/users/me"))
