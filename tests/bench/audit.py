"""The row `audit` of bench.py: a log of a million records."""
import csv
import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

RECORDS, BATCH, PAGE_MS = 1000000, 100, 50

# what is asked -> query; each with limit=100
PAGES = {
    "newest": "",
    "offset 500,000": "offset=500000",
    "offset 999,900": "offset=999900",
    "by id, offset 500,000": "order=id&offset=500000",
    "by category, offset 500,000": "order=category&offset=500000",
    "by name, offset 500,000": "order=name&offset=500000",
    "by severity, offset 500,000": "order=severity&offset=500000",
    "by severity ascending": "order=severity&sort=asc",
    "of a category": "categories=Maintenance",
    "of two names": "names=signIn,tagWrite",
    "of a severity, by name": "severities=alert&order=name",
    "of two accounts, offset 50,000": "sources=account3,account7&offset=50000",
    "of an account and a name": "sources=account3&names=signIn",
    "of an account, next page": "sources=account3&offset=20000",
    "of a text, next page": "messages=signed&offset=50000",
}


def fill(helper, *args):
    return float(subprocess.run([helper, *map(str, args)], check=True, capture_output=True,
                                text=True).stdout)


def append_rates(helper, tmp, rounds):
    """(ours, bare) medians of records a second."""
    ours, bare = [], []
    for i in range(rounds):
        ours.append(fill(helper, "fill", f"{tmp}/ours{i}", 100000, BATCH))
        bare.append(fill(helper, "copy", f"{tmp}/ours{i}", f"{tmp}/bare{i}", BATCH))
        shutil.rmtree(f"{tmp}/ours{i}")
        shutil.rmtree(f"{tmp}/bare{i}")
    return statistics.median(ours), statistics.median(bare)


def appends(bench, helper, tmp, rounds):
    """What ours does beside the put: a hash, the index, the state, making up the record."""
    with tempfile.TemporaryDirectory(prefix="fg-", dir="/dev/shm") as memory:
        a, b = append_rates(helper, memory, rounds)
    bench.row(f"audit: records appended in memory, {BATCH} in a transaction", f"{a:,.0f}/s",
              f"bare LMDB puts of the same values {b:,.0f}/s, ratio {a / b:.2f}", "≥ 0.15 ×",
              a / b >= 0.15)
    a, b = append_rates(helper, tmp, rounds)
    bench.note(f"on disk {a:,.0f}/s, bare {b:,.0f}/s: the disk's flushes decide")


def deliver(bench, b, buspeer):
    """AUDIT_APPEND as daemons send it."""
    records = [{"seq": i, "event": "tagWrite", "message": f"Change of pump {i}", "source": "sam",
                "detail": '{"path":{"id":"7"},"body":{"name":"pump","enable":true}}',
                "addr": "192.168.127.20", "requestId": f"{i:016x}",
                "at": int(time.time() * 1e6)} for i in range(1, 20001)]
    messages = [buspeer.message(buspeer.request(
        buspeer.AUDIT_APPEND, {"store": "0" * 32, "daemon": "modbusd",
                               "records": records[i:i + BATCH]},
        deadline_us=int((time.monotonic() + 60) * 1e6))) for i in range(0, len(records), BATCH)]
    peer = buspeer.Peer(f"{b.fleet.run}/bus/auditd.rpc", 60)
    began = time.monotonic()
    for m in messages:
        peer.send(m)
        if buspeer.replies(peer.receive())[0].status != 200:
            raise RuntimeError("records were not taken")
    took = time.monotonic() - began
    peer.close()
    bench.note(f"delivered over the bus, {BATCH} at once: {len(records) / took:,.0f} records/s")


def pages(bench, b):
    worst = 0
    for what, query in PAGES.items():
        times, cpu = [], b.cpu("auditd")
        for _ in range(25):
            got = b.admin.get(f"/audits?limit=100&{query}")
            if got.status != 200 or got.json["count"] != 100:
                raise RuntimeError(f"{query}: {got!r}"[:300])
            if _ > 0 or "text" not in what:
                times.append(got.took * 1000)
        cpu = (b.cpu("auditd") - cpu) / 25 * 1000
        times.sort()
        p50, p99 = statistics.median(times), times[-1]
        worst = max(worst, p50)
        bench.note(f"page {what}: p50 {p50:.1f} ms, most of {len(times)} {p99:.1f} ms, "
                   f"CPU of auditd {cpu:.1f} ms, "
                   f"total {got.json['total']:,}")
    bench.row(f"audit: the slowest kind of page of {RECORDS:,} records, p50", f"{worst:.1f} ms",
              f"{len(PAGES)} kinds", f"≤ {PAGE_MS} ms", worst <= PAGE_MS)


class Other:
    """Somebody who asks for something short all the time."""

    def __init__(self, b):
        self.client, self.times, self.over = b.s.sign_in(), [], threading.Event()
        self.thread = threading.Thread(target=self.ask)

    def ask(self):
        while not self.over.wait(0.002):
            self.times.append(self.client.get("/audits/profile").took * 1000)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.times.sort()


def first_pages(bench, b, kind, words):
    """Each word spelled in many ways, which the daemon takes for as many searches."""
    worst, cpu = 0, b.cpu("auditd")
    with Other(b) as other:
        for word in words:
            times = []
            for i in range(1, 8):
                spelled = "".join(c.upper() if k % 8 < i else c for k, c in enumerate(word))
                got = b.admin.get(f"/audits?limit=100&messages={spelled.replace(' ', '+')}")
                times.append(got.took * 1000)
            worst = max(worst, statistics.median(times))
            bench.note(f"first page of {word!r}: p50 {statistics.median(times):.1f} ms, "
                       f"total {got.json['total']:,}")
    cpu = (b.cpu("auditd") - cpu) / 7 / len(words) * 1000
    bench.row(f"audit: the first page of a text, messages {kind}, p50", f"{worst:.0f} ms",
              f"the slowest of {len(words)} words, CPU of auditd {cpu:.0f} ms with the others' "
              f"requests, {RECORDS / worst * 1000:,.0f} records/s", f"≤ {PAGE_MS} ms", worst <= PAGE_MS)
    n = len(other.times)
    bench.note(f"others were answered meanwhile: {n} times, p50 {other.times[n // 2]:.1f} ms, "
               f"p90 {other.times[n * 9 // 10]:.1f} ms, most {other.times[-1]:.1f} ms")


def load(bench, b, helper, kind):
    """A log of a million records into a daemon that is started with it."""
    auditd = b.fleet.d["auditd"]
    auditd.stop()
    store = os.path.join(b.fleet.state, "auditd")
    shutil.rmtree(store)
    os.mkdir(store, 0o700)
    fill(helper, kind, store, RECORDS, 5000)
    began = time.monotonic()
    auditd.start()
    while b.admin.get("/audits/profile").status != 200:
        time.sleep(0.01)
    bench.note(f"auditd ready {1000 * (time.monotonic() - began):.0f} ms after its start, "
               f"PSS {auditd.memory_kib('Pss') / 1024:.1f} MiB")


def download(bench, b):
    auditd = b.fleet.d["auditd"]
    before, most, over = auditd.memory_kib("Pss_Anon"), [0], threading.Event()

    def look():
        while not over.wait(0.05):
            most[0] = max(most[0], auditd.memory_kib("Pss_Anon"))
    looker = threading.Thread(target=look)
    looker.start()
    began = time.monotonic()
    path = f"{b.fleet.run}/audit.tar.gz"
    subprocess.run(["curl", "-sSf", "-o", path, "-H", f"Authorization: Bearer {b.admin.token}",
                    f"http://127.0.0.1:{b.fleet.http_port}/api/v1/audits?download=true"],
                   check=True)
    took = time.monotonic() - began
    over.set()
    looker.join()
    with tarfile.open(path, mode="r:gz") as tar:
        member, = tar.getmembers()
        text = io.TextIOWrapper(tar.extractfile(member), newline="")
        n = sum(1 for _ in csv.reader(text)) - 1
    if n < RECORDS:
        raise RuntimeError(f"{n} rows in the file")
    with open(path, "rb") as f:
        data = subprocess.run(["gzip", "-dc"], stdin=f, check=True, capture_output=True).stdout
    began = time.monotonic()
    subprocess.run(["gzip", "-6", "-c"], input=data, check=True, capture_output=True)
    gzip = time.monotonic() - began
    size = member.size / 1e6
    bench.row("audit: the log as a file", f"{size / took:.0f} MB/s of CSV, {took:.1f} s",
              f"gzip -6 of it alone {size / gzip:.0f} MB/s, ratio {gzip / took:.2f}; "
              f"{os.path.getsize(path) / 1e6:.0f} MB on the wire", "≥ 0.5 ×", gzip / took >= 0.5)
    grown = (most[0] - before) / 1024
    bench.row("audit: memory of auditd while it writes the file", f"+ {grown:.1f} MiB",
              f"before {before / 1024:.1f} MiB", "≤ 4 MiB", grown <= 4)


def check(bench, b):
    began = time.monotonic()
    got = b.admin.get("/audits/verify")
    took = time.monotonic() - began
    if not got.data["ok"]:
        raise RuntimeError(f"{got!r}")
    rate = got.data["records"] / took
    bench.row("audit: the chain checked", f"{rate:,.0f} records/s", f"{took:.1f} s",
              "≥ 200,000/s", rate >= 200000)


def row_audit(bench, args):
    sys.path.insert(0, os.path.join(bench.ROOT, "tests", "daemon"))
    import buspeer
    helper = os.path.join(args.bin, "audit_fill")
    with tempfile.TemporaryDirectory(prefix="fg-") as tmp:
        appends(bench, helper, tmp, args.rounds)
        with bench.Bench(("auditd", "authd", "gateway")) as b:
            auditd = b.fleet.d["auditd"]
            load(bench, b, helper, "apart")
            first_pages(bench, b, "all different", ("boiler", "change of pump 77", "nowhere"))
            load(bench, b, helper, "fill")
            first_pages(bench, b, "of the product", ("signed", "group 37 of", "nowhere"))
            pages(bench, b)
            check(bench, b)
            download(bench, b)
            deliver(bench, b, buspeer)
            bench.note(f"PSS after all that {auditd.memory_kib('Pss') / 1024:.1f} MiB, "
                       f"of it its own {auditd.memory_kib('Pss_Anon') / 1024:.1f}")
