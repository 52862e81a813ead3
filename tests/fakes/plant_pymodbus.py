#!/usr/bin/python3
"""A Modbus server of pymodbus, an implementation that shares nothing with ours.

usage: plant_pymodbus.py PORT             over TCP
       plant_pymodbus.py rtu|ascii TTY    on a serial line

Answers every unit id. Lines of JSON on standard input change and read its
registers: {"do": "set"|"get", "kind": "holding"|"input"|"coil"|"discrete",
"address": n, "values": [...] | "count": n}; each is answered by a line.
{"do": "hole", "address": n} makes reads that touch it fail with exception 2;
{"do": "requests"} asks for the number of read requests since the start.
"""
import asyncio
import json
import os
import sys
import threading

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.server import StartAsyncSerialServer, StartAsyncTcpServer
from pymodbus.transaction import ModbusAsciiFramer, ModbusRtuFramer

CODE = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}


class Slave(ModbusSlaveContext):
    """Counts what clients read."""

    requests, hole = 0, None

    def validate(self, fx, address, count=1):
        self.requests += 1
        if self.hole is not None and address <= self.hole < address + count:
            return False
        return super().validate(fx, address, count)


def commands(slave):
    for line in sys.stdin:
        ask = json.loads(line)
        code = CODE[ask.get("kind", "holding")]
        if ask["do"] == "hole":
            slave.hole = ask["address"]
            answer = True
        elif ask["do"] == "requests":
            answer = slave.requests
        elif ask["do"] == "set":
            slave.setValues(code, ask["address"], ask["values"])
            answer = True
        else:
            answer = [int(v) for v in slave.getValues(code, ask["address"], ask["count"])]
        print(json.dumps(answer), flush=True)
    os._exit(0)  # our parent is gone


async def listen(context, port):
    server = await StartAsyncTcpServer(context=context, address=("127.0.0.1", int(port)),
                                       allow_reuse_address=True, defer_start=True)
    task = asyncio.create_task(server.serve_forever())
    await server.serving
    return task


async def open_tty(context, framer, tty):
    server = await StartAsyncSerialServer(
        context=context, port=tty, auto_reconnect=True, reconnect_delay=0.1, defer_start=True,
        framer={"rtu": ModbusRtuFramer, "ascii": ModbusAsciiFramer}[framer])
    await server.start()
    return asyncio.create_task(server.serve_forever())


async def main():
    block = lambda: ModbusSequentialDataBlock(0, [0] * 65536)
    slave = Slave(co=block(), di=block(), hr=block(), ir=block(), zero_mode=True)
    context = ModbusServerContext(slaves=slave, single=True)
    task = await (open_tty if len(sys.argv) > 2 else listen)(context, *sys.argv[1:])
    print("ready", flush=True)
    threading.Thread(target=commands, args=(slave,), daemon=True).start()
    await task


asyncio.run(main())
