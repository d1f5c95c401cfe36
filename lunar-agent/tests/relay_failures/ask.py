"""An application: for each line of JSON on standard input it makes one request on a connection of its own, and says in a line
of JSON what came of it."""

import http.client
import json
import sys

for line in sys.stdin:
    ask = json.loads(line)
    connection = http.client.HTTPConnection(ask["address"], 80, timeout=ask["timeout"])
    body = b"x" * ask["size"] if ask["method"] == "POST" else None
    said = {}
    try:
        connection.request(ask["method"], ask["path"], body, {"Host": ask["host"]})
        answer = connection.getresponse()
        said = {"status": answer.status, "error": answer.getheader("x-lunar-error")}
        said["body"] = answer.read().decode()
    except Exception as reason:
        # Every way of it ends the request for an application.
        said["failed"] = type(reason).__name__
    finally:
        connection.close()
    print(json.dumps(said), flush=True)
