"""Clients as they are: `client.py HOW PLAN`, HOW one of curl, wget, http.client, urllib3, requests, aiohttp.

PLAN is a file of JSON, a list of requests; prints what came of each in a line of JSON.
"""

import asyncio
import hashlib
import json
import subprocess
import sys
import tempfile


def say(status, headers, body):
    """`body` is bytes, or an open file."""
    digest, length = hashlib.sha256(), 0
    pieces = [body] if isinstance(body, bytes) else iter(lambda: body.read(1 << 20), b"")
    for piece in pieces:
        digest.update(piece)
        length += len(piece)
    print(json.dumps({"status": status, "headers": headers, "length": length, "sha256": digest.hexdigest()}), flush=True)


def head(text):
    """Status and headers of the last of the heads in it."""
    lines = text.decode("latin-1").strip().split("\r\n\r\n")[-1].split("\r\n")
    return int(lines[0].split(" ")[1]), [line.split(":", 1) for line in lines[1:]]


def curl(ask):
    with tempfile.TemporaryDirectory() as folder:
        heads, body = f"{folder}/head", f"{folder}/body"
        args = ["curl", "-sS", "--max-time", "60", "-D", heads, "-o", body, "-H", f"x-trace: {ask['trace']}"]
        if ask["method"] == "HEAD":
            args.append("-I")
        elif ask.get("file"):
            args += ["-X", ask["method"], "--data-binary", f"@{ask['file']}"]
        if ask.get("chunked"):
            args += ["-H", "Transfer-Encoding: chunked"]
        # A body that is empty leaves no file.
        open(body, "wb").close()
        subprocess.run(args + [ask["url"]], check=True)
        with open(heads, "rb") as file:
            status, headers = head(file.read())
        with open(body, "rb") as file:
            say(status, headers, b"" if ask["method"] == "HEAD" else file)


def wget(ask):
    with tempfile.NamedTemporaryFile() as body:
        args = ["wget", "-nv", "-S", "--tries=1", "--timeout=60", "--content-on-error", "-O", body.name]
        args += [f"--header=x-trace: {ask['trace']}", f"--method={ask['method']}"]
        if ask.get("file"):
            args.append(f"--body-file={ask['file']}")
        said = subprocess.run(args + [ask["url"]], stderr=subprocess.PIPE).stderr
        # The head stands there indented.
        lines = [line[2:] for line in said.split(b"\n") if line.startswith(b"  ")]
        status, headers = head(b"\r\n".join(lines))
        say(status, headers, body)


def file_of(ask):
    return open(ask["file"], "rb") if ask.get("file") else None


def pieces(ask):
    """A body whose length is not known."""
    with file_of(ask) as file:
        while piece := file.read(10_000):
            yield piece


def by_http_client(plan):
    import http.client
    import urllib.parse

    connections = {}
    for ask in plan:
        url = urllib.parse.urlsplit(ask["url"])
        connection = connections.setdefault(url.hostname, http.client.HTTPConnection(url.hostname, timeout=60))
        body = pieces(ask) if ask.get("chunked") else file_of(ask)
        headers = {"x-trace": ask["trace"]}
        if body and not ask.get("chunked"):
            headers["Content-Length"] = str(body.seek(0, 2))
            body.seek(0)
        target = url.path + ("?" + url.query if url.query else "")
        connection.request(ask["method"], target, body, headers, encode_chunked=bool(ask.get("chunked")))
        answer = connection.getresponse()
        say(answer.status, answer.getheaders(), answer.read())


def by_urllib3(plan):
    import urllib3

    pool = urllib3.PoolManager(timeout=60)
    for ask in plan:
        body = file_of(ask)
        answer = pool.request(
            ask["method"],
            ask["url"],
            body=pieces(ask) if ask.get("chunked") else body and body.read(),
            headers={"x-trace": ask["trace"]},
            retries=False,
            chunked=bool(ask.get("chunked")),
        )
        say(answer.status, list(answer.headers.items()), answer.data)


def by_requests(plan):
    import requests

    with requests.Session() as session:
        for ask in plan:
            data = pieces(ask) if ask.get("chunked") else file_of(ask)
            headers = {"x-trace": ask["trace"]}
            answer = session.request(
                ask["method"], ask["url"], data=data, headers=headers, timeout=60, allow_redirects=False
            )
            say(answer.status_code, list(answer.raw.headers.items()), answer.content)


def by_aiohttp(plan):
    import aiohttp

    async def unknown(ask):
        for piece in pieces(ask):
            yield piece

    async def run():
        async with aiohttp.ClientSession() as session:
            for ask in plan:
                data = unknown(ask) if ask.get("chunked") else file_of(ask)
                headers = {"x-trace": ask["trace"]}
                async with session.request(ask["method"], ask["url"], data=data, headers=headers) as answer:
                    raw = [[name.decode(), value.decode()] for name, value in answer.raw_headers]
                    say(answer.status, raw, await answer.read())

    asyncio.run(run())


HOW = {"http.client": by_http_client, "urllib3": by_urllib3, "requests": by_requests, "aiohttp": by_aiohttp}
how = sys.argv[1]
with open(sys.argv[2]) as plan:
    plan = json.load(plan)
if how in HOW:
    HOW[how](plan)
else:
    for one in plan:
        {"curl": curl, "wget": wget}[how](one)
