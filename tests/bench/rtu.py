"""How much of a serial line modbusd uses: the lines of the bench, which carry
characters at the rate that is set, and a device that answers as soon as it may."""
import glob
import signal
import time

QUANTITY, COMMANDS = 125, 40
REQUEST, ANSWER = 8, 5 + 2 * QUANTITY
BITS = 11  # start, 8 data, even parity, stop
RATES = (9600, 19200, 38400, 57600, 115200)


def silence_s(baud):
    """Modbus over Serial Line V1.02, 2.5.1.1."""
    return 0.00175 if baud > 19200 else 3.5 * BITS / baud


def transaction_s(baud):
    """Both frames, and the silence before each."""
    return (REQUEST + ANSWER) * BITS / baud + 2 * silence_s(baud)


def add_device(b):
    b.s.add_device("rtu", 502, [
        (f"c{i}", 3, i * QUANTITY, QUANTITY, 100, [("t", "uint16", 0)] if i == 0 else [])
        for i in range(COMMANDS)], masterSerIfaceId=1)
    b.s.apply()


def told(device):
    device.p.send_signal(signal.SIGUSR1)
    n, us = device.p.stdout.readline().split()
    return int(n), int(us)


def waited_s(*pids):
    """How long threads of these processes stood in line for a CPU (kernel, sched-stats.rst)."""
    total = 0
    for pid in pids:
        for stat in glob.glob(f"/proc/{pid}/task/*/schedstat"):
            with open(stat, encoding="ascii") as f:
                total += int(f.read().split()[1])
    return total / 1e9


def measure(b, args, started, row, note):
    import harness
    harness.wait_for("the interface", lambda: b.admin.get(
        "/modbusmaster/config/master-ser-ifaces").data)
    add_device(b)
    for baud in RATES:
        reply = b.admin.patch("/device/serials/1", {"baudRate": baud, "parity": "even"})
        if reply.status != 200:
            raise RuntimeError(f"{reply}")
        with started(f"{args.bin}/bench_rtu", f"{b.fleet.state}/iod/dev/line0",
                     str(round(silence_s(baud) * 1e9))) as device:
            time.sleep(2)  # until it is under way
            pids = (device.p.pid, *(b.fleet.d[n].pid for n in ("iod", "modbusd")))
            told(device)
            cpu, waited = b.cpu("modbusd"), waited_s(*pids)
            time.sleep(max(args.seconds, 20 * transaction_s(baud)))
            n, us = told(device)
            cpu = (b.cpu("modbusd") - cpu) / max(n, 1) * 1e6
            waited = (waited_s(*pids) - waited) / max(n, 1)
        lost = us / 1e6 / max(n - 1, 1) - transaction_s(baud)
        note(f"{1e3 * lost:.2f} ms lost per transaction, {1e3 * waited:.2f} ms in line for a CPU")
        share = (n - 1) / (us / 1e6) * transaction_s(baud)
        row(f"RTU {baud:,} baud, {QUANTITY} registers a request: share of the line",
            f"{100 * share:.1f} %", f"{(n - 1) / (us / 1e6):.2f} requests/s of "
            f"{1 / transaction_s(baud):.2f}; {cpu:.0f} µs of CPU each", "≥ 95 %", share >= 0.95)
