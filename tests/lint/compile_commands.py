#!/usr/bin/python3
"""compile_commands.json for editors: COMMAND SOURCE... on standard output."""
import json
import os
import sys

print(json.dumps([{"directory": os.getcwd(), "file": source,
                   "command": f"{sys.argv[1]} -c {source}"} for source in sys.argv[2:]], indent=1))
