"""Requests for several hosts, one after the other on one connection. `hosts.py ADDRESS HOST…`; prints what came of each, and
how many connections there were."""

import http.client
import json
import sys

connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=20)
connection.connect()
first = connection.sock.getsockname()
for n, host in enumerate(sys.argv[2:]):
    body = b"hello" if n % 2 else None
    connection.request("POST" if n % 2 else "GET", "/digest", body, {"Host": host, "x-trace": f"hosts-{n}-"})
    answer = connection.getresponse()
    said = answer.status, answer.read().decode(), connection.sock.getsockname() == first
    print(json.dumps(said))
