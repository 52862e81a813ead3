"""The rows `mb_*` of bench.py: the Modbus TCP master beside a bare libmodbus loop."""
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time

DAEMONS = ("auditd", "authd", "tagd", "modbusd", "gateway")
LOAD = ("modbusd", "tagd")


def bench():
    return sys.modules["__main__"]


def plant(args, port, n_ports=1, log="-", delay_us=0, mute=-1):
    return bench().Started(f"{args.bin}/bench_plant", f"{port}-{port + n_ports - 1}", log,
                           str(delay_us), str(mute))


def add_devices(b, ports, **members):
    return [d["remoteDevId"] for d in b.many("/modbusmaster/config/remote-devs", [
        {"masterTcpIfaceId": 1, "name": f"d{i}", "slaveIpaddr": "127.0.0.1", "slaveTcpPort": port,
         **members} for i, port in enumerate(ports)])]


def add_commands(b, devices, n, registers, interval, **members):
    """n commands for each device, one after the other in its registers."""
    return [c["mcmdId"] for c in b.many("/modbusmaster/config/mcmds", [
        {"remoteDevId": d, "name": f"c{i}", "func": 3, "readAddress": 1 + registers * i % 60000,
         "readQuantity": registers, "pollInterval": interval, **members}
        for d in devices for i in range(n)], 500)]


def add_uint16s(b, commands, n):
    """A tag for each register of each command."""
    b.many("/modbusmaster/config/tags", [
        {"mcmdId": c, "name": f"t{i}x{k}", "dataType": "uint16", "offset": 2 * k, "access": "r"}
        for i, c in enumerate(commands) for k in range(n)], 1000)


def add_raws(b, commands, registers):
    """All registers of a command as one value."""
    b.many("/modbusmaster/config/tags", [
        {"mcmdId": c, "name": f"raw{i}", "dataType": "raw", "offset": 0,
         "dataSize": 2 * registers, "access": "r"} for i, c in enumerate(commands)], 1000)


def start_polling(b, device, tag):
    b.s.apply()
    b.h.wait_for("values", lambda: b.s.values(device, tag).get(tag, {}).get("quality") == "good",
                 60)
    time.sleep(2)


def wait_fresh(b, device, tag):
    """The hub's value is of now: what is read does arrive there."""
    now_us = time.time() * 1e6
    b.h.wait_for("a fresh value", lambda: b.s.values(device, tag)[tag]["ts"] > now_us, 10)


@contextlib.contextmanager
def halted(b, *names):
    for n in names:
        os.kill(b.fleet.d[n].pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for n in names:
            os.kill(b.fleet.d[n].pid, signal.SIGCONT)


def bare_loop(args, port):
    """(requests/s, CPU seconds per request) of libmodbus."""
    out = subprocess.run([f"{args.bin}/bare_modbus", str(port), str(args.seconds)], check=True,
                         capture_output=True, text=True).stdout.split()
    n, took, cpu = int(out[0]), float(out[1]), float(out[2])
    return n / took, cpu / n


def row_flat(args):
    """The interval is at least 100 ms, so thousands of commands keep the line busy."""
    B = bench()
    with B.Bench(DAEMONS, args.big) as b:
        port = B.free_port()
        with plant(args, port) as p:
            commands = add_commands(b, add_devices(b, [port]), 4000, 125, 100)
            add_raws(b, commands, 125)
            start_polling(b, "d0", "raw3999")
            rounds = []
            for _ in range(args.rounds):
                with halted(b, *LOAD):
                    bare, bare_cpu = bare_loop(args, port)
                time.sleep(1)
                cpu, rate = B.measure_load(b, p, args.seconds, LOAD)
                rounds.append((rate / bare, cpu["modbusd"] / rate / bare_cpu, rate, bare,
                               cpu["modbusd"] / rate * 1e6, bare_cpu * 1e6, cpu["tagd"]))
            wait_fresh(b, "d0", "raw3999")
            ratio, cpus, rate, bare, us, bare_us, tagd = (
                B.statistics.median(x) for x in zip(*rounds))
            B.row("one device flat out, 125 registers a request: requests/s", f"{rate:,.0f}",
                  f"bare libmodbus loop {bare:,.0f}, ratio {ratio:.2f}; tagd {100 * tagd:.0f} % of "
                  "a core", "≥ 0.9 ×", ratio >= 0.9)
            B.row("one device flat out: CPU per request", f"{us:.1f} µs",
                  f"bare {bare_us:.1f} µs, ratio {cpus:.2f}", "≤ 1.5 ×", cpus <= 1.5)


def row_concurrent(args):
    B = bench()
    rates = {}
    for n in (1, 8, 16):
        with B.Bench(DAEMONS, args.big) as b:
            port = B.free_port()
            with plant(args, port, delay_us=1000) as p:
                devices = add_devices(b, [port], enableConcurrentTransaction=int(n > 1),
                                      numberMaxOfTransaction=n)
                commands = add_commands(b, devices, 2000, 125, 100)
                add_raws(b, commands, 125)
                start_polling(b, "d0", "raw1999")
                rates[n] = B.measure_load(b, p, 2 * args.seconds, LOAD)[1]
    for n, factor in ((8, 7), (16, 13)):
        ratio = rates[n] / rates[1]
        B.row(f"{n} outstanding transactions, answers 1 ms late: requests/s", f"{rates[n]:,.0f}",
              f"one transaction {rates[1]:,.0f}, ratio {ratio:.1f}", f"≥ {factor} ×",
              ratio >= factor)


def row_100k(args):
    B = bench()
    with B.Bench(DAEMONS, args.big) as b:
        first = B.free_ports(10)
        with plant(args, first, 10) as p:
            commands = add_commands(b, add_devices(b, range(first, first + 10)), 80, 125, 1000)
            add_uint16s(b, commands, 125)
            start_polling(b, "d9", "t799x124")
            cpu, rate = B.measure_load(b, p, 20, LOAD)
            B.row("100,000 registers @ 1 s over 10 connections: CPU of modbusd + tagd",
                  f"{100 * sum(cpu.values()):.1f} % of a core",
                  f"modbusd {100 * cpu['modbusd']:.1f}, tagd {100 * cpu['tagd']:.1f}; "
                  f"{rate:.1f} requests/s of 800", "≤ 10 %", sum(cpu.values()) <= 0.10)


def row_1000(args):
    B = bench()
    with B.Bench(DAEMONS, args.big) as b:
        first = B.free_ports(1000)
        with plant(args, first, 1000) as p:
            commands = add_commands(b, add_devices(b, range(first, first + 1000)), 1, 100, 1000)
            add_uint16s(b, commands, 100)
            start_polling(b, "d999", "t999x99")
            cpu, rate = B.measure_load(b, p, 20, LOAD)
            peak = B.LAST_PEAK[0]
            B.row("1,000 devices × 100 tags @ 1 s: CPU of modbusd",
                  f"{100 * cpu['modbusd']:.1f} % of a core",
                  f"tagd {100 * cpu['tagd']:.1f}; {rate:.1f} requests/s", "≤ 30 %",
                  cpu["modbusd"] <= 0.30 and rate >= 995)
            B.row("1,000 devices: requests in the busiest 10 ms", f"{peak}", "10 if evenly spread",
                  "≤ 100", peak <= 100)
            made = b.fleet.d["modbusd"].memory_kib("Pss") / 1024
            b.fleet.d["modbusd"].stop()
            B.report(p)
            began = time.monotonic()
            b.fleet.d["modbusd"].start()
            n, busiest = 0, 0
            while n < 1000 and time.monotonic() - began < 20:
                time.sleep(0.05)
                more, _, peak = B.report(p)
                n, busiest = n + more, max(busiest, peak)
            took = time.monotonic() - began
            B.row("1,000 devices: start of modbusd → as many requests", f"{took:.2f} s",
                  f"busiest 10 ms: {busiest}", "≤ 5 s", took <= 5 and busiest <= 100)
            wait_fresh(b, "d999", "t999x99")
            d, tagd = b.fleet.d["modbusd"], b.fleet.d["tagd"].memory_kib("Pss") / 1024
            pss, own = (d.memory_kib(key) / 1024 for key in ("Pss", "Anonymous"))
            B.row("1,000 devices × 100 tags: PSS of modbusd", f"{pss:.1f} MiB",
                  f"{own:.1f} its own, the rest pages of files; {made:.1f} when all was just "
                  f"configured; tagd {tagd:.1f}", "≤ 60 MiB", pss <= 60)
            B.row("1,000 devices: threads of modbusd", f"{d.threads()}", "own connection each",
                  "≤ 16", d.threads() <= 16)


def row_exact(args):
    B = bench()
    with B.Bench(DAEMONS) as b:
        port, log = B.free_port(), os.path.join(b.fleet.dir, "answers")
        with plant(args, port, log=log):
            b.s.add_device("plant", port, [("count", 3, 0, 1, 100, [("count", "uint16", 0)])])
            start_polling(b, "plant", "count")
            began = time.monotonic()
            time.sleep(60 * args.minutes)
            with open(log, encoding="ascii") as f:
                at = [t for t in (float(line.split()[1]) for line in f) if t >= began]
    # The grid is unknown but for its step: the earliest of all is taken to be in time.
    off = [t - 0.1 * round((t - at[0]) / 0.1) for t in at]
    late = sorted(1000 * (x - min(off)) for x in off)
    mean = 1000 * (at[-1] - at[0]) / (len(at) - 1)
    B.row(f"exactness @ 100 ms over {args.minutes:g} min: mean period", f"{mean:.4f} ms",
          f"{len(at)} answers", "within 0.01 %", abs(mean / 100 - 1) <= 0.0001)
    p999 = late[min(len(late) - 1, len(late) * 999 // 1000)]
    B.row(f"exactness @ 100 ms over {args.minutes:g} min: lateness", f"p99.9 {p999:.2f} ms",
          f"p50 {late[len(late) // 2]:.2f}, max {late[-1]:.2f}", "p99.9 ≤ 5 ms", p999 <= 5)


def row_mute(args):
    B = bench()
    with B.Bench(DAEMONS) as b:
        port, log = B.free_port(), os.path.join(b.fleet.dir, "answers")
        with plant(args, port, log=log, mute=9):
            b.s.add_device("healthy", port, [("count", 3, 0, 1, 100, [("count", "uint16", 0)])])
            b.s.add_device("mute", port, [("count", 3, 100, 1, 100, [("count", "uint16", 0)])],
                           unit=9)
            start_polling(b, "healthy", "count")
            began = time.monotonic()
            time.sleep(30)
            with open(log, encoding="ascii") as f:
                at = [t for t in (float(line.split()[1]) for line in f)
                      if began <= t < began + 30]
    kept = len(at) / 300
    B.row("a mute unit behind a shared connection: samples of the healthy one",
          f"{100 * kept:.1f} % of 300", "both polled @ 100 ms, time-out 1 s, 3 retries", "≥ 95 %",
          kept >= 0.95)


class Writer:
    """One client on one connection."""

    def __init__(self, b):
        self.link = http.client.HTTPConnection("127.0.0.1", b.fleet.http_port)
        self.head = {"Authorization": f"Bearer {b.admin.token}",
                     "Content-Type": "application/json"}

    def put(self, path, body):
        """ms from the request to its answer."""
        text, began = json.dumps(body), time.perf_counter()
        self.link.request("PUT", f"/api/v1{path}", text, self.head)
        reply = self.link.getresponse()
        data = reply.read()
        if reply.status not in (200, 204):
            raise RuntimeError(f"{path}: {reply.status} {data[:200]!r}")
        return 1000 * (time.perf_counter() - began)


def flush_ms(directory):
    """What the disk takes for one fdatasync of a page; a write waits for the commit of its note, of
    two flushes, and one that follows at once also for that of the record before."""
    times = []
    with open(os.path.join(directory, "page"), "wb", buffering=0) as f:
        for _ in range(200):
            f.seek(0)
            f.write(bytes(4096))
            began = time.perf_counter()
            os.fdatasync(f.fileno())
            times.append(1000 * (time.perf_counter() - began))
    return bench().quantiles(times)[0]


def row_write(args):
    B = bench()
    with B.Bench() as b:
        port = B.free_port()
        with plant(args, port):
            b.s.add_device("plant", port, [("w", 6, 1000, 1, 1000, [("w", "uint16", 0)])])
            device = b.admin.get("/modbusmaster/config/remote-devs").data[0]["remoteDevId"]
            add_uint16s(b, add_commands(b, [device], 80, 125, 100), 1)
            start_polling(b, "plant", "t79x0")
            writer, took = Writer(b), {"direct-write-tag": [], "tags/access": []}
            for i in range(1000):
                took["direct-write-tag"].append(writer.put(
                    "/modbusmaster/operate/direct-write-tag",
                    {"prvdName": B.P, "srcName": "plant", "tagName": "w", "dataType": "uint16",
                     "dataValue": i}))
                took["tags/access"].append(writer.put(
                    f"/tags/access/{B.P}/plant/w", {"dataType": "uint16", "dataValue": i}))
            flush = flush_ms(b.fleet.dir)
            for name, times in took.items():
                p50, p99, worst = B.quantiles(times)
                B.row(f"tag write by {name} → device → answer, while polling 800 requests/s",
                      f"p50 {p50:.2f}, p99 {p99:.2f} ms", f"max {worst:.2f}, {len(times)} writes; "
                      f"one fdatasync {flush:.2f}",
                      "≤ 1, ≤ 5 ms", p50 <= 1 and p99 <= 5)
