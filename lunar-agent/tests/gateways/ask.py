"""Connects and prints what the gateway answers, one line each. `ask.py SOURCE_PORT STEP…`, where a step is

  HOST,PORT          connects and reads the line
  HOST,PORT,abort=N  connects and resets at once, without reading, and then reads what HOST2,PORT2 of the next step
                     answers from the same source port; both N times, and only the last is a summary

SOURCE_PORT 0 lets the kernel choose.
"""

import collections
import json
import socket
import struct
import sys

source = int(sys.argv[1])


def connect(host, port):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(20)
    # Close with a reset: no TIME_WAIT holds the port, which is bound alone, for a shared one is not redirected.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if source:
        s.bind(("::1" if ":" in host else "127.0.0.1", source))
    s.connect((host, port))
    return s


def read(host, port):
    with connect(host, port) as s:
        return json.loads(s.makefile().readline())


steps = [step.split(",") for step in sys.argv[2:]]
while steps:
    host, port, *abort = steps.pop(0)
    if not abort:
        print(json.dumps(read(host, int(port))))
        continue
    then_host, then_port = steps.pop(0)
    seen = collections.Counter()
    for _ in range(int(abort[0].removeprefix("abort="))):
        connect(host, int(port)).close()
        answer = read(then_host, int(then_port))
        seen[f"{answer['peer_port'] == source} {answer['v4']} {answer['v6']}"] += 1
    print(json.dumps(seen))
