#!/usr/bin/python3
"""A service in a process of its own, so that it can be stopped and killed.

usage: fakeservice.py SOCKET    answers every operation 200 {"data":[]}
"""
import sys
import threading

from buspeer import Server, reply

server = Server(sys.argv[1], lambda r: reply(r.id, 200, {"data": []}))
threading.Event().wait()
