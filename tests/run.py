#!/usr/bin/python3
"""Runs the tests of one build and counts them.

usage: run.py [--build DIR] [--variant NAME] [--jobs N] [--list] [PATTERN...]

    unit      every program of DIR/tests (cmocka)
    fuzz      every DIR/fuzz/*-replay over its corpus
    daemon    tests/daemon/test_*.py
    suite     tests/suite/test_*.py
    soak      tests/soak/test_*.py, when a PATTERN begins with it only

A PATTERN picks jobs whose name ("unit/test_json", "suite/test_steps") it is
part of; "suite/test_steps.Steps.test_x" picks one test. Each test has a time
limit; a job past it is killed with all its children. Temporary directories
and processes do not outlive the run. The last line is "N passed, M failed"
and counts single tests; the exit code is 1 when one failed.
"""
import argparse
import collections
import ctypes
import glob
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import requirements

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PYTHON = "/usr/bin/python3"
UNIT_LIMIT, TEST_LIMIT = 180, 120
SLOW = {"asan": 3, "tsan": 6}

Job = collections.namedtuple("Job", "name kind argv limit cost private_mounts")


def python_job(name, path, only):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    found = lambda key, default: int(m.group(1)) if (
        m := re.search(rf"^{key} = (\d+)", text, re.M)) else default
    argv = [PYTHON, os.path.join(HERE, "run_module.py"), path] + ([only] if only else [])
    return Job(name, "python", argv, found("TEST_SECONDS", TEST_LIMIT), found("COST", 1),
               bool(re.search(r"^PRIVATE_MOUNTS = True", text, re.M)))


def jobs_of(build, patterns):
    jobs = []
    for path in sorted(glob.glob(f"{build}/tests/test_*")):
        if os.access(path, os.X_OK) and not path.endswith((".o", ".d")):
            jobs.append(Job("unit/" + os.path.basename(path), "cmocka", [path], UNIT_LIMIT, 1,
                            False))
    for path in sorted(glob.glob(f"{build}/fuzz/*-replay")):
        name = os.path.basename(path)[:-len("-replay")]
        corpus = os.path.join(HERE, "fuzz", "corpus", name)
        jobs.append(Job("fuzz/" + name, "replay", [path, corpus], UNIT_LIMIT, 1, False))
    soak = ("soak",) if any(p.startswith("soak") for p in patterns) else ()
    for kind in ("daemon", "suite", *soak):
        for path in sorted(glob.glob(os.path.join(HERE, kind, "test_*.py"))):
            name = f"{kind}/{os.path.basename(path)[:-3]}"
            only = None
            for p in patterns:
                if p.startswith(name + "."):
                    only = p[len(name) + 1:]
            jobs.append(python_job(name, path, only))
    if patterns:
        jobs = [j for j in jobs if any(p in j.name or p.startswith(j.name + ".")
                                       for p in patterns)]
    return jobs


class Result:
    def __init__(self, job):
        self.job, self.passed, self.failed, self.output = job, [], [], []
        self.skipped = []
        self.took = self.cpu = 0.0


def has_ended(process):
    """As poll(), but its use of the CPU is still there to ask for."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def run_job(job, env, scale, base):
    """Runs one job in a process group and directory of its own."""
    result = Result(job)
    began = time.monotonic()
    tmp = tempfile.mkdtemp(prefix="t", dir=base)
    env = dict(env, TMPDIR=tmp)
    argv = list(job.argv)
    if job.private_mounts:
        alone = ["unshare", "-m" if os.getuid() == 0 else "-rm"]
        if subprocess.run(alone + ["true"], capture_output=True).returncode == 0:
            argv = alone + argv
            env["PRIVATE_MOUNTS"] = "1"  # without it, tests that mount are skipped
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               stdin=subprocess.DEVNULL, env=env, cwd=ROOT,
                               start_new_session=True)
    RUNNING.add(process.pid)
    limit = job.limit * scale
    watch = selectors.DefaultSelector()
    watch.register(process.stdout, selectors.EVENT_READ)
    os.set_blocking(process.stdout.fileno(), False)
    rest, current, deadline, tests = b"", None, time.monotonic() + limit, []
    open_pipe = True
    while open_pipe:
        if time.monotonic() > deadline:
            result.output.append(f"!! no end within {limit:.0f} s: {current or job.name}\n")
            result.failed.append(current or "(time limit)")
            current = None
            break
        if watch.select(0.5):
            chunk = process.stdout.read()
            if not chunk:
                break
            rest += chunk
            *lines, rest = rest.split(b"\n")
            for raw in lines:
                line = raw.decode(errors="replace")
                if line.startswith("@@"):  # run_module.py tells what it does
                    event = json.loads(line[2:])
                    if event["do"] == "start":
                        current = event["test"]
                        deadline = time.monotonic() + event.get("seconds", job.limit) * scale
                    else:
                        current = None
                        deadline = time.monotonic() + limit
                        {"pass": result.passed, "fail": result.failed,
                         "skip": result.skipped}[event["do"]].append(event["test"])
                        result.output.append(f"{event['do']:5} {event['test']} "
                                             f"{event['took']:.1f} s\n")
                else:
                    result.output.append(line + "\n")
                    tests.append(line)
        elif has_ended(process):
            # a child kept the pipe open
            open_pipe = process.stdout.read() is not None
    for sig in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sig)
        except ProcessLookupError:
            break
        end = time.monotonic() + 3
        while time.monotonic() < end and not has_ended(process):
            time.sleep(0.02)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = code = os.waitstatus_to_exitcode(status)
    result.cpu = used.ru_utime + used.ru_stime
    RUNNING.discard(process.pid)
    shutil.rmtree(tmp, ignore_errors=True)
    if job.kind == "cmocka":
        for line in tests:
            m = re.match(r"(not )?ok \d+ (# SKIP|-) (\S+)", line)
            if m:
                # a skipped one is "not ok N # SKIP name"
                (result.skipped if m.group(2) != "-" else result.failed if m.group(1)
                 else result.passed).append(m.group(3))
        if code != 0 and not result.failed:
            result.failed.append(f"(program ended with {code})")
        if code == 0 and not result.passed and not result.skipped:
            result.failed.append("(ran no test)")
    elif job.kind == "replay" and not result.failed:
        (result.passed if code == 0 else result.failed).append("corpus")
        if code != 0:
            result.output.append(f"!! ended with {code}\n")
    elif current is not None:
        result.failed.append(current)
        result.output.append(f"!! ended with {code} in {current}\n")
    elif code != 0 and not result.failed:
        result.failed.append(f"(module ended with {code})")
    result.took = time.monotonic() - began
    return result


RUNNING = set()


def stop_all(signum, _frame):
    for pid in list(RUNNING):
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    shutil.rmtree(BASE, ignore_errors=True)
    os._exit(128 + signum)


def reap():
    """Orphans of killed jobs come to us, and are ended and waited for."""
    me = os.getpid()
    for stat in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(stat, encoding="ascii", errors="replace") as f:
                text = f.read()
        except OSError:
            continue
        pid, ppid = int(text.split()[0]), int(text.rsplit(")", 1)[1].split()[1])
        if ppid == me and pid not in RUNNING:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except OSError:
                pass


def every_operation_was_tried(missing):
    """The last test of a whole run: suite/contract.py has watched all replies."""
    result = Result(Job("contract", "contract", [], 0, 0, False))
    (result.failed if missing else result.passed).append("each_operation_had_both_outcomes")
    print("\n".join([f"{'FAIL' if missing else 'ok':4} contract: each operation had a success "
                     "and a refusal"] + missing), flush=True)
    return result


def each_requirement_is_shown(results):
    """After a whole run: tests/iec62443.yaml says which of them shows what."""
    result = Result(Job("iec62443", "requirements", [], 0, 0, False))
    for row, fault in requirements.check(results):
        (result.failed if fault else result.passed).append(row)
        if fault:
            print(f"     {row}: {fault}")
    print(f"{'FAIL' if result.failed else 'ok':4} iec62443: {len(result.passed)} requirements "
          f"shown, {len(result.failed)} not", flush=True)
    return result


def main():
    global BASE
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--variant", default="release")
    parser.add_argument("--jobs", type=int, default=min(4, 2 * (os.cpu_count() or 1)))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("patterns", nargs="*")
    args = parser.parse_args()
    build = os.path.abspath(os.path.join(ROOT, args.build))
    jobs = jobs_of(build, args.patterns)
    if args.list:
        for job in jobs:
            print(job.name)
        return 0
    BASE = tempfile.mkdtemp(prefix="fgt", dir="/tmp")
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, stop_all)
    sys.path.insert(0, os.path.join(HERE, "suite"))
    import contract
    import harness
    env = harness.sanitizer_env()
    seen = os.path.join(BASE, "contract-seen")
    with open(seen, "w", encoding="ascii"):
        env["CONTRACT_SEEN"] = seen
    env["HYPOTHESIS_STORAGE_DIRECTORY"] = os.path.join(BASE, "hypothesis")
    env["PORTS_GIVEN"] = os.path.join(BASE, "ports")
    os.mkdir(env["PORTS_GIVEN"])
    env.update(BUILD=build, VARIANT=args.variant, CMOCKA_MESSAGE_OUTPUT="TAP",
               PYTHONDONTWRITEBYTECODE="1", PYTHONUNBUFFERED="1")
    scale = SLOW.get(args.variant, 1)
    # what measures time first (the largest COST runs alone), then programs, of which one takes
    # half a minute and the others nothing, then the long ones
    waiting = sorted(jobs, key=lambda j: (-j.cost, j.kind != "cmocka", -j.limit, j.name))
    lock, done, load = threading.Condition(), [], [0]

    def worker(job):
        result = run_job(job, env, scale, BASE)
        with lock:
            done.append(result)
            load[0] -= min(job.cost, args.jobs)
            if result.failed or args.verbose:
                print(f"==== {job.name}", flush=True)
                print("".join(result.output), flush=True)
            print(f"{'FAIL' if result.failed else 'ok':4} {job.name}: {len(result.passed)} passed"
                  + (f", {len(result.failed)} FAILED: {', '.join(result.failed)}"
                     if result.failed else "")
                  + (f", {len(result.skipped)} skipped" if result.skipped else "")
                  + f" ({result.took:.1f} s, {result.cpu:.1f} s of CPU)", flush=True)
            lock.notify_all()

    threads = []
    with lock:
        while waiting or load[0]:
            fit = next((j for j in waiting if load[0] + min(j.cost, args.jobs) <= args.jobs), None)
            if fit is None:
                lock.wait()
                continue
            waiting.remove(fit)
            load[0] += min(fit.cost, args.jobs)
            t = threading.Thread(target=worker, args=(fit,))
            t.start()
            threads.append(t)
    for t in threads:
        t.join()
    reap()
    if not args.patterns:
        done.append(every_operation_was_tried(contract.unseen(build, seen)))
        if args.variant == "release":  # the others leave out what needs a machine of its own
            done.append(each_requirement_is_shown(done))
    shutil.rmtree(BASE, ignore_errors=True)
    passed = sum(len(r.passed) for r in done)
    failed = sum(len(r.failed) for r in done)
    skipped = sum(len(r.skipped) for r in done)
    if os.environ.get("CI") and skipped:  # where all must be possible, a skip is a failure
        print(f"{skipped} skipped tests count as failed here")
        failed += skipped
    elif skipped:
        print(f"{skipped} skipped")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


BASE = ""
if __name__ == "__main__":
    sys.exit(main())
