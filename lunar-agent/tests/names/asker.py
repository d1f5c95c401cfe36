"""An application of the target that asks name servers in whatever way a test tells it: JSON arrays on standard input, one
JSON object each as an answer."""

import json
import select
import socket
import sys

from message import TYPES, addresses, answer, asked, question, record

sockets = {}


def opened(key, family):
    """A socket on a port of its own."""
    sockets[key] = socket.socket(socket.AF_INET6 if family == "6" else socket.AF_INET, socket.SOCK_DGRAM)
    sockets[key].bind(("::" if family == "6" else "0.0.0.0", 0))
    return {"port": sockets[key].getsockname()[1]}


def connect(key, server):
    sockets[key].connect((server, 53))
    return {}


def send(key, server, ident, name, kind, *more):
    """To a server, or without one by a connected socket."""
    message = question(int(ident), name, TYPES[kind], "edns" in more)
    if not server:
        sockets[key].send(message)
    elif "sendmsg" in more:
        sockets[key].sendmsg([message[:5], message[5:]], [], 0, (server, 53))
    else:
        sockets[key].sendto(message, (server, 53))
    return {}


def receive(key, patience):
    """The next packet: its id and addresses."""
    if not select.select([sockets[key]], [], [], float(patience))[0]:
        return {"none": True}
    message = sockets[key].recv(4096)
    return {"id": asked(message)[0], "addresses": addresses(message) if message[2] & 2 == 0 else "cut"}


def resolve(name, family):
    """By the system."""
    try:
        found = socket.getaddrinfo(name, 80, {"4": socket.AF_INET, "6": socket.AF_INET6}[family], socket.SOCK_STREAM)
    except OSError as reason:
        return {"failed": str(reason)}
    return {"addresses": [entry[4][0] for entry in found]}


def forged(ident, name, kind, address):
    """An answer to a question, as hexadecimal digits."""
    message = question(int(ident), name, TYPES[kind])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return {"hex": answer(message, [record(b"\xc0\x0c", TYPES[kind], socket.inet_pton(family, address))]).hex()}


STEPS = {"open": opened, "connect": connect, "send": send, "receive": receive, "resolve": resolve, "forged": forged}
for line in sys.stdin:
    step, *args = json.loads(line)
    print(json.dumps(STEPS[step](*args)), flush=True)
