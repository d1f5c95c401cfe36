"""Server-sent events, each of which the provider sends when this program has seen the one before. `events.py HOST COUNT`"""

import http.client
import sys

host, count = sys.argv[1], int(sys.argv[2])
stream = http.client.HTTPConnection(host, 80, timeout=20)
stream.request("GET", "/events", headers={"Accept": "text/event-stream", "x-trace": "events-"})
answer = stream.getresponse()
for n in range(count):
    line = answer.fp.readline() if not answer.chunked else answer.read1(100)
    assert f"data: {n}\n".encode() in line, line
    other = http.client.HTTPConnection(host, 80, timeout=20)
    other.request("GET", "/next", headers={"x-trace": f"next-{host}-{n}-"})
    assert int(other.getresponse().read()) >= 1
print(answer.status, answer.getheader("content-type"), "ends well")
