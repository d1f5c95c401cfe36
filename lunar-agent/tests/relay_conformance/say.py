"""An application that writes bytes. For each line of JSON on standard input, `[hex, size]`, it connects, sends the bytes in
pieces of that size, and says "sent" or what went wrong. At the next line it closes, at "wait" when the other side has, and
says in hex what came back."""

import json
import socket
import sys

for line in sys.stdin:
    text, size = json.loads(line)
    data = bytes.fromhex(text)
    connection = socket.create_connection(("203.0.113.10", 80), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    said = "sent"
    try:
        for at in range(0, len(data), size):
            connection.sendall(data[at : at + size])
    except OSError as reason:
        said = str(reason)
    print(said, flush=True)
    connection.setblocking(sys.stdin.readline().strip() == "wait")
    heard = b""
    try:
        while piece := connection.recv(65536):
            heard += piece
    except OSError:
        pass
    connection.close()
    print(heard.hex(), flush=True)
