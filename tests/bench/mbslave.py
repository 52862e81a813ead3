"""The row of the Modbus slave: many clients, beside libmodbus's own server loop."""
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile

CLIENTS, REGISTERS = 100, 65536


def load(args, port):
    """(requests/s, p50 µs, p99 µs, requests)"""
    text = subprocess.run([f"{args.bin}/mb_load", str(port), str(CLIENTS), str(args.seconds)],
                          capture_output=True, text=True, check=True).stdout.split()
    return int(text[0]) / float(text[1]), int(text[2]), int(text[3]), int(text[0])


def measure(bench, args, port, pid):
    """One round: (requests/s, µs of CPU a request, p99 µs)."""
    before = bench.proc_cpu(pid)
    rate, _, p99, n = load(args, port)
    return rate, 1e6 * (bench.proc_cpu(pid) - before) / n, p99


def whole_table():
    """Every holding register a tag."""
    lines = [f"zone 2 0 {REGISTERS} 0 own"]
    lines += [f"tag {1 + i} r{i} uint16 rw 0 {2 * i}" for i in range(REGISTERS)]
    return lines


def row_mbslave(bench, args):
    sys.path.insert(0, os.path.join(bench.ROOT, "tests", "fakes"))
    from slave import Slave
    with tempfile.TemporaryDirectory() as tmp, contextlib.ExitStack() as stack:
        port = bench.free_port()
        bare = stack.enter_context(bench.Started(f"{args.bin}/bare_slave", str(port)))
        slave = Slave(tmp, whole_table())
        stack.callback(slave.stop)
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(measure(bench, args, slave.port, slave.process.pid))
            theirs.append(measure(bench, args, port, bare.p.pid))
        mine, bare_one = ([statistics.median(r[i] for r in rounds) for i in range(3)]
                          for rounds in (ours, theirs))
        bench.row(f"slave: {CLIENTS} clients reading 125 registers", f"{mine[0]:,.0f} requests/s",
                  f"libmodbus's loop {bare_one[0]:,.0f}, ratio {mine[0] / bare_one[0]:.2f}",
                  "≥ 0.9 ×", mine[0] >= 0.9 * bare_one[0])
        bench.note(f"CPU a request {mine[1]:.1f} µs (libmodbus {bare_one[1]:.1f}); "
                   f"p99 {mine[2]:.0f} µs (libmodbus {bare_one[2]:.0f})")
