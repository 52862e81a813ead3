#!/usr/bin/python3
"""Which operations of the API are served: our table against openapi.json.

usage: coverage.py operations.tsv openapi.json
"""
import json
import re
import sys


def same(path):
    """Names of path values are ours; their places are the contract's."""
    return re.sub(r"\{\w+\}", "{}", path)


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        rows = [line.rstrip("\n").split("\t") for line in f if not line.startswith("#")]
    head, rows = rows[0], rows[1:]
    table = [dict(zip(head, row)) for row in rows]
    with open(sys.argv[2], encoding="utf-8") as f:
        api = json.load(f)
    served = {(method.upper(), same(path)): op["x-daemon"]
              for path, methods in api["paths"].items() for method, op in methods.items()}
    by_owner, known = {}, set()
    for op in table:
        key = (op["method"], same(op["path"]))
        known.add(key)
        owner = by_owner.setdefault(op["owner"], [0, 0, []])
        owner[1] += 1
        if key in served:
            owner[0] += 1
            if served[key] != op["owner"]:
                print(f"{op['method']} {op['path']} is served by {served[key]}, "
                      f"belongs to {op['owner']}")
        else:
            owner[2].append(op)
    for owner in sorted(by_owner):
        done, total, missing = by_owner[owner]
        print(f"{owner}: {done} of {total}")
        for op in missing:
            print(f"    {op['n']:>4} {op['method']:6} {op['path']}")
    beyond = sorted(set(served) - known)
    print(f"beyond the table: {len(beyond)}")
    for method, path in beyond:
        print(f"         {method:6} {path}")
    done = sum(o[0] for o in by_owner.values())
    print(f"{done} of {len(table)} operations served, {len(beyond)} beyond them")


main()
