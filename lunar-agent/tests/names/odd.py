"""A name server for what no other answers.

`odd.py serve`: port 53 of the provider's addresses, UDP and TCP. The second label of a name says how it is answered, the
first what its address is (`7.cname.example`: 198.51.100.7 and 2001:db8:1::7).
`odd.py send FROM PORT TO PORT HEX`: one packet, from anywhere.
"""

import selectors
import socket
import struct
import sys

from message import A, AAAA, CNAME, OPT, address, answer, asked, record

QUESTION = b"\xc0\x0c"


def opened(kind, host, port):
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    return server


def chain(query, n, kind):
    """Eight aliases, each name compressed against the one before, to a name of somebody else's."""
    records, owner = [], QUESTION
    at = len(query_part(query))
    for i in range(8):
        target = bytes([5]) + f"hop{i:02}".encode()
        # The tail of all is the question's own; that of the last but one, a whole name.
        target += b"\x04edge\x03cdn\x04test\0" if i == 7 else QUESTION
        records.append(record(owner, CNAME, target))
        owner = struct.pack(">H", 0xC000 | at + len(owner) + 10)
        at += len(records[-1])
    return records + [record(owner, kind, address(n, kind))]


def query_part(query):
    return query[: asked(query)[3]]


def answers(query, held, over_tcp=False):
    """The answers to a query, in their order."""
    _, labels, kind, end = asked(query)
    n, how = int(labels[0]), labels[1].lower()
    name = query[12 : end - 4]
    one = [record(QUESTION, kind, address(n, kind))]
    if kind not in (A, AAAA):
        one = []
    if how == "cname":
        return [answer(query, chain(query, n, kind))]
    if how == "many":
        return [answer(query, [record(QUESTION, kind, address(n + i, kind)) for i in range(24)])]
    if how == "toomany":
        return [answer(query, [record(QUESTION, kind, address(n + i, kind)) for i in range(70)])]
    if how == "plain":
        return [answer(query, [record(name, kind, address(n, kind))])]
    if how == "upper":
        return [answer(query, one, name=bytes(b - 32 if 97 <= b <= 122 else b for b in name))]
    if how == "edns":
        return [answer(query, one, more=b"\0" + struct.pack(">HHIH", OPT, 1232, 0, 12) + struct.pack(">HH", 10, 8) + bytes(8))]
    if how == "cut" and not over_tcp:
        return [answer(query, [], flags=0x8380)]
    if how == "part" and not over_tcp:
        return [answer(query, one, flags=0x8380)]
    if how == "part":
        return [answer(query, one + [record(QUESTION, kind, address(n + 1, kind))])]
    if how == "broken":
        return [answer(query, one)[:-2]]
    if how == "twice":
        return [answer(query, one), answer(query, [record(QUESTION, kind, address(n + 1, kind))])]
    if how == "late" and not held:
        held.append(answer(query, one))
        return []
    if how == "late":
        return [answer(query, one), held.pop()]
    if how == "silent":
        return []
    return [answer(query, one)]


def serve():
    ready, held = selectors.DefaultSelector(), []
    for host in ("203.0.113.10", "203.0.113.11", "2001:db8::10"):
        ready.register(opened(socket.SOCK_DGRAM, host, 53), selectors.EVENT_READ)
        listener = opened(socket.SOCK_STREAM, host, 53)
        listener.listen()
        ready.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in ready.select():
            server = key.fileobj
            if server.type == socket.SOCK_DGRAM:
                query, client = server.recvfrom(4096)
                for message in answers(query, held):
                    server.sendto(message, client)
            else:
                with server.accept()[0] as stream:
                    query = stream.recv(4096)[2:]
                    for message in answers(query, held, over_tcp=True):
                        stream.sendall(struct.pack(">H", len(message)) + message)


def send(host, port, to, to_port, message):
    opened(socket.SOCK_DGRAM, host, int(port)).sendto(bytes.fromhex(message), (to, int(to_port)))


serve() if sys.argv[1] == "serve" else send(*sys.argv[2:])
