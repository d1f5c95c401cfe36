"""Applications that take their time. `slow.py COUNT`: COUNT connections each of those that say nothing, that say half a head,
that send a body byte by byte, and that do not read their answer. Says "held" when all are there, holds them until the end of
standard input, and says how many are still there."""

import select
import socket
import sys

PROVIDER = ("203.0.113.10", 80)
count = int(sys.argv[1])
HOST = b"Host: books.example\r\n"
BEGINNINGS = [
    b"",
    b"GET /half HTTP/1.1\r\nHost: books.ex",
    b"POST /trickle HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\nx",
    b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n",
]

kinds = []
for beginning in BEGINNINGS:
    connections = []
    for _ in range(count):
        connection = socket.socket()
        # Little room for what is not read.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.settimeout(20)
        connection.connect(PROVIDER)
        connection.sendall(beginning)
        connections.append(connection)
    kinds.append(connections)
print("held", flush=True)
while not select.select([sys.stdin], [], [], 0.5)[0]:
    for connection in kinds[2]:
        connection.sendall(b"x")


def is_there(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


print([sum(map(is_there, connections)) for connections in kinds], flush=True)
