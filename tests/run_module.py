#!/usr/bin/python3
"""Runs the tests of one Python file and tells tests/run.py of each as it goes.

usage: run_module.py FILE [Class[.test]]
"""
import importlib.util
import json
import os
import sys
import time
import traceback
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "suite"), os.path.join(HERE, "fakes"),
                os.path.join(HERE, "daemon")]


class Teller(unittest.TestResult):
    def __init__(self, module):
        super().__init__()
        self.module, self.bad = module, False
        self.began = time.monotonic()
        self.state = None

    def tell(self, do, test, **more):
        print("@@" + json.dumps({"do": do, "test": self.name(test), **more}), flush=True)

    @staticmethod
    def name(test):
        name = test.id().rstrip(")")  # "setUpClass (test_x.Class)"
        if " (" in name:
            what, where = name.split(" (", 1)
            return f"{where.split('.')[-1]}.{what}"
        return ".".join(name.split(".")[1:]) or name

    def startTest(self, test):
        super().startTest(test)
        self.began, self.state = time.monotonic(), "pass"
        method = getattr(test, test._testMethodName, None)
        seconds = getattr(method, "seconds", None)
        self.tell("start", test, **({"seconds": seconds} if seconds else {}))

    def stopTest(self, test):
        super().stopTest(test)
        self.tell(self.state, test, took=time.monotonic() - self.began)

    def fault(self, test, err):
        sys.stdout.write(f"---- {test.id()}\n" + "".join(traceback.format_exception(*err)))
        sys.stdout.flush()
        self.bad = True
        if isinstance(test, unittest.TestCase):
            self.state = "fail"
        else:  # setUpClass, tearDownClass, setUpModule
            self.tell("fail", test, took=0.0)

    def addError(self, test, err):
        super().addError(test, err)
        self.fault(test, err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.fault(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            sys.stdout.write(f"---- {subtest.id()}\n"
                             + "".join(traceback.format_exception(*err)))
            self.state, self.bad = "fail", True

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print(f"skipped {test.id()}: {reason}", flush=True)
        if isinstance(test, unittest.TestCase) and self.state is not None:
            self.state = "skip"
        else:
            self.tell("skip", test, took=0.0)


def main():
    path = sys.argv[1]
    name = os.path.basename(path)[:-3]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    loader = unittest.defaultTestLoader
    if len(sys.argv) > 2:
        suite = loader.loadTestsFromName(sys.argv[2], module)
    else:
        suite = loader.loadTestsFromModule(module)
    teller = Teller(module)
    suite.run(teller)
    sys.stdout.flush()
    os._exit(1 if teller.bad else 0)


main()
