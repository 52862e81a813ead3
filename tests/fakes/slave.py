"""The Modbus slave's engine in a process of its own (tests/fakes/slave_alone.c),
and clients of it on raw sockets.
"""
import os
import socket
import struct
import subprocess
import threading

import harness
from harness import wait_for


class Slave:
    """serves the map in the text 'lines'; .said has what it says of writes."""

    def __init__(self, directory, lines):
        self.dir, self.said, self.count = directory, [], 0
        path = self.map(lines)
        self.process = subprocess.Popen(
            [f"{harness.BUILD}/bin/slave_alone", path, str(harness.free_port())], text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=harness.sanitizer_env())
        first = self.process.stdout.readline().split()
        if first[:1] != ["ready"]:
            raise AssertionError(f"the slave did not start: {self.process.wait()}")
        self.port = int(first[1])
        threading.Thread(target=self.listen, daemon=True).start()

    def map(self, lines):
        self.count += 1
        path = os.path.join(self.dir, f"map{self.count}")
        with open(path, "w", encoding="ascii") as f:
            f.write("\n".join(lines) + "\n")
        return path

    def listen(self):
        for line in self.process.stdout:
            self.said.append(line.split())

    def order(self, line):
        """Comes back when it was obeyed."""
        mark = len(self.said)
        self.process.stdin.write(line + "\n")
        self.hears("done", mark)

    def ask(self, line, word):
        """The answer to an order: the line that begins with 'word', after now."""
        mark = len(self.said)
        self.order(line)
        return self.hears(word, mark)[1:]

    def hears(self, word, mark=0):
        found = []

        def there():
            found[:] = [s for s in self.said[mark:] if s[0] == word]
            return bool(found)
        wait_for(f"the slave to say {word}", there, step=0.001)
        return found[0]

    def apply(self, lines, port):
        return int(self.ask(f"apply {self.map(lines)} {port}", "applied")[0])

    def hub(self, number, kind, value, quality=0):
        self.order(f"hub {number} {kind} {quality} {value}")

    def stats(self):
        names = ("conns", "valid", "invalid", "responses", "exceptions", "cut", "refused")
        return dict(zip(names, map(int, self.ask("stats", "stats"))))

    def conns(self):
        mark = len(self.said)
        self.ask("conns", "end")
        return [" ".join(s[2:]) for s in self.said[mark:] if s[0] == "conn"]

    def stop(self):
        """It ends in order when its orders end; the sanitizers speak then."""
        self.process.stdin.close()
        code = self.process.wait(20)
        self.process.stdout.close()
        return code


def frame(pdu, tid=1, unit=1, protocol=0, length=None):
    length = len(pdu) + 1 if length is None else length
    return struct.pack(">HHHB", tid, protocol, length, unit) + pdu


class Raw:
    """A client that sends whatever it is given."""

    def __init__(self, port, timeout=10.0):
        self.s = socket.create_connection(("127.0.0.1", port), timeout * harness.SLOW)
        self.s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data):
        self.s.sendall(data)

    def take(self, n):
        got = b""
        while len(got) < n:
            more = self.s.recv(n - len(got))
            if not more:
                raise EOFError(got)
            got += more
        return got

    def answer(self):
        """(transaction, unit, PDU) of the next frame."""
        tid, protocol, length, unit = struct.unpack(">HHHB", self.take(7))
        assert protocol == 0 and 2 <= length <= 254, (protocol, length)
        return tid, unit, self.take(length - 1)

    def ask(self, pdu, **head):
        self.send(frame(pdu, **head))
        return self.answer()[2]

    def is_cut(self):
        """Waits for the end of the connection; what comes before is lost."""
        try:
            while self.s.recv(65536):
                pass
        except ConnectionError:
            pass
        except socket.timeout:
            return False
        return True

    def close(self, reset=False):
        if reset:
            self.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.s.close()
