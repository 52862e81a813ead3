"""The row `csv` of bench.py: 1,000 devices × 100 tags come as a CSV file and are
applied, beside a device that is polled all the while."""
import os
import struct
import sys
import threading
import time

DEVICES, TAGS, PORTS = 1000, 100, 200
WATCHED, PERIOD_MS = 20, 100
DEV_COLUMNS = "masterTcpIfaceId,name,slaveId,slaveIpaddr,slaveTcpPort"
CMD_COLUMNS = "remoteDevName,name,func,readAddress,readQuantity,pollInterval"
TAG_COLUMNS = "remoteDevName,mcmdName,name,dataType,dataUnit,access,offset"


def plant_file(first, watched_port):
    """The watched device with WATCHED commands of one tag, then all the others."""
    devices = [f"1,watched,1,127.0.0.1,{watched_port}"]
    commands = [f"watched,c{k},3,{10 * k},1,{PERIOD_MS}" for k in range(WATCHED)]
    tags = [f"watched,c{k},t{k},uint16,,r,0" for k in range(WATCHED)]
    for i in range(DEVICES):
        devices.append(f"1,d{i},{i // PORTS + 1},127.0.0.1,{first + i % PORTS}")
        commands.append(f"d{i},all,3,0,{TAGS},1000")
        tags += [f"d{i},all,t{k},uint16,l/s,r,{2 * k}" for k in range(TAGS)]
    # the limit is for all of them: the watched ones take the place of some others
    tags = tags[:100000]
    return "\r\n".join(["version,1", "remoteDevs", DEV_COLUMNS, *devices[:DEVICES], "mcmds",
                        CMD_COLUMNS, *commands[:WATCHED + DEVICES - 1], "tags", TAG_COLUMNS,
                        *[t for t in tags if not t.startswith(f"d{DEVICES - 1},")], ""])


class Samples(threading.Thread):
    """When the replies of the watched tags arrived, from modbusd's own tag bus."""

    def __init__(self, path, numbers):
        super().__init__(daemon=True)
        from buspeer import Listener
        self.pipe = Listener(path, 60)
        self.times = {no: [] for no in numbers}
        self.start()

    def run(self):
        while True:
            try:
                data = self.pipe.take_frame()
            except OSError:
                return
            n, = struct.unpack(">H", data[24:26])
            for at in range(32, 32 + 24 * n, 24):
                no, = struct.unpack(">I", data[at:at + 4])
                if no in self.times:
                    self.times[no].append(struct.unpack(">q", data[at + 8:at + 16])[0])

    def worst_gap_ms(self, since_us, until_us):
        """Over its period: the longest time for which any watched tag had no sample."""
        gaps = [b - a for times in self.times.values() for a, b in zip(times, times[1:])
                if b >= since_us and a <= until_us]
        return max(gaps) / 1000 - PERIOD_MS


def memory_kib(daemon, key):
    with open(f"/proc/{daemon.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(key + ":"))


def timed(admin, call):
    """(reply, s, wall µs before, after)"""
    before = time.time()
    reply = call(admin)
    if reply.status not in (200, 201):
        raise RuntimeError(f"{reply.status} {reply.body[:500]!r}")
    # reply.took: without what the bench does with the answer
    return reply, reply.took, int(before * 1e6), int((before + reply.took) * 1e6)


def row_csv(bench, args):
    sys.path.insert(0, os.path.join(bench.ROOT, "tests", "daemon"))
    with bench.Bench(("auditd", "authd", "tagd", "modbusd", "gateway"), args.big) as b:
        first, own = bench.free_ports(PORTS), bench.free_port()
        with bench.Started(f"{args.bin}/bench_plant", f"{first}-{first + PORTS - 1}"), \
                bench.Started(f"{args.bin}/bench_plant", str(own)):
            measure(bench, b, plant_file(first, own), own)


def post(text):
    return lambda admin: admin.form("POST", "/modbusmaster/control/config/masters/import",
                                    mastersFile=("plant.csv", text))


def measure(bench, b, text, own):
    modbusd = b.fleet.d["modbusd"]
    small = "\r\n".join(["version,1", "remoteDevs", DEV_COLUMNS, f"1,watched,1,127.0.0.1,{own}",
                         "mcmds", CMD_COLUMNS,
                         *[f"watched,c{k},3,{10 * k},1,{PERIOD_MS}" for k in range(WATCHED)],
                         "tags", TAG_COLUMNS,
                         *[f"watched,c{k},t{k},uint16,,r,0" for k in range(WATCHED)], ""])
    timed(b.admin, post(small))
    b.s.apply()
    b.h.wait_for("values", lambda: b.s.values("watched", "t0").get("t0", {})
                 .get("quality") == "good", 30)
    numbers = [t["tagId"] for t in b.admin.get("/modbusmaster/config/tags").data]
    samples = Samples(f"{b.fleet.run}/bus/modbusd.tags", numbers)
    time.sleep(2)
    before = memory_kib(modbusd, "VmRSS")
    with open(f"/proc/{modbusd.pid}/clear_refs", "w", encoding="ascii") as f:
        f.write("5")  # the peak begins anew
    _, took, t0, t1 = timed(b.admin, post(text))
    peak = memory_kib(modbusd, "VmHWM") - before
    kept = memory_kib(modbusd, "VmRSS") - before
    n_tags = text.count(",uint16,")
    bench.row(f"CSV import of {n_tags:,} tags", f"{took:.2f} s",
              f"file {len(text) / 1e6:.1f} MB, answer included", "≤ 3 s", took <= 3)
    bench.row("CSV import: memory", f"{peak / 1024:.0f} MiB", f"{kept / 1024:.0f} MiB kept",
              "≤ 100 MiB", peak <= 100 * 1024)
    _, applied, t2, t3 = timed(b.admin, lambda a: a.put("/modbusmaster/control/config/apply"))
    time.sleep(3)
    for what, since, until, s in (("import", t0, t1, took), ("apply", t2, t3, applied)):
        gap = samples.worst_gap_ms(since, until)
        bench.row(f"largest gap in samples of an untouched device: {what} of {n_tags:,} tags",
                  f"{gap:.0f} ms", f"over its period of {PERIOD_MS} ms; {s:.2f} s", "≤ 100 ms",
                  gap <= 100)
    _, again, t4, t5 = timed(b.admin, post(text))
    changed = b.admin.get("/modbusmaster/status/config/change").data["result"]
    bench.row("the same file again", f"{again:.2f} s",
              f"changes {changed}, gap {samples.worst_gap_ms(t4, t5):.0f} ms", "nothing to apply",
              changed == 0)
    reply, export, t6, t7 = timed(b.admin, lambda a: a.get(
        "/modbusmaster/control/config/masters/export"))
    bench.row("CSV export of the same", f"{export:.2f} s",
              f"{len(reply.body) / 1e6:.1f} MB, gap {samples.worst_gap_ms(t6, t7):.0f} ms", "≤ 3 s",
              export <= 3)
