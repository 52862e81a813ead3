"""The table of security requirements, tests/iec62443.yaml, against the tests of a whole run.

Each row names the tests that show it, as in "suite/test_rights.Rights.test_x" (one test),
"suite/test_rights.Rights" (a class) or "unit/test_jwt" (a module), or says which other part of a
product answers for it. A row holds when each of its names ran and nothing under it failed.
"""
import os

import yaml

TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "iec62443.yaml")

# IEC 62443-4-2:2019, component requirements (CR, and those by kind of component: SAR, EDR, HDR,
# NDR) and the enhancements (RE) up to capability security level 2
WANTED = (
    "CR 1.1", "CR 1.1 RE(1)", "CR 1.2", "CR 1.3", "CR 1.4", "CR 1.5", "NDR 1.6", "NDR 1.6 RE(1)",
    "CR 1.7", "CR 1.8", "CR 1.9", "CR 1.10", "CR 1.11", "CR 1.12", "NDR 1.13", "CR 1.14",
    "CR 2.1", "CR 2.1 RE(1)", "CR 2.1 RE(2)", "CR 2.2", "CR 2.3", "EDR 2.4", "EDR 2.4 RE(1)",
    "CR 2.5", "CR 2.6", "CR 2.7", "CR 2.8", "CR 2.9", "CR 2.10", "CR 2.11", "CR 2.11 RE(1)",
    "CR 2.12", "EDR 2.13",
    "CR 3.1", "CR 3.1 RE(1)", "EDR 3.2", "CR 3.3", "CR 3.4", "CR 3.4 RE(1)", "CR 3.5", "CR 3.6",
    "CR 3.7", "CR 3.8", "CR 3.9", "EDR 3.10", "EDR 3.10 RE(1)", "EDR 3.11", "EDR 3.12", "EDR 3.13",
    "EDR 3.14", "EDR 3.14 RE(1)",
    "CR 4.1", "CR 4.2", "CR 4.3", "CR 5.1", "CR 6.1", "CR 6.2",
    "CR 7.1", "CR 7.1 RE(1)", "CR 7.2", "CR 7.3", "CR 7.3 RE(1)", "CR 7.4", "CR 7.5", "CR 7.6",
    "CR 7.7", "CR 7.8",
)


def load():
    with open(TABLE, encoding="utf-8") as f:
        return yaml.safe_load(f)


def fault_of(row, passed, failed):
    """What is wrong with a row, or None; 'passed' and 'failed' are full names of tests."""
    if not row.get("name") or ("elsewhere" in row) == ("tests" in row):
        return "a row has a name, and tests or the part it belongs to"
    if "elsewhere" in row:
        return None if len(row["elsewhere"]) > 20 else "says too little"
    if not row.get("how") or not row["tests"]:
        return "a row says how it is met, and names tests"
    for name in row["tests"]:
        under = lambda names: any(n == name or n.startswith(name + ".") for n in names)
        if under(failed):
            return f"{name} failed"
        if not under(passed):
            return f"{name} did not run"
    return None


def check(results):
    """[(id, fault or None)] of all rows that there must be, by the results of a whole run."""
    names = lambda which: {f"{r.job.name}.{t}" for r in results for t in getattr(r, which)}
    passed, failed = names("passed"), names("failed")
    rows = load()
    out = [(i, "the table has no such row") for i in WANTED if i not in rows]
    for row_id, row in rows.items():
        out.append((row_id, fault_of(row, passed, failed) if row_id in WANTED
                    else "no requirement of level 2"))
    return out
