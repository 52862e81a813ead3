"""Programs that come with a token of their own, through everything."""
import collections
import os
import threading
import time

import buspeer
import harness
from harness import Client, PASSWORD, SmallDisk, Suite, Unanswered, wait_for

PRIVATE_MOUNTS = True  # for FullDisk
ALL_RIGHTS = 0x3FF


class Services(Suite):
    daemons = ("auditd", "authd", "tagd", "cloudd", "gateway")

    def make(self, name, *required, addon=()):
        reply = self.assert_ok(self.admin.post("/azure-iotedge/services", {
            "name": name, "displayName": f"The {name}", "source": "AzureIoTEdge",
            "required": list(required), "addon": [{"id": a, "name": a} for a in addon]}))
        self.addCleanup(self.admin.delete, f"/azure-iotedge/services/{name}")
        return self.anyone.with_token(reply.data["token"])

    def delete(self, name):
        return self.admin.delete(f"/azure-iotedge/services/{name}")

    def test_a_service_account_may_what_it_holds_and_no_more(self):
        app = self.make("exact", "APP_MQTT_RW", "SYS_MANAGEMENT_RW")
        self.assert_ok(app.get("/mqtt"))
        self.assert_ok(app.get("/tags/list"))
        self.assert_ok(app.get("/auth"))
        for path in ("/audits", "/users", "/roles", "/azure-iotedge/services",
                     "/sessions/configuration"):
            self.assert_refused(app.get(path), 403, word="permission denied")
        self.assert_ok(app.with_token(app.token, carrier="mx-api-token").get("/mqtt"))

    def test_what_only_a_person_has_is_refused_with_a_reason(self):
        app = self.make("robot", "APP_MQTT_RW")
        for method, path, body in (("GET", "/users/me", None), ("PUT", "/users/me", {}),
                                   ("PUT", "/users/me/password", {"newPassword": PASSWORD}),
                                   ("DELETE", "/auth", None), ("PUT", "/auth/websocket-token", None)):
            self.assert_refused(app.request(method, path, body), 403)
        self.assertEqual(self.assert_ok(app.get("/sessions")).data, [])
        self.assert_ok(app.get("/mqtt"))

    def test_its_changes_and_its_refused_requests_are_recorded_as_its_own(self):
        app = self.make("recorded", "APP_MQTT_RW")
        self.assert_ok(app.post("/mqtt", {"server": "by-recorded", "port": 1, "enable": False}))
        row, = self.assert_audited("mqttClientUpdate", containing="by-recorded",
                                   source="AzureIoTEdge/recorded", count=1)
        self.assertEqual(row["sourceIp"], "127.0.0.1")
        self.assert_refused(app.get("/audits"), 403)
        self.assert_audited("accessRefused", source="AzureIoTEdge/recorded", timeout=20)
        for event in ("serviceAccountCreate",):
            self.assert_audited(event, containing="recorded", count=1)

    def test_a_change_holds_from_the_next_request_on(self):
        app = self.make("changed", "APP_MQTT_RW")
        for _ in range(10):
            self.assert_ok(app.get("/mqtt"))
            self.assert_ok(self.admin.put("/azure-iotedge/services/changed",
                                          {"required": ["SYS_MANAGEMENT_RW"]}))
            self.assert_refused(app.get("/mqtt"), 403)
            self.assert_ok(app.get("/tags/list"))
            self.assert_ok(self.admin.put("/azure-iotedge/services/changed",
                                          {"required": ["APP_MQTT_RW"]}))
        self.assert_audited("serviceAccountUpdate", containing="changed", count=20)

    def test_a_caller_gives_only_what_he_holds(self):
        role = self.assert_ok(self.admin.post("/roles", {
            "name": "installers", "permissions": ["APP_AIE_RW", "APP_MQTT_RW"]})).data["id"]
        self.assert_ok(self.admin.post("/users", {"name": "installer", "password": PASSWORD,
                                                  "isActive": True, "roles": [{"id": role}]}))
        client = self.sign_in("installer")
        reply = client.post("/azure-iotedge/services", {"name": "big",
                                                        "required": ["SYS_ACCOUNT_RW"]})
        self.assert_refused(reply, 403, pointer="/required/0")
        small = self.assert_ok(client.post("/azure-iotedge/services", {
            "name": "small", "required": ["APP_MQTT_RW", "APP_SMALL_RW"],
            "addon": [{"id": "APP_SMALL_RW"}]})).data
        self.assertEqual(small["required"], ["APP_MQTT_RW", "APP_SMALL_RW"])
        self.assert_refused(client.put("/azure-iotedge/services/small",
                                       {"required": ["SYS_ACCOUNT_RW"]}), 403, pointer="/required/0")
        self.assert_ok(self.delete("small"), 204)
        self.assert_refused(self.anyone.with_token(small["token"]).get("/mqtt"), 401)

    # ---- its end ----

    def test_a_deleted_account_is_refused_at_once_under_load_of_eight_clients(self):
        for n in range(3):
            app = self.make(f"loaded{n}", "APP_MQTT_RW")
            done, ends, faults = threading.Event(), [None], []
            counts = [0] * 8

            def ask(i, token=app.token, done=done, ends=ends, faults=faults, counts=counts):
                client = Client(self.fleet, token=token)
                while not done.is_set():
                    began = time.monotonic()
                    reply = client.get("/mqtt")
                    counts[i] += 1
                    if reply.status not in (200, 401) or \
                            (reply.status == 200 and ends[0] and began > ends[0]):
                        faults.append((reply, began, ends[0]))
            threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
            for t in threads:
                t.start()
            try:
                wait_for("load", lambda c=counts: min(c) > 20)
                self.assert_ok(self.delete(f"loaded{n}"), 204)
                ends[0] = time.monotonic()
                mark = list(counts)
                wait_for("load after it", lambda c=counts, m=mark:
                         all(a > b + 10 for a, b in zip(c, m)))
            finally:
                done.set()
                for t in threads:
                    t.join()
            self.assertEqual(faults, [])
        self.assert_audited("serviceAccountDelete", containing="loaded", count=3)

    def test_a_stream_ends_with_the_account_or_its_permission(self):
        app, other = self.make("streamer", "SYS_MAINTENANCE_RW"), \
            self.make("bystander", "SYS_MAINTENANCE_RW")
        kept = other.stream("/audits?monitor=true")
        self.addCleanup(kept.close)
        for change in (lambda: self.assert_ok(self.admin.put(
                "/azure-iotedge/services/streamer", {"required": []})),
                       lambda: self.assert_ok(self.delete("streamer"), 204)):
            self.assert_ok(self.admin.put("/azure-iotedge/services/streamer",
                                          {"required": ["SYS_MAINTENANCE_RW"]}))
            stream = app.stream("/audits?monitor=true")
            self.addCleanup(stream.close)
            self.assertEqual(stream.status, 200)
            change()
            wait_for("the end of the stream", lambda s=stream: s.ended, 5)
            self.assertEqual(stream.ended, "clean")
        self.assertIsNone(kept.ended)

    def test_a_token_outlives_every_restart_and_its_end_does_too(self):
        app, gone = self.make("lasting", "APP_MQTT_RW"), self.make("ending", "APP_MQTT_RW")
        for name in ("authd", "gateway"):
            self.assert_ok(app.get("/mqtt"))
            self.kill(name)
            self.start(name)
            wait_for("the token", lambda: app.get("/mqtt").status == 200)
        self.assert_ok(gone.get("/mqtt"))
        self.assert_ok(self.delete("ending"), 204)
        for name in ("authd", "gateway", "authd"):
            self.assert_refused(gone.get("/mqtt"), 401)
            self.kill(name)
            self.start(name)
            wait_for("authd's word", lambda: app.get("/mqtt").status == 200
                     and gone.get("/mqtt").status == 401)

    def test_who_is_known_goes_on_while_authd_is_away(self):
        app = self.make("known", "APP_MQTT_RW")
        self.assert_ok(app.get("/mqtt"))
        self.kill("authd")
        try:
            for _ in range(20):
                self.assert_ok(app.get("/mqtt"))
        finally:
            self.start("authd")

    def test_an_end_that_the_gateway_was_not_there_to_hear_holds_when_it_is_back(self):
        app = self.make("unheard", "APP_MQTT_RW")
        self.assert_ok(app.get("/mqtt"))
        authd = buspeer.Peer(f"{self.fleet.run}/bus/authd.rpc", 10 * harness.SLOW)
        self.addCleanup(authd.close)
        self.kill("gateway")
        try:
            reply, = authd.ask(buspeer.request(
                buspeer.fnv1a("deleteAzureIotedgeService"), kind=buspeer.KIND_API,
                path=["unheard"], who=(buspeer.WHO_USER, 1, 0, ALL_RIGHTS, "admin", "127.0.0.1")))
            self.assertEqual(reply.status, 503)  # done, but nobody confirmed it
        finally:
            self.start("gateway")
        wait_for("the session", lambda: self.admin.get("/mqtt").status == 200)
        self.assert_refused(app.get("/mqtt"), 401)

    def test_an_end_that_was_answered_holds_whoever_is_killed_next(self):
        """authd or the gateway dies while deletions are under way."""
        for victim in ("authd", "gateway"):
            apps = {f"{victim}-{i}": self.make(f"{victim}-{i}", "APP_MQTT_RW") for i in range(8)}
            for app in apps.values():
                self.assert_ok(app.get("/mqtt"))
            answered, begun = [], threading.Semaphore(0)

            def end(name, answered=answered, begun=begun):
                try:
                    begun.release()
                    if self.delete(name).status == 204:
                        answered.append(name)
                except Unanswered:
                    pass
            threads = [threading.Thread(target=end, args=(name,)) for name in apps]
            for t in threads:
                t.start()
                begun.acquire()
            wait_for("a first answer", lambda a=answered: a)
            self.kill(victim)
            for t in threads:
                t.join()
            self.start(victim)
            wait_for("authd's word", lambda: self.admin.get("/mqtt").status == 200)
            listed = {s["name"] for s in self.admin.get("/azure-iotedge/services").data}
            self.assertEqual(listed & set(answered), set())
            for name, app in apps.items():
                self.assertEqual(app.get("/mqtt").status, 200 if name in listed else 401, name)
            # and each that is gone has its record, once
            for name in set(apps) - listed:
                self.assert_audited("serviceAccountDelete", containing=f"account {name} ", count=1)

    # ---- short-lived tokens ----

    def short(self, client):
        reply = self.assert_ok(client.put("/auth/websocket-token"))
        return client.with_token(reply.data["token"])

    def test_a_short_lived_token_is_the_caller_and_ends_with_his_session(self):
        client = self.sign_in()
        short = self.short(client)
        mine, its = client.get("/users/me").data, short.get("/users/me").data
        self.assertEqual(mine, its)
        self.assertTrue(any(s["isCurrent"] for s in short.get("/sessions").data))
        self.assert_refused(short.put("/auth/websocket-token"), 403, word="sign-in")
        stream = short.stream("/audits?monitor=true")
        self.addCleanup(stream.close)
        self.assertEqual(stream.status, 200)
        self.assert_audited("sessionTokenCreate")
        self.assert_ok(client.delete("/auth"), 204)
        self.assert_refused(short.get("/users/me"), 401)
        wait_for("the end of the stream", lambda: stream.ended, 5)

    def test_a_short_lived_token_in_a_url_is_none(self):
        token = self.short(self.sign_in()).token
        for name in ("token", "access_token", "mx-api-token", "Authorization"):
            self.assert_refused(self.anyone.get(f"/users/me?{name}={token}"), 401)

    def test_a_session_that_is_used_by_its_short_lived_token_alone_is_not_idle(self):
        client = self.sign_in()
        short = self.short(client)
        session = harness.claims(client.token)["SessionID"]
        seen = lambda: self.admin.get(f"/sessions/{session}").data["lastAccessAt"]
        before = seen()

        def later():
            self.assert_ok(short.get("/tags/list"))
            return seen() > before
        wait_for("a later use", later, 20, step=0.5)


class FullDisk(SmallDisk, Suite):
    daemons = ("auditd", "authd", "cloudd", "gateway")

    def test_on_a_full_disk_accounts_are_made_and_ended_whole_or_not_at_all(self):
        accounts, refused = {}, collections.Counter()  # name -> client
        path = "/azure-iotedge/services"
        for name in (f"before{i}" for i in range(8)):
            reply = self.assert_ok(self.admin.post(path, {"name": name,
                                                          "required": ["APP_MQTT_RW"]}))
            accounts[name] = self.anyone.with_token(reply.data["token"])
        self.kill("auditd")  # so that records stay in authd's store
        self.fill()
        for n in range(400):
            reply = self.admin.post(path, {"name": f"n{n}", "displayName": "d" * 128,
                                           "required": ["APP_MQTT_RW"]})
            if reply.status == 200:
                accounts[f"n{n}"] = self.anyone.with_token(reply.data["token"])
            else:
                self.assert_refused(reply, 507)
                refused["post"] += 1
            for name, app in list(accounts.items())[:1]:
                reply = self.admin.delete(f"{path}/{name}")
                if reply.status == 204:
                    del accounts[name]
                else:
                    self.assert_refused(reply, 507)
                    refused["delete"] += 1
                self.assertEqual(app.get("/mqtt").status, 200 if name in accounts else 401)
            self.assertEqual({s["name"] for s in self.admin.get(path).data}, set(accounts))
            if min(refused["post"], refused["delete"]) >= 5:
                break
        self.assertGreaterEqual(min(refused["post"], refused["delete"]), 5, refused)
        os.unlink(self.big)
        self.start("auditd")
        for name, app in accounts.items():
            self.assert_ok(app.get("/mqtt"))
            self.assert_ok(self.admin.delete(f"{path}/{name}"), 204)
            self.assert_refused(app.get("/mqtt"), 401)
