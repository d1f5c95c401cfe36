"""As names.c, by Python's standard library."""

import socket
import sys

first, count, suffix = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
for i in range(first, first + count):
    try:
        with socket.create_connection((f"n{i}.{suffix}", 80), timeout=20) as connection:
            print(connection.makefile().readline().strip())
    except OSError as reason:
        print("failed:", reason)
