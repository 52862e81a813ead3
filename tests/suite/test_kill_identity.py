"""kill -9 of authd, auditd and the gateway while accounts, roles, passwords,
sessions and rules change.

No answered change is lost, each has exactly one record, and no record tells of
a change that did not happen.
"""
import collections
import json
import random
import threading
import time

import harness
from harness import Client, PASSWORD, Suite, Unanswered, claims, wait_for

TEST_SECONDS = 180
COST = 3
SECONDS = 20
EACH = 5  # accounts and roles of a clerk
MARK = "k-"  # names of what the clients make


class Change:
    """'done': answered; 'refused': 4xx, nothing happened; 'unknown': cut off."""

    def __init__(self, kind, reply):
        self.kind, self.reply = kind, reply
        self.id = reply.headers["X-Request-Id"].lower() if reply else None
        status = reply.status if reply else 503
        self.outcome = "done" if status < 400 else "refused" if status < 500 else "unknown"


class Clerk(threading.Thread):
    """Owns some accounts and roles and does one change after the other to them.

    .must: what the store must hold, {("user" or "role", id): {member: value}}; .maybe: the
    members that a change of unknown outcome may have set instead, .gone: ids that must not be
    there.
    """

    def __init__(self, test, n):
        super().__init__(daemon=True)
        self.test, self.label, self.n = test, f"{MARK}{n}", 0
        self.random = random.Random(n)
        self.changes, self.faults, self.stopping = [], [], threading.Event()
        self.must, self.maybe, self.gone = {}, {}, set()
        self.passwords = {}  # user id: those that may be right

    def run(self):
        self.client = Client(self.test.fleet, token=self.test.admin.token)
        steps = [self.add_role, self.add_user, self.add_user, self.describe, self.describe, self.move, self.password,
                 self.sign_in, self.remove_user, self.remove_role, self.rename_role, self.rule]
        while not self.stopping.wait(0.002):
            try:
                self.random.choice(steps)()
            except Exception as e:  # a test that dies silently proves nothing
                self.faults.append(f"{self.label}: {e!r}")
                return

    def change(self, kind, method, path, body=None, client=None):
        try:
            c = Change(kind, (client or self.client).request(method, path, body))
        except Unanswered:
            c = Change(kind, None)
        self.changes.append(c)
        if c.outcome == "unknown":
            self.stopping.wait(0.1)  # somebody is away
        expected = (200, 204, 403, 404, 409, 429, 503) + (400,) * (kind == "roleDelete")
        if c.reply and c.reply.status not in expected:
            self.faults.append(repr(c.reply))
        return c

    def word(self):
        self.n += 1
        return f"{self.label}-{self.n}"

    def pick(self, kind):
        ours = self.ours(kind)
        return self.random.choice(ours) if ours else None

    def ours(self, kind):
        return [k for k in self.must if k[0] == kind]

    def add_role(self):
        if len(self.ours("role")) >= EACH:
            return
        c = self.change("roleCreate", "POST", "/roles",
                        {"name": self.word(), "permissions": ["APP_MQTT_RW"]})
        if c.outcome == "done":
            self.must["role", c.reply.data["id"]] = {"name": c.reply.data["name"], "description": ""}

    def add_user(self):
        role = self.pick("role")
        if not role or len(self.ours("user")) >= EACH:
            return
        c = self.change("accountCreate", "POST", "/users", {
            "name": self.word(), "password": PASSWORD, "isActive": True,
            "roles": [{"id": role[1]}]})
        if c.outcome == "done":
            self.must["user", c.reply.data["id"]] = {
                "name": c.reply.data["name"], "description": None, "isActive": True,
                "role": role[1]}
            self.passwords[c.reply.data["id"]] = {PASSWORD}

    def put(self, key, kind, path, body, **members):
        c = self.change(kind, "PUT", path, body)
        for member, value in members.items():
            if c.outcome == "done":
                self.must[key][member] = value
                self.maybe.pop((key, member), None)
            elif c.outcome == "unknown":
                self.maybe.setdefault((key, member), set()).add(value)

    def describe(self):
        key = self.pick("user")
        if key:
            word, active = self.word(), self.random.random() < 0.7
            self.put(key, "accountUpdate", f"/users/{key[1]}",
                     {"description": word, "isActive": active}, description=word, isActive=active)

    def move(self):
        key, role = self.pick("user"), self.pick("role")
        if key and role:
            self.put(key, "accountUpdate", f"/users/{key[1]}", {"roles": [{"id": role[1]}]},
                     role=role[1])

    def rename_role(self):
        key = self.pick("role")
        if key:
            word = self.word()
            self.put(key, "roleUpdate", f"/roles/{key[1]}", {"name": word}, name=word)

    def password(self):
        key = self.pick("user")
        if not key:
            return
        word = f"Pw-{self.word()}-long"
        c = self.change("passwordChange", "PUT", f"/users/{key[1]}/password", {"newPassword": word})
        if c.outcome == "done":
            self.passwords[key[1]] = {word}
        elif c.outcome == "unknown":
            self.passwords[key[1]].add(word)

    def sign_in(self):
        """And out, or ended by the administrator."""
        key = self.pick("user")
        if not key or len(self.passwords[key[1]]) != 1 or not self.must[key]["isActive"] or \
                (key, "isActive") in self.maybe:
            return
        c = self.change("signIn", "POST", "/auth", {"name": self.must[key]["name"],
                                                    "password": next(iter(self.passwords[key[1]]))})
        if c.outcome != "done":
            return
        token = c.reply.data["token"]
        if self.random.random() < 0.5:
            self.change("signOut", "DELETE", "/auth", client=Client(self.test.fleet, token=token))
        else:
            self.change("signOut", "DELETE", f"/sessions/{claims(token)['SessionID']}")

    def remove_user(self):
        self.remove(self.pick("user"), "accountDelete")

    def remove_role(self):
        self.remove(self.pick("role"), "roleDelete")  # refused while somebody holds it

    def remove(self, key, event):
        if not key or len(self.ours(key[0])) < EACH - 1:
            return
        c = self.change(event, "DELETE", f"/{key[0]}s/{key[1]}")
        if c.outcome == "refused":
            return
        del self.must[key]
        if c.outcome == "done":
            self.gone.add(key)

    def rule(self):
        path, kind, body = self.random.choice([
            ("/auth-lock", "authLockUpdate", {"enable": False, "failWindow": self.random.randint(1, 60),
                                              "failTimes": 10, "lockWindow": 10}),
            ("/password-policy", "passwordPolicyUpdate",
             {"reminderFrequencyDay": self.random.randint(10, 360)})])
        self.change(kind, "PUT", path, body)


class KillIdentity(Suite):
    daemons = ("auditd", "authd", "gateway")

    @classmethod
    def prepare(cls):
        cls.admin.put("/sessions/configuration", {"maxCountByUser": 32})

    def kill_at_random(self):
        dice, end, kills = random.Random(7), time.monotonic() + SECONDS, collections.Counter()
        while time.monotonic() < end:
            time.sleep(dice.uniform(0.02, 0.5))
            name = dice.choice(self.fleet.names)
            self.kill(name)
            time.sleep(dice.choice((0, 0, 0.1, 0.3)))
            self.fleet.d[name].start()
            kills[name] += 1
            if name == "gateway":
                self.fleet.wait_ready()
        self.wait_daemons()
        return kills

    def test_no_answered_change_of_identities_is_lost_or_without_its_one_record(self):
        clerks = [Clerk(self, n) for n in range(6)]
        for c in clerks:
            c.start()
        try:
            kills = self.kill_at_random()
        finally:
            for c in clerks:
                c.stopping.set()
            for c in clerks:
                c.join(30)
        self.assertEqual([f for c in clerks for f in c.faults], [])
        changes = [x for c in clerks for x in c.changes]
        self.assert_records(changes)
        self.assert_store(clerks)
        self.assert_sign_in(clerks)
        outcomes = collections.Counter(x.outcome for x in changes)
        print(f"kills {dict(kills)}; changes {dict(outcomes)}", flush=True)
        self.assertGreater(outcomes["done"], 60 / harness.SLOW)
        self.assertGreater(outcomes["unknown"], 5)

    def assert_records(self, changes):
        """One record for each that was answered, at most one for one that was cut off."""
        done = {x.id: x.kind for x in changes if x.outcome == "done"}
        wait_for("the records", lambda: set(done) <= {
            r["requestId"].lower() for r in self.audits()}, 30)
        rows = collections.defaultdict(list)
        for r in self.audits():
            if r["name"] != "accessRefused":
                rows[r["requestId"].lower()].append(r["name"])
        self.assertEqual({i: rows[i] for i, kind in done.items() if rows[i] != [kind]}, {})
        refused = {x.id for x in changes if x.outcome == "refused"}
        self.assertEqual({i: rows[i] for i in refused if i in rows}, {})
        twice = {i: names for i, names in rows.items() if i and len(names) > 1
                 and set(names) != {"signInFail", "accountLock"}}
        self.assertEqual(twice, {})

    def assert_store(self, clerks):
        users = {u["id"]: u for u in self.assert_ok(self.admin.get("/users")).data}
        roles = {r["id"]: r for r in self.assert_ok(self.admin.get("/roles")).data}
        for clerk in clerks:
            for key, members in clerk.must.items():
                self.assert_held(clerk, key, members, (users if key[0] == "user" else roles))
            for kind, id_ in clerk.gone:
                self.assertNotIn(id_, users if kind == "user" else roles, f"deleted {kind}")
        self.assertTrue(any(u["isActive"] and "SYS_ACCOUNT_RW" in u["permissions"]
                            for u in users.values()), "an administrator")
        # whoever holds a role is listed by it, and the other way round
        self.assertEqual({(r["id"], u["id"]) for r in roles.values() for u in r.get("users", [])},
                         {(r["id"], u["id"]) for u in users.values() for r in u["roles"]})
        for session in self.assert_ok(self.admin.get("/sessions")).data:
            self.assertIn(session["userId"], users)
        self.assert_made_ones_are_recorded([x for c in clerks for x in c.changes], users, roles)
        for role in list(roles.values()):  # there is room for 64
            if not role.get("users"):
                self.assert_ok(self.admin.delete(f"/roles/{role['id']}"), 204)
                del roles[role["id"]]
        self.assert_names(users, "/users")
        self.assert_names(roles, "/roles")

    def assert_held(self, clerk, key, members, there):
        one = there.get(key[1])
        self.assertIsNotNone(one, f"{key} was answered and is not in the store")
        for member, value in members.items():
            is_ = one["roles"][0]["id"] if member == "role" else one.get(member)
            self.assertIn(is_, {value} | clerk.maybe.get((key, member), set()), f"{key} {member}")

    def assert_names(self, there, path):
        """Each name leads to one record: making another of that name is refused."""
        names = [x["name"] for x in there.values()]
        self.assertEqual(len(names), len(set(names)))
        for name in names[:20]:
            body = {"name": name, "permissions": ["APP_MQTT_RW"]} if path == "/roles" else {
                "name": name, "password": PASSWORD, "isActive": True, "roles": [{"id": 1}]}
            self.assertIn(self.admin.post(path, body).status, (400, 409), name)
        for id_, one in there.items():
            self.assertEqual(self.admin.get(f"{path}/{id_}").data["name"], one["name"])

    def assert_made_ones_are_recorded(self, changes, users, roles):
        """Also those whose making was cut off; and what is recorded of these was made."""
        for event, there in (("accountCreate", users), ("roleCreate", roles)):
            recorded = {json.loads(r["detail"])["body"]["name"]
                        for r in self.audits(names=event + ",roleUpdate")
                        if '"name":' in r["detail"]}
            names = {one["name"] for one in there.values() if one["name"].startswith(MARK)}
            self.assertLessEqual(names, recorded)
            answered = {c.id for c in changes if c.kind == event and c.outcome == "done"}
            cut_off = {json.loads(r["detail"])["body"]["name"] for r in self.audits(names=event)
                       if r["requestId"].lower() not in answered}
            self.assertLessEqual(cut_off, names)

    def assert_sign_in(self, clerks):
        client, n = Client(self.fleet), 0
        for clerk in clerks:
            for (kind, id_), members in clerk.must.items():
                if kind != "user":
                    continue
                user = self.assert_ok(self.admin.get(f"/users/{id_}")).data
                right = [self.may_sign_in(client, user["name"], p) for p in clerk.passwords[id_]]
                self.assertEqual(sum(right), 1 if user["isActive"] else 0, user)
                n += user["isActive"]
        self.assertGreater(n, 0)
        self.sign_in()

    def may_sign_in(self, client, name, password):
        reply = client.post("/auth", {"name": name, "password": password})
        self.assertIn(reply.status, (200, 401), repr(reply))
        if reply.status == 200:
            self.assert_ok(client.with_token(reply.data["token"]).delete("/auth"), 204)
        return reply.status == 200
