"""Every operation of openapi.json: a success, and for each of its values every
bound that its schema states, from both sides.

A value past a bound is refused with 400 and a pointer to it, and changes
nothing. A value at a bound is accepted, unless RULES names a rule that the
schema cannot say. harness.Client holds every reply against its schema.
"""
import copy
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import urllib.parse

import contract
import harness
import pki
from harness import Plant, Suite, claims, wait_for

TEST_SECONDS = 240
P = "modbus_tcp_master"
SERIAL = {"id": 1, "mode": "rs232", "baudRate": 9600, "parity": "none", "dataBits": 8,
          "stopBits": 1, "flowControl": "none"}
ROLE_RIGHTS = ["SYS_MANAGEMENT_RW"]

# Operations, pointers (regular expressions): why a value at its bound may be refused all the same.
RULES = [
    ("postAuth", "/name|/password", "401: nobody has that name, it is the wrong password"),
    ("postUsers|putUser", "/roles/0/id", "no such role"),
    ("postRoles|putRole", "/permissions/0", "no such permission"),
    ("putUsersMePassword", "/oldPassword", "the wrong password"),
    ("(post|put)AzureIotedgeServices?", "/required/0", "no such permission"),
    ("(post|put)AzureIotedgeServices?", "/addon/0/id", "not of the form of an add-on's permission"),
    ("(post|put)AzureIotedgeServices?", "/displayname", "displayName says something else"),
    ("putAuditsConfiguration", "/desiredDiskCacheSizeMB", "above maxSizeMB of this disk"),
    ("putSystemLog", "/targetDiskName", "no such disk"),
    ("post.*|put.*|patch.*", "/(masterTcpIface|masterSerIface|tcpMaster|serMaster|remoteDev|mcmd)Id",
     "no such parent"),
    ("(put|patch)MasterSerIface", "/portValue", "that of another interface"),
    ("(post|put|patch)Mcmds?", "/(fp|st)(Func|Data)", "as much data as the command has"),
    ("(post|put|patch)Mcmds?", "/(read|write)(Address|Quantity)", "past 65535 or the function's limit"),
    ("(post|put|patch)Mcmds?", "/func", "a limit of the function"),
    ("(post|put|patch)Mcmds?", "/dataType", "goes with autoCreate=tags"),
    ("(post|put|patch)Mcmds?", "/mode", "on data change: writing functions only"),
    ("(post|put|patch)Mcmds?", "/scalingFunc|/point.*|/intercept.*", "a line through two points"),
    ("(post|put|patch)RemoteDevs?", "/slaveIpaddr", "no address"),
    ("cloneMasterConfig", "/src/remoteDevId|/dest/slaveIpaddr", "no such device, no address"),
    ("cloneMasterConfig", "/resource|/src/masterSerIfaceId|/dest/masterSerIfaceIds/0",
     "goes with the other resource"),
    ("captureMaster.*Traffic", "/remoteDevId", "no such device"),
    ("(post|put|patch)Master.*Tags?", "/dataType|/dataSize|/offset|/access", "what the command has"),
    ("direct(Read|Write)Tag", "/(prvd|src|tag)Name", "404: no such tag"),
    ("directWriteTag|putTagsAccess", "/dataType", "the tag is of another type"),
    ("put(Master|Slave)LogLevel", "/logLevel", "none of the words"),
    ("(post|put|patch)Szones?(AndApply)?|postBulkRefTags", "/(ser|tcp)SlaveId", "no such slave"),
    ("(put|patch)Szones?(AndApply)?", "/szoneId", "no such zone, or another one"),
    ("(post|put|patch)Szones?(AndApply)?", "/address|/quan", "past 65535, or no reference tags"),
    ("(post|put|patch)Szones?(AndApply)?", "/fromRefTaglist", "tags of the other kind"),
    ("(post|put|patch)Szones?(AndApply)?", "/dataType", "goes with autoCreate=tags"),
    ("(post|put|patch)Szones?(AndApply)?", "/scalingFunc|/point.*|/intercept.*",
     "a line through two points"),
    ("(post|put|patch)Szones?(AndApply)?|patchSlaveTag", "(/tags/0)?/(dataType|dataSize|offset)",
     "what has room in the zone"),
    ("(post|put|patch)Szones?(AndApply)?", "/refTags/0/.*", "a zone of own tags"),
    ("postBulkRefTags", "/refTags/0/.*", "the tag hub does not list it"),
    ("putSzoneSort", "/dataFormat|/sequence/0/szoneId", "not all zones of the format"),
    ("postSzonesDelete", "/(szoneId|refTagId)/0", "no such zone or tag"),
    ("(post|put)MqttMessage", "/format", "only the default payload is offered"),
    ("putMqttStoreAndForward", "/targetDiskName", "no such disk"),
    ("(post|put)MqttClient", "/remoteAPI/enable", "not offered"),
    ("(post|put)MqttClient", "/willMessage/enable", "a will needs a topic"),
    ("(post|patch)SerSlave", "/portValue", "no such port, or not that of the path"),
    ("patchSerials?", "/id", "no such port, or not that of the path"),
    ("(put|patch)SystemHttpserver", "/http(sEnable|Port|sPort)", "fixed, or a port that is not ours"),
]
if shutil.disk_usage(tempfile.gettempdir()).total < 2 * 4096 << 20:
    RULES.append(("putSystemLog", "/desiredDiskCacheSizeMB", "above half of this disk"))

# Texts that each format refuses, and how to make one of a wanted length.
BAD_TEXT = {
    "account-name": "with space", "password": "with space inside", "email": "nobody",
    "tag-name": "a/b", "modbus-name": "a b", "host": "-a-.example", "hex-bytes": "0x00",
    "mqtt-topic": "a/+/b", "printable": "caf\u00e9",
}


def text_of(spec, length):
    """A text of that length that the format takes; None when there is none."""
    made = "".join(itertools.islice(itertools.cycle("Ab1"), length))
    kind = spec.get("format")
    if kind == "email":
        return None if 0 < length < 6 else made[:max(0, min(length - 4, 64))] and \
            (made[:1] + "@" + ".".join(["a" * 59] * 5))[:length - 3].rstrip(".") + ".io"
    if kind == "host":  # 253 at most, whatever the schema says
        return ".".join(["a" * 49] * 6)[:min(length, 253)].rstrip(".")
    if kind == "hex-bytes":
        return " ".join(["0a"] * ((length + 1) // 3)) if length % 3 == 2 else None
    return made


def wrong_types(kind):
    by_kind = {"boolean": ["yes", 5, [], {}], "integer": ["x", 1.5, True, [], {}],
               "number": ["x", True, [], {}], "string": [True, [], {}],
               "array": ["x", 5, {}], "object": ["x", 5, []]}
    return by_kind[kind]


def values(spec):
    """(good, bad) values of a schema, by its bounds; none of one that takes any JSON."""
    kind = spec.get("type")
    if kind is None:
        return [], []
    kinds = kind if isinstance(kind, list) else [kind]
    kind = kinds[0]
    good, bad = [], list(wrong_types(kind))
    (good if "null" in kinds else bad).append(None)
    if "enum" in spec:
        good += spec["enum"]
        bad += ["no-such-word"] if kind == "string" else [max(spec["enum"]) + 1]
        return good, bad
    if kind == "boolean":
        good += [True, False]
    if kind in ("integer", "number"):
        low, high = spec.get("minimum"), spec.get("maximum")
        if low is not None:
            good.append(low)
            if kind == "integer":
                bad += [low - 1, -2**63 - 1]
        if high is not None:
            good.append(high)
            if kind == "integer":
                bad += [high + 1, 2**64]
    if kind == "string":
        low, high = spec.get("minLength", 0), spec.get("maxLength", 255)
        good += [t for t in (text_of(spec, low), text_of(spec, high)) if t is not None
                 and low <= len(t) <= high]
        if low > 0:
            bad.append("")
            bad.append(text_of({}, low - 1))
        if high < 60000:
            bad.append(text_of({}, high + 1))
        if spec.get("format") in BAD_TEXT:
            bad.append(BAD_TEXT[spec["format"]])
        bad.append(5)
    return good, bad


def put_at(body, path, value):
    """A copy of the body with the value at that path."""
    body = copy.deepcopy(body)
    at = body
    for step in path[:-1]:
        if isinstance(at, dict):
            at = at.setdefault(step, {})
        else:
            at = at[step]
    at[path[-1]] = value
    return body


def pointer_of(path):
    return "".join(f"/{p}" for p in path)


class Form(dict):
    """A body that goes as multipart/form-data."""


class Walk(Suite):
    """One object of each kind to work on, and what each operation needs."""

    @classmethod
    def make_fleet(cls):
        fleet = super().make_fleet()
        manifest = f"{fleet.dir}/MANIFEST"
        with open(manifest, "wb") as f:
            subprocess.run([f"{harness.ROOT}/deploy/manifest.sh", "", f"{harness.BUILD}/bin/auditd"],
                           stdout=f, check=True)
        fleet.d["auditd"].argv += ["--set", f"manifest={manifest}"]
        return fleet

    @classmethod
    def prepare(cls):
        cls.api = contract.load(harness.BUILD)
        cls.plant = Plant(cls.fleet)
        cls.set_interface(retryCount=0, responseTout=500)
        ids = cls.add_device("pump", cls.plant.port, [
            ("flow", 3, 0, 4, 100, [("flow", "uint16", 0)]),
            ("set", 6, 100, 1, 1000, [("set", "uint16", 0)])])
        cls.apply()
        wait_for("the tag", lambda: cls.values("pump").get("flow"))
        cls.device, cls.command, cls.tag = ids["device"], ids["commands"][0], ids["tags"][0]
        # staged beside it, to be changed at will
        ids = cls.add_device("spare", 1502, [("cmd", 3, 0, 100, 1000, [("tag", "uint16", 0)])],
                             slaveIpaddr="0.0.0.0")
        cls.spare, cls.spare_command, cls.spare_tag = \
            ids["device"], ids["commands"][0], ids["tags"][0]
        cls.n = itertools.count(1)
        cls.role = cls.made("/roles", {"name": "walker", "permissions": ROLE_RIGHTS})["id"]
        cls.user = cls.new_user("walker", cls.role)
        admin_role = next(r["id"] for r in cls.admin.get("/roles").data
                          if "SYS_ACCOUNT_RW" in r["permissions"])
        cls.new_user("second", admin_role)
        cls.admin.put("/auth-lock", {"enable": False, "failWindow": 1, "failTimes": 32,
                                     "lockWindow": 5})
        cls.me_password = harness.PASSWORD + "-2"
        first = cls.sign_in("second", harness.PASSWORD)
        first.put("/users/me/password", {"newPassword": cls.me_password,
                                         "oldPassword": harness.PASSWORD})
        cls.me = cls.sign_in("second", cls.me_password)
        cls.certificate = cls.admin.form(
            "POST", "/secrets/certificates", sourceName="walk", name="first.crt",
            file=pki.cert("first", pki.key())).data["uuid"]
        cls.service = cls.made("/azure-iotedge/services", {"name": "walker"})["name"]
        cls.slave_port = harness.free_port()
        zones = [cls.made("/modbusslave/config/szones", {
            "address": address, "quan": 16, "tags": [{"name": name, "dataType": "uint16"}]})
            for address, name in ((0, "first"), (100, "own"))]
        cls.zone, cls.own_tag = zones[0]["szoneId"], zones[1]["tags"][0]["tagId"]
        cls.mqtt = cls.add_mqtt(1, enable=False)
        cls.add_group(cls.mqtt, {P: {"pump": ["flow"]}})
        cls.group = cls.admin.get(f"/mqtt/{cls.mqtt}/messages").data[0]["id"]

    @classmethod
    def made(cls, path, body):
        reply = cls.admin.post(path, body)
        if reply.status not in (200, 201):
            raise AssertionError(f"{reply}")
        return reply.data

    @classmethod
    def new_user(cls, name, role=None):
        return cls.made("/users", {"name": name, "password": harness.PASSWORD, "isActive": True,
                                   "roles": [{"id": role or cls.role}]})["id"]

    def unique(self, word="x"):
        return f"{word}{next(self.n)}"

    def new_session(self):
        return claims(self.sign_in("second", self.me_password).token)["SessionID"]

    def new_mqtt(self):
        return self.add_mqtt(1, enable=False, clientID=self.unique())

    def new_device(self):
        return self.made("/modbusmaster/config/remote-devs",
                         {"masterTcpIfaceId": 1, "name": self.unique("d"),
                          "slaveTcpPort": 1000 + next(self.n)})["remoteDevId"]

    def new_command(self):
        return self.made("/modbusmaster/config/mcmds",
                         {"remoteDevId": self.spare, "name": self.unique("c")})["mcmdId"]

    def new_tag(self):
        return self.made("/modbusmaster/config/tags",
                         {"mcmdId": self.spare_command, "name": self.unique("t"),
                          "dataType": "uint16"})["tagId"]

    def new_zone(self, **more):
        return self.made("/modbusslave/config/szones", {"address": 1000 + next(self.n),
                                                        **more})["szoneId"]

    def new_own_tag(self):
        zone = self.new_zone(tags=[{"name": self.unique("o"), "dataType": "uint16"}])
        return self.admin.get(f"/modbusslave/config/szones/{zone}").data["tags"][0]["tagId"]

    def new_flow(self):
        """The one tag of the hub, not referenced by a zone any more."""
        for zone in self.admin.get("/modbusslave/config/szones").data:
            if zone["refTags"]:
                self.admin.delete(f"/modbusslave/config/szones/{zone['szoneId']}")
        return "flow"

    def certificate_form(self):
        name = self.unique("cert")
        return Form(sourceName="walk", name=name, file=pki.cert(name, pki.key()))

    def key_form(self):
        return Form(sourceName="walk", name=self.unique("key"), file=pki.key())

    def new_secret(self, path, form):
        return self.assert_ok(self.admin.form("POST", path, **form)).data["uuid"]

    def needs(self, op):
        """(values of the path, body, client) with which the operation succeeds now."""
        group = {"enable": True, "tags": {P: {"pump": ["flow"]}}, "outputTopic": "t",
                 "sendOutThreshold": {"mode": "immediately"}}
        pump = {"prvdName": P, "srcName": "pump"}
        front = {"httpsPort": self.fleet.https_port, "redirectToHttps": True}
        lock = {"enable": False, "failWindow": 1, "failTimes": 32, "lockWindow": 5}
        zone = {"quan": 16, "tags": [{"name": "first", "dataType": "uint16"}]}
        table = {
            "postAuth": lambda: ((), {"name": "second", "password": self.me_password}),
            "deleteAuth": lambda: ((), None, self.sign_in("second", self.me_password)),
            "postUsers": lambda: ((), {"name": self.unique("u"), "password": harness.PASSWORD,
                                       "isActive": True, "roles": [{"id": self.role}]}),
            "putUser": lambda: ((self.user,), {"isActive": True, "description": "d",
                                               "roles": [{"id": self.role}]}),
            "deleteUser": lambda: ((self.new_user(self.unique("u")),), None),
            "putUserPassword": lambda: ((self.user,), {"newPassword": self.unique("New-word-")}),
            "putUsersMe": lambda: ((), {"description": "d"}, self.me),
            "putUsersMePassword": lambda: ((), {"newPassword": self.unique("Next-word-"),
                                                "oldPassword": self.me_password}, self.me),
            "putAuthWebsocketToken": lambda: ((), None, self.sign_in("second", self.me_password)),
            "postAzureIotedgeServices": lambda: ((), {
                "name": self.unique("s"), "displayName": "d", "required": ROLE_RIGHTS,
                "addon": [{"id": self.unique("APP_W") + "_RW"}]}),
            "putAzureIotedgeService": lambda: ((self.service,), {
                "displayName": "d", "addon": [{"id": "APP_WALKER_RW"}]}),
            "deleteAzureIotedgeService": lambda: ((self.made(
                "/azure-iotedge/services", {"name": self.unique("s")})["name"],), None),
            "postRoles": lambda: ((), {"name": self.unique("r"), "permissions": ROLE_RIGHTS}),
            "putRole": lambda: ((self.role,), {"name": self.unique("r")}),
            "deleteRole": lambda: ((self.made("/roles", {"name": self.unique("r"),
                                                         "permissions": ROLE_RIGHTS})["id"],),
                                   None),
            "getSession": lambda: ((claims(self.admin.token)["SessionID"],), None),
            "deleteSession": lambda: ((self.new_session(),), None),
            "putSessionsConfiguration": lambda: ((), {"maxCountByUser": 32, "timeoutMin": 1440,
                                                      "idleTimeoutMin": 60}),
            "putPasswordPolicy": lambda: ((), {"lengthMin": 8, "atLeastOneDigit": False,
                                               "atLeastOneSpecial": False,
                                               "mixedUpperLowerLetters": False}),
            "putAuthLock": lambda: ((), lock),
            "postAudits": lambda: ((), {"auditId": "MT30", "message": self.unique("m")}),
            "putAuditsConfiguration": lambda: ((), {"desiredDiskCacheSizeMB": 100}),
            "putSystemLog": lambda: ((), {"desiredDiskCacheSizeMB": 100}),
            "postMqttClient": lambda: ((), {"server": "h", "port": 1883}),
            "putMqttClient": lambda: ((self.mqtt,), {"server": "h", "port": 1883,
                                                     "protocolVersion": "3.1.1"}),
            "deleteMqttClient": lambda: ((self.new_mqtt(),), None),
            "postMqttMessage": lambda: ((self.mqtt,), group),
            "putMqttMessage": lambda: ((self.mqtt, self.group), group),
            "deleteMqttMessage": lambda: ((self.mqtt, self.made(
                f"/mqtt/{self.mqtt}/messages", group)[-1]["id"]), None),
            "putMqttStoreAndForward": lambda: ((self.mqtt,), {"enable": False}),
            "putSystemHttpserver": lambda: ((), front),
            "patchSystemHttpserver": lambda: ((), front),
            "putMasterTcpIface": lambda: ((1,), {"tcpMasterId": 1, "responseTout": 500}),
            "patchMasterTcpIface": lambda: ((1,), {"tcpMasterId": 1, "responseTout": 500}),
            "putTcpMaster": lambda: ((1,), {"name": P}),
            "patchTcpMaster": lambda: ((1,), {"name": P}),
            "putMasterSerIface": lambda: ((1,), {"serMasterId": 1, "portValue": 0}),
            "patchMasterSerIface": lambda: ((1,), {"serMasterId": 1, "portValue": 0}),
            "putSerMaster": lambda: ((1,), {"name": "modbus_serial_master"}),
            "patchSerMaster": lambda: ((1,), {"name": "modbus_serial_master"}),
            "postRemoteDevs": lambda: ((), {"masterTcpIfaceId": 1, "name": self.unique("d"),
                                            "slaveTcpPort": 1000 + next(self.n)}),
            "putRemoteDev": lambda: ((self.spare,), {"masterTcpIfaceId": 1, "name": "spare"}),
            "patchRemoteDev": lambda: ((self.spare,), {"masterTcpIfaceId": 1, "name": "spare"}),
            "deleteRemoteDev": lambda: ((self.new_device(),), None),
            "postMcmds": lambda: ((), {"remoteDevId": self.spare, "name": self.unique("c")}),
            "putMcmd": lambda: ((self.spare_command,), {"remoteDevId": self.spare, "name": "cmd",
                                                        "readQuantity": 100}),
            "patchMcmd": lambda: ((self.spare_command,), {"remoteDevId": self.spare,
                                                          "name": "cmd", "readQuantity": 100}),
            "deleteMcmd": lambda: ((self.new_command(),), None),
            "postMasterTags": lambda: ((), {"mcmdId": self.spare_command,
                                            "name": self.unique("t"), "dataType": "uint16"}),
            "putMasterTag": lambda: ((self.spare_tag,), {"mcmdId": self.spare_command,
                                                         "name": "tag", "dataType": "uint16"}),
            "patchMasterTag": lambda: ((self.spare_tag,), {"mcmdId": self.spare_command,
                                                           "name": "tag",
                                                           "dataType": "uint16"}),
            "deleteMasterTag": lambda: ((self.new_tag(),), None),
            "patchSerials": lambda: ((), dict(SERIAL)),
            "patchSerial": lambda: ((1,), dict(SERIAL)),
            "importMasters": lambda: ((), Form(mastersFile=("m.csv", self.csv("masters/export")))),
            "importMcmds": lambda: ((), Form(remoteDevId=str(self.device), mcmdsFile=("c.csv", self.csv(
                f"mcmds/export?remoteDevId={self.device}")))),
            "postSerSlave": lambda: ((), self.no_ser_slave()),
            "patchSerSlave": lambda: ((self.ser_slave(),), {"slaveId": 1}),
            "getSerSlave": lambda: ((self.ser_slave(),), None),
            "deleteSerSlave": lambda: ((self.ser_slave(),), None),
            "putMasterLogLevel": lambda: ((), {"logLevel": "INFO"}),
            "putMasterParams": lambda: ((), {"enableTcpMasters": 1}),
            "patchMasterParams": lambda: ((), {"enableTcpMasters": 1}),
            "cloneMasterConfig": lambda: ((), {
                "resource": "remote-devs", "src": {"remoteDevId": self.spare},
                "dest": {"name": self.unique("d"), "slaveTcpPort": 1000 + next(self.n)}}),
            "captureMasterTcpTraffic": lambda: ((1,), {"action": "stop"}),
            "captureMasterSerialTraffic": lambda: ((1,), {"action": "stop"}),
            "putSlaveLogLevel": lambda: ((), {"logLevel": "INFO"}),
            "putTcpSlave": lambda: ((1,), {"listenPort": self.slave_port}),
            "patchTcpSlave": lambda: ((1,), {"listenPort": self.slave_port,
                                             "name": "modbus_tcp_slave"}),
            "patchSlaveParams": lambda: ((), {"enableSerSlaves": 1}),
            "postSzones": lambda: ((), {"address": 20000 + 16 * next(self.n), "quan": 16, "tags": [
                {"name": self.unique("o"), "dataType": "uint16"}]}),
            "putSzones": lambda: ((), {"szoneId": self.zone, **zone}),
            "putSzonesAndApply": lambda: ((), {"szoneId": self.zone, **zone}),
            "putSzone": lambda: ((self.zone,), zone),
            "patchSzone": lambda: ((self.zone,), zone),
            "deleteSzone": lambda: ((self.new_zone(),), None),
            "postSzonesDelete": lambda: ((), {"szoneId": [self.new_zone()]}),
            "postBulkRefTags": lambda: ((), {"refTags": [{**pump, "tagName": self.new_flow()}]}),
            "putSzoneSort": lambda: ((), {"dataFormat": 0, "sequence": []}),
            "patchSlaveTag": lambda: ((self.own_tag,), {"name": "own", "dataType": "uint16"}),
            "deleteSlaveTag": lambda: ((self.new_own_tag(),), None),
            "directReadTag": lambda: ((), {**pump, "tagName": "flow"}),
            "directWriteTag": lambda: ((), {**pump, "tagName": "set", "dataValue": 7}),
            "putTagsAccess": lambda: ((P, "pump", "set"), {"dataType": "uint16",
                                                           "dataValue": 8}),
            "getTagsAccess": lambda: ((P, "pump", "flow"), None),
            "getTagsMonitor": lambda: ((P, "pump"), None),
            "postCertificate": lambda: ((), self.certificate_form()),
            "deleteCertificate": lambda: ((self.new_secret("/secrets/certificates",
                                                           self.certificate_form()),), None),
            "postKey": lambda: ((), self.key_form()),
            "deleteKey": lambda: ((self.new_secret("/secrets/keys", self.key_form()),), None),
        }
        ids = {"/users/{id}": self.user, "/roles/{id}": self.role, "/mqtt/{id}": self.mqtt,
               "{groupId}": self.group, "{remoteDevId}": self.device, "{mcmdId}": self.command,
               "{tagId}": self.tag, "{masterTcpIfaceId}": 1, "{tcpMasterId}": 1,
               "{tcpSlaveId}": 1, "{szoneId}": self.zone,
               "{masterSerIfaceId}": 1, "{serMasterId}": 1,
               "/certificates/{uuid}": self.certificate, "/serials/{id}": 1}
        if op.name in table:
            found = table[op.name]()
        else:
            path, at = [], op.path
            for key, value in ids.items():
                if key in at:
                    path.append(value)
            found = (tuple(path), None)
        return found if len(found) == 3 else found + (self.admin,)

    def csv(self, what):
        return self.admin.get(f"/modbusmaster/control/config/{what}").body.decode()
    def no_ser_slave(self):
        """What makes one, after it is gone."""
        self.admin.delete("/modbusslave/config/ser-slaves/1")
        return {"portValue": 0}

    def ser_slave(self):
        self.assertEqual(self.admin.post("/modbusslave/config/ser-slaves",
                                         self.no_ser_slave()).status, 200)
        return 1

    def target(self, op, path, query=None):
        if op.name == "exportMcmds":
            query = {"remoteDevId": self.device, **(query or {})}
        parts, given = op.path, list(path)
        while "{" in parts:
            at, end = parts.index("{"), parts.index("}")
            parts = parts[:at] + urllib.parse.quote(str(given.pop(0)), safe="") + parts[end + 1:]
        return parts + ("?" + urllib.parse.urlencode(query) if query else "")

    def ask(self, op, path, body, client, query=None):
        target = self.target(op, path, query)
        if query and set(query) & {"monitor", "onChanged", "streamInterval"} and \
                "false" not in query.values():
            stream = client.stream(target)
            stream.close()
            return harness.Reply(stream.status, stream.reply.headers,
                                 getattr(stream, "body", b""), 0, f"GET {target}")
        reply = client.form(op.method, target, **body) if isinstance(body, Form) else \
            client.request(op.method, target, body)
        if op.name == "putUsersMePassword" and reply.status == 200:
            type(self).me_password = body["newPassword"]
            type(self).me = self.sign_in("second", self.me_password)
        return reply

    STATE = ("/users", "/roles", "/azure-iotedge/services", "/permissions",
             "/sessions/configuration", "/password-policy", "/auth-lock",
             "/audits/configuration", "/system/log", "/mqtt", "/modbusmaster/config/tcp-masters",
             "/modbusmaster/config/remote-devs", "/modbusmaster/config/mcmds",
             "/modbusmaster/config/tags", "/modbusmaster/config/master-params",
             "/modbusmaster/control/log-level",
             "/modbusslave/config/tcp-slaves", "/modbusslave/config/slave-params",
             "/modbusslave/config/tags", "/secrets/certificates", "/secrets/keys",
             "/system/httpserver", "/device/serials", "/modbusslave/config/ser-slaves")
    VOLATILE = ("status", "loginAt", "passwordChangedAt", "disks", "flag")

    def state(self):
        """All that requests can change, as text."""
        def still(value):
            if isinstance(value, dict):
                return {k: still(v) for k, v in value.items() if k not in self.VOLATILE}
            return [still(v) for v in value] if isinstance(value, list) else value
        paths = self.STATE + (f"/mqtt/{self.mqtt}/messages",
                              f"/mqtt/{self.mqtt}/store-and-forward")
        return {p: json.dumps(still(self.assert_ok(self.admin.get(p)).json)) for p in paths}


class Contract(Walk):
    DELETE_ALL = ("deleteMasterTags", "deleteMcmds", "deleteRemoteDevs", "deleteSzones")

    def setUp(self):
        self.tried, self.faults = 0, []

    def expect(self, right, what, reply):
        """Notes a fault and goes on: one run tells them all."""
        self.tried += 1
        if not right:
            self.faults.append(f"{what:.90}: {reply!r}"[:400])
        return right

    def verdict(self, at_least):
        print(f"{self.tried} requests judged", flush=True)
        self.assertEqual(self.faults, [], "\n" + "\n".join(self.faults))
        self.assertGreater(self.tried, at_least)

    def expect_refusal(self, reply, pointer, what):
        return self.expect(reply.status == 400 and pointer in
                           [d["pointer"] for d in reply.json["error"].get("details", [])],
                           f"{pointer} {what}", reply)

    def with_body(self):
        """Those that need one; deleteSzones takes one with a query only: test_modbus_slave_config."""
        return [op for op in self.api.operations
                if "application/json" in op.spec.get("requestBody", {}).get("content", {})
                and op.spec["requestBody"]["required"]]

    def same_state(self, op, before):
        after = self.state()
        changed = [k for k in before if before[k] != after[k]]
        self.expect(not changed, f"{op.name} was refused and changed {changed}",
                    [(before[k], after[k]) for k in changed])

    def body_schema(self, op):
        schema = op.spec["requestBody"]["content"]["application/json"]["schema"]
        return self.api.resolve(schema["oneOf"][0] if "oneOf" in schema else schema)

    def fields(self, schema, path=()):
        """(path, schema) of every member that a request may carry, nested ones too."""
        for name, spec in schema.get("properties", {}).items():
            spec = {**self.api.resolve(spec), **{k: v for k, v in spec.items() if k != "$ref"}}
            if spec.get("readOnly"):
                continue
            yield path + (name,), spec
            inner = spec
            here = path + (name,)
            if spec.get("type") == "array":
                inner, here = self.api.resolve(spec["items"]), here + (0,)
                if "properties" not in inner:
                    yield here, inner
            if "properties" in inner:
                yield from self.fields(inner, here)

    def base(self, schema, body, path):
        """The body with room for the member at that path: lists have one element."""
        body = copy.deepcopy(body)
        at = body
        for step, following in zip(path, path[1:]):
            if isinstance(step, int):
                at = at[step]
                continue
            schema = self.api.resolve(schema["properties"][step])
            if isinstance(following, int):
                schema = self.api.resolve(schema["items"])
                if not at.get(step):
                    at[step] = [{name: values(spec)[0][0] for name, spec in
                                 schema.get("properties", {}).items()
                                 if name in schema.get("required", [])}]
            at = at.setdefault(step, {})
        return body

    def test_1_each_operation_succeeds(self):
        for op in self.api.operations:
            if op.name in ("deleteSessions", "resetMasterConfig", "stopMaster") + self.DELETE_ALL:
                continue  # tests 6 and 8
            path, body, client = self.needs(op)
            reply = self.ask(op, path, body, client)
            self.expect(reply.status == op.success, op.name, reply)
        self.verdict(80)

    def test_2_values_past_a_bound_are_refused_by_name_and_change_nothing(self):
        for op in self.with_body():
            path, body, client = self.needs(op)
            before = self.state()
            schema = self.body_schema(op)
            for at, spec in self.fields(schema):
                for value in values(spec)[1]:
                    wrong = put_at(self.base(schema, body, at), at, value)
                    self.expect_refusal(self.ask(op, path, wrong, client), pointer_of(at),
                                        f"{value!r}")
            self.same_state(op, before)
        self.verdict(1000)

    def test_3_a_missing_or_unknown_member_is_refused_by_name(self):
        for op in self.with_body():
            path, body, client = self.needs(op)
            schema, before = self.body_schema(op), self.state()
            for name in schema.get("required", []):
                if not schema["properties"][name].get("readOnly"):
                    rest = {k: v for k, v in body.items() if k != name}
                    self.expect_refusal(self.ask(op, path, rest, client), f"/{name}", "missing")
            if schema.get("additionalProperties") is False:
                more = {**body, "noSuchMember": 1}
                self.expect_refusal(self.ask(op, path, more, client), "/noSuchMember", "unknown")
            for text in (b"", b"{", b"[]x", b'"text"', b"5", b"\xff"):
                reply = client.request(op.method, self.target(op, path), raw=text,
                                       headers={"Content-Type": "application/json"})
                self.expect(reply.status == 400, f"{op.name} {text}", reply)
            self.same_state(op, before)
        self.verdict(200)

    def test_4_values_at_a_bound_are_accepted(self):
        refused = set()
        for op in self.with_body():
            schema = self.body_schema(op)
            for at, spec in self.fields(schema):
                for value in values(spec)[0]:
                    path, body, client = self.needs(op)
                    right = put_at(self.base(schema, body, at), at, value)
                    reply = self.ask(op, path, right, client)
                    if reply.status == op.success:
                        self.tried += 1
                        self.undo(op, path, body, client, reply)
                        continue
                    rule = next((r for r in RULES if re.fullmatch(r[0], op.name)
                                 and re.fullmatch(r[1], pointer_of(at))), None)
                    refused.add(rule)
                    self.expect(rule and reply.status in (400, 401, 403, 404, 409),
                                f"{op.name} {pointer_of(at)} {value!r}", reply)
        unused = [rule for rule in RULES if rule not in refused]
        self.expect(not unused, "rules that refused nothing", unused)
        self.verdict(400)

    def undo(self, op, path, body, client, reply):
        """Back to what needs() stands on, so that the next value meets the same."""
        if op.method == "POST":
            data = reply.json.get("data") if reply.body else None
            if op.name == "postUsers":
                self.admin.delete(f"/users/{data['id']}")
            elif op.name == "postRoles":
                self.admin.delete(f"/roles/{data['id']}")
            elif op.name == "postAzureIotedgeServices":
                self.admin.delete(f"/azure-iotedge/services/{data['name']}")
            elif op.name == "postMqttClient":
                self.admin.delete(f"/mqtt/{data[-1]['id']}")
            elif op.name == "postMqttMessage":
                self.admin.delete(f"/mqtt/{self.mqtt}/messages/{data[-1]['id']}")
            elif op.name == "postRemoteDevs":
                self.admin.delete(f"/modbusmaster/config/remote-devs/{data['remoteDevId']}")
            elif op.name == "postMcmds":
                self.admin.delete(f"/modbusmaster/config/mcmds/{data['mcmdId']}")
            elif op.name == "postMasterTags":
                self.admin.delete(f"/modbusmaster/config/tags/{data['tagId']}")
            elif op.name == "postSzones":
                self.admin.delete(f"/modbusslave/config/szones/{data['szoneId']}")
        elif op.name == "cloneMasterConfig":
            self.admin.delete(f"/modbusmaster/config/remote-devs/{reply.data['remoteDevId']}")
        elif body is not None and op.name not in ("putUsersMePassword", "putUserPassword"):
            self.assert_ok(self.ask(op, path, body, client))

    def test_5_values_of_path_and_query_are_bounded_too(self):
        for op in self.api.operations:
            if not op.spec.get("parameters"):
                continue
            path, body, client = self.needs(op)
            before = self.state() if op.method != "GET" else None
            in_path = [p for p in op.spec["parameters"] if p["in"] == "path"]
            for i, p in enumerate(in_path):
                if p["schema"]["type"] != "integer":
                    wrong = ["x" * (p["schema"]["maxLength"] + 1), "no-such-one"]
                else:
                    wrong = ["x", "-1", "1.5", "", p["schema"]["maximum"] + 1, 2**64,
                             p["schema"]["maximum"]]
                for value in wrong:
                    reply = self.ask(op, path[:i] + (value,) + path[i + 1:], body, client)
                    self.expect(reply.status in (400, 404, 405), f"{p['name']}={value}", reply)
            for p in op.spec["parameters"]:
                if p["in"] != "query":
                    continue
                spec = self.api.resolve(p["schema"])
                plain = spec["items"] if spec["type"] == "array" else spec
                # in a URL all is text: only what cannot be read as the type is wrong
                wrong = {"integer": ["x", "1.5"], "boolean": ["maybe"], "string": []}[plain["type"]]
                wrong += [v for v in values(plain)[1]
                          if isinstance(v, int) and not isinstance(v, bool)
                          and plain["type"] == "integer"]
                if "enum" in plain:
                    wrong.append("no-such-word")
                elif plain["type"] == "string":
                    wrong.append("x" * (plain["maxLength"] + 1))
                if spec["type"] == "array":
                    wrong.append(",".join(["1"] * (spec["maxItems"] + 1)))
                for value in wrong:
                    reply = self.ask(op, path, body, client, {p["name"]: value})
                    self.expect(reply.status == 400 and any(
                        d["pointer"].startswith(f"/{p['name']}")
                        for d in reply.json["error"].get("details", [])), f"{value}", reply)
                if op.method != "GET" or op.name == "exportMcmds":  # which takes a device's number
                    continue
                for value in values(plain)[0]:
                    if isinstance(value, bool):
                        value = "true" if value else "false"
                    reply = self.ask(op, path, body, client, {p["name"]: value})
                    unknown = p["name"] == "tags" and reply.status == 404  # no such tag
                    in_two = op.name == "getAuditsVerify" and reply.status == 400 and \
                        "go together" in reply.json["error"]["message"]
                    unknown |= p["name"] == "szoneId" and reply.status == 404
                    self.expect(reply.status == 200 or unknown or in_two, f"{p['name']}={value}", reply)
            if before:
                self.same_state(op, before)
        self.verdict(400)

    def test_6_sessions_end_by_their_ids_and_by_their_accounts(self):
        one, other = self.new_session(), self.new_session()
        self.assert_refused(self.admin.delete("/sessions"), 400)
        self.assert_ok(self.admin.delete(f"/sessions?ids={one},{other}"), 204)
        self.assert_refused(self.admin.get(f"/sessions/{one}"), 404)
        token = self.sign_in("walker", self.reset_walker())
        self.assert_ok(self.admin.delete(f"/sessions?userIds={self.user}"), 204)
        self.assert_refused(token.get("/users/me"), 401)

    def reset_walker(self):
        word = self.unique("Walker-word-")
        self.assert_ok(self.admin.put(f"/users/{self.user}/password", {"newPassword": word}))
        return word

    def test_7_certificates_of_a_client_come_as_a_form(self):
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-subj", "/CN=fg", "-days", "2", "-keyout", "-", "-out", "-"],
            check=True, capture_output=True, text=True).stdout
        at = made.index("-----BEGIN CERTIFICATE")
        key, cert = made[:at], made[at:]

        def form(**parts):
            text = "".join(f'--B\r\nContent-Disposition: form-data; name="{n}"; filename="{f}"\r\n'
                           f"\r\n{data}\r\n" for n, (f, data) in parts.items()) + "--B--\r\n"
            return self.admin.request("PUT", f"/mqtt/{self.mqtt}", raw=text.encode(), headers={
                "Content-Type": "multipart/form-data; boundary=B"})
        reply = self.assert_ok(form(rootCaCertFile=("ca.crt", cert), caCertFile=("c.crt", cert),
                                    caPkFile=("c.key", key)))
        self.assertEqual(reply.data["certificate"], {
            "rootCaCertFile": "ca.crt", "caCertFile": "c.crt", "caPkFile": "c.key"})
        self.assertNotIn("PRIVATE", json.dumps(self.admin.get(f"/mqtt/{self.mqtt}").json))
        self.assert_refused(form(caCertFile=("c.crt", "no PEM")), 400)
        self.assert_refused(form(noSuchPart=("c.crt", cert)), 400)
        self.assertEqual(self.admin.get(f"/mqtt/{self.mqtt}").data["certificate"]["caCertFile"],
                         "c.crt")
        reply = self.assert_ok(self.admin.delete(f"/mqtt/{self.mqtt}/certificates"))
        self.assertEqual(set(reply.data["certificate"].values()), {""})

    def test_8_all_of_a_kind_go_with_one_request_and_undo_brings_them_back(self):
        self.apply()
        self.assert_ok(self.admin.put("/modbusslave/control/config/apply"))
        before = self.state()
        for op in self.api.operations:
            if op.name in self.DELETE_ALL:
                side = "/" + op.path.split("/")[1]
                self.assertNotEqual(self.admin.get(op.path).data, [])
                self.assert_ok(self.admin.request(op.method, op.path), 204)
                self.assertEqual(self.admin.get(op.path).data, [])
                change = self.admin.get(f"{side}/status/config/change")
                self.assertEqual(change.data["result"], 1)
                self.assert_ok(self.admin.put(f"{side}/control/config/undo"))
        self.assert_ok(self.admin.put("/modbusmaster/control/config/factory-default"))
        self.assertEqual(self.admin.get("/modbusmaster/config/remote-devs").data, [])
        self.assert_ok(self.admin.put("/modbusmaster/control/config/undo"))
        for what in ("stop", "start"):
            self.assert_ok(self.admin.put(f"/modbusmaster/control/daemon/{what}"))
        self.assertEqual(self.state(), before)

    def test_9_what_was_answered_is_there_after_every_daemon_was_killed(self):
        before = self.state()
        for name in self.fleet.names:
            self.kill(name)
        for name in self.fleet.names:
            self.fleet.d[name].start()
        self.wait_daemons(self.fleet.names)
        self.assertEqual(self.state(), before)
