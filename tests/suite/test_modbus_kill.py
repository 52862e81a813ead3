"""modbusd killed while it imports or applies: the configuration before or the
one after, whole, each with its audit record. KILLS=100 for as many of each."""
import os
import threading

from harness import Suite, Unanswered, wait_for

KILLS = int(os.environ.get("KILLS", "6"))
CONTROL = "/modbusmaster/control/config"
DEVICES, TAGS = 40, 25


def plant(word):
    """Nothing in it is as in the plant of another word, but some names are."""
    names = [f"{word if i % 2 else 'd'}{i}" for i in range(DEVICES)]
    devices = [f"1,{n},{i},192.0.2.{len(word)},502" for i, n in enumerate(names)]
    return "\r\n".join(
        ["version,1", "remoteDevs", "masterTcpIfaceId,name,slaveId,slaveIpaddr,slaveTcpPort",
         *devices, "mcmds", "remoteDevName,name,func,readQuantity,enable",
         *[f"{n},all,3,{TAGS},0" for n in names], "tags",
         "remoteDevName,mcmdName,name,dataType,offset,access",
         *[f"{n},all,{word}{k},uint16,{2 * k},r" for n in names for k in range(TAGS)], ""])


class Killed(Suite):
    daemons = ("auditd", "authd", "tagd", "modbusd", "gateway")

    @classmethod
    def prepare(cls):
        cls.plants = {word: plant(word) for word in ("a", "bb")}
        cls.exports = {}
        for word in cls.plants:
            reply = cls.send(word)
            assert reply.status == 201, reply
            cls.import_took = reply.took
            cls.exports[word] = cls.staged()
        cls.apply_took = cls.admin.put(f"{CONTROL}/apply").took

    @classmethod
    def send(cls, word):
        return cls.admin.form("POST", f"{CONTROL}/masters/import",
                              mastersFile=("m.csv", cls.plants[word]))

    @classmethod
    def staged(cls):
        """Its lines: in which order they stand depends on what was there before."""
        reply = cls.admin.get(f"{CONTROL}/masters/export")
        assert reply.status == 200, reply
        return sorted(reply.body.decode().split("\r\n"))

    def which(self, found):
        """The word of the plant that is there, whole."""
        words = [w for w, there in self.exports.items() if there == found]
        self.assertEqual(len(words), 1, f"neither plant: {len(found)} lines {found[:20]}")
        return words[0]

    def running(self):
        """As staged() would tell of what runs: names of all tags."""
        def whole():
            reply = self.admin.get("/modbusmaster/platform/master-tags")
            return reply if reply.status == 200 else None
        tags = wait_for("the tags", whole).data
        names = {(t["srcName"], t["tagName"]) for t in tags if t["tagName"] != "status"}
        for word in self.plants:
            rows = [line.split(",") for line in self.plants[word].split("\r\n")
                    if f",all,{word}" in line]
            if names == {(r[0], r[2]) for r in rows}:
                return word
        raise AssertionError(f"neither plant runs: {len(names)} {sorted(names)[:20]}")

    def kill_while(self, action, after):
        """True when the action was answered well before the kill."""
        answered = []

        def run():
            try:
                answered.append(action().status)
            except Unanswered:
                answered.append(None)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join(after)
        self.kill("modbusd")
        thread.join()
        self.start("modbusd")
        return answered[0] in (200, 201)

    def other(self, word):
        return next(w for w in self.plants if w != word)

    def test_an_import_is_there_whole_with_its_record_or_not_at_all(self):
        now = self.which(self.staged())
        before = len(self.audits(names="modbusMasterImport"))
        seen = {True: 0, False: 0}
        for i in range(KILLS):
            wanted = self.other(now)
            answered = self.kill_while(lambda: self.send(wanted), 1.2 * i / KILLS * self.import_took)
            found = self.which(self.staged())
            if answered:
                self.assertEqual(found, wanted)
            seen[found == wanted] += 1
            now = found
        self.assert_ok(self.send(self.other(now)), 201)
        made = before + seen[True] + 1
        wait_for("the records", lambda: len(self.audits(names="modbusMasterImport")) >= made)
        self.assertEqual(len(self.audits(names="modbusMasterImport")), made)
        print(f"{KILLS} kills: {seen[True]} imports were made, {seen[False]} were not", flush=True)

    def test_what_was_applied_runs_whole_or_what_ran_before(self):
        self.apply()
        now = self.running()
        seen = {True: 0, False: 0}
        for i in range(KILLS):
            wanted = self.other(now)
            self.assert_ok(self.send(wanted), 201)
            answered = self.kill_while(lambda: self.admin.put(f"{CONTROL}/apply"),
                                       1.2 * i / KILLS * self.apply_took)
            found = self.running()
            if answered:
                self.assertEqual(found, wanted)
            changed = self.admin.get("/modbusmaster/status/config/change").data["result"]
            self.assertEqual(changed, int(found != wanted))
            self.assertEqual(self.which(self.staged()), wanted)
            seen[found == wanted] += 1
            now = found
        print(f"{KILLS} kills: {seen[True]} were applied, {seen[False]} were not", flush=True)
