"""authd alone, between a fake front door and a fake auditd."""
import buspeer
import harness
from buspeer import reply
from onedaemon import ALL_RIGHTS, NOBODY, OneDaemon

SPARE = "Second-shift-9"


class FrontDoor:
    """Handler of a fake gateway. .mode: forget, refuse, mute."""

    def __init__(self):
        self.mode, self.forgotten = "forget", []

    def __call__(self, r):
        if r.op != buspeer.AUTH_FORGET:
            return reply(r.id, 404)
        if self.mode == "mute":
            return None
        if self.mode == "refuse":
            return reply(r.id, 400)
        self.forgotten.append(r.json)
        return reply(r.id)


class AuthdAlone(OneDaemon):
    name = "authd"

    @classmethod
    def prepare(cls):
        cls.door, cls.audit = FrontDoor(), cls.fake_auditd()
        cls.gateway = cls.stand_in("gateway", cls.door)
        cls.auditd = cls.audit.server

    @classmethod
    def begin(cls):
        cls.signed_in_first = cls.sign_in("admin", harness.FIRST_PASSWORD)
        cls.done("putUsersMePassword", {"newPassword": harness.PASSWORD},
                 who=(buspeer.WHO_USER, 1, cls.signed_in_first["session"], 0, "admin", ""))
        cls.done("putSessionsConfiguration", {"maxCountByUser": 32, "timeoutMin": 1440,
                                              "idleTimeoutMin": 60})

    def tearDown(self):
        self.door.mode, self.audit.mode = "forget", "take"

    @classmethod
    def sign_in(cls, name="admin", password=harness.PASSWORD):
        data = cls.done("postAuth", {"name": name, "password": password}, who=NOBODY)
        claims = harness.claims(data["token"])
        return {"token": data["token"], "session": claims["SessionID"],
                "user": claims["UserID"],
                "who": (buspeer.WHO_USER, claims["UserID"], claims["SessionID"], ALL_RIGHTS,
                        name, "192.0.2.7")}

    @classmethod
    def check(cls, token):
        return cls.tell(buspeer.AUTH_CHECK, {"token": token, "addr": "192.0.2.7"})

    def new_user(self, name, roles=(1,)):
        return self.done("postUsers", {
            "name": name, "password": SPARE, "isActive": True,
            "roles": [{"id": r} for r in roles]})["id"]

    def names(self):
        return [u["name"] for u in self.done("getUsers")]
