"""A gateway that asks for the original destination in every way there is. `gateway.py HOST PORT [HOST PORT]…`

For each connection it writes one JSON line to the client and prints the same. An answer is "address:port" or the
kernel's error.
"""

import errno
import json
import selectors
import socket
import struct
import sys

ORIGINAL_DST = 80


def ask(connection, level, size):
    try:
        answer = connection.getsockopt(level, ORIGINAL_DST, size)
    except OSError as error:
        return errno.errorcode[error.errno]
    (family,) = struct.unpack("=H", answer[:2])
    if family == socket.AF_INET and len(answer) == 16:
        return f"{socket.inet_ntop(family, answer[4:8])}:{int.from_bytes(answer[2:4], 'big')}"
    if family == socket.AF_INET6 and len(answer) == 28:
        return f"[{socket.inet_ntop(family, answer[8:24])}]:{int.from_bytes(answer[2:4], 'big')}"
    return f"{len(answer)} bytes of family {family}"


ready = selectors.DefaultSelector()
for host, port in zip(sys.argv[1::2], sys.argv[2::2]):
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in host:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
    listener.bind((host, int(port)))
    listener.listen(4096)
    ready.register(listener, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in ready.select():
        connection, peer = key.fileobj.accept()
        with connection:
            v4, v6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
            line = json.dumps({
                "peer_port": peer[1],
                "v4": ask(connection, v4, 16), "v4_short": ask(connection, v4, 15), "v4_long": ask(connection, v4, 128),
                "v6": ask(connection, v6, 28), "v6_short": ask(connection, v6, 27), "v6_long": ask(connection, v6, 128),
            })
            print(line, flush=True)
            try:
                connection.sendall(line.encode() + b"\n")
            except OSError:
                pass  # The client is gone, as some of them are meant to be.
