"""An application that knows nothing of the interceptor. `client.py HOW ADDRESS PORT [MORE]`; prints one JSON object.

Without SO_MARK, without proxies from the environment, with nothing but Python's standard library.
"""

import hashlib
import http.client
import json
import os
import select
import socket
import sys
import tempfile
import threading
import urllib.request

how, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
url_host = f"[{address}]" if ":" in address else address
# A TLS record header and all byte values: nothing here is text.
BINARY = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256))


def mapped_connection():
    connection = http.client.HTTPConnection(address, port, timeout=20)
    connection.sock = socket.socket(socket.AF_INET6)
    connection.sock.settimeout(20)
    connection.sock.connect((f"::ffff:{address}", port))
    return connection


def get_http_client():
    connection = mapped_connection() if how == "mapped" else http.client.HTTPConnection(address, port, timeout=20)
    connection.connect() if connection.sock is None else None
    name = connection.sock.getsockname()
    connection.request("GET", "/books?id=7", headers={"X-Asked": "yes"})
    return connection.getresponse().read(), name


def get_urllib():
    request = urllib.request.Request(f"http://{url_host}:{port}/books?id=7", headers={"X-Asked": "yes"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(request, timeout=20).read(), None


def stream(send, total):
    """Sends with `send` to a raw provider, which says who it is and echoes; whether every byte came back in order."""
    if mapped:
        connection = socket.socket(socket.AF_INET6)
        connection.connect((f"::ffff:{address}", port))
    else:
        connection = socket.create_connection((address, port))
    block = (BINARY * (total // len(BINARY) + 1))[:total]
    # Blocks that differ, so that one lost, moved or repeated shows.
    block = b"".join(block[i : i + 1016] + i.to_bytes(8, "big") for i in range(0, total, 1016))[:total]
    with tempfile.TemporaryFile() as file:
        file.write(block)
        file.seek(0)
        sender = threading.Thread(target=lambda: (send(connection, file, block), connection.shutdown(socket.SHUT_WR)))
        sender.start()
        echo = hashlib.sha256()
        line, count = b"", 0
        # Like an event loop: ask only when there is something. A `recv` that blocks in one thread while another sends
        # can end with EAGAIN on any socket of a sockhash: `tcp_bpf_recvmsg` takes each wake-up for a time-out.
        while select.select([connection], [], [], 20)[0]:
            try:
                piece = connection.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            if not piece:
                break
            if not line.endswith(b"\n"):
                head, newline, piece = piece.partition(b"\n")
                line += head + newline
            echo.update(piece)
            count += len(piece)
        sender.join()
        line = line.decode().split()
    whole = count == len(block) and echo.digest() == hashlib.sha256(block).digest()
    return {"provider": line[1] if len(line) == 2 else None, "sent": len(block), "echoed": count, "whole": whole}


def by_first_write(connection, _file, block):
    """The first write(2) has a size of its own."""
    sent = connection.send(block[: int(sys.argv[5])])
    connection.sendall(block[sent:])


def by_small_writes(connection, _file, block):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sizes = [1, 2, 3, 5, 8, 13, 21, 34]
    at = n = 0
    while at < len(block):
        at += connection.send(block[at : at + sizes[n % len(sizes)]])
        n += 1


def by_sendfile(connection, file, _block):
    connection.sendfile(file)


def by_splice(connection, file, block):
    out, into = os.pipe()
    left = len(block)
    while left:
        moved = os.splice(file.fileno(), into, left)
        left -= moved
        while moved:
            moved -= os.splice(out, connection.fileno(), moved)


def by_vectors(connection, _file, block):
    pieces = [block[:1], block[1:1], block[1:28], block[28:4096]]
    sent = connection.sendmsg(pieces)
    connection.sendall(block[sent:])


mapped = how == "mapped" or sys.argv[-1] == "mapped"
STREAMS = {"first": by_first_write, "small": by_small_writes, "sendfile": by_sendfile, "splice": by_splice, "vectors": by_vectors}

if how in STREAMS:
    print(json.dumps(stream(STREAMS[how], int(sys.argv[4]))))
else:
    body, name = {"http": get_http_client, "mapped": get_http_client, "urllib": get_urllib}[how]()
    print(json.dumps({"body": json.loads(body), "socket": name}))
