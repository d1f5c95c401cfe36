"""WebSockets. `sockets.py serve ADDRESS PORT` echoes; `sockets.py ask HOST` asks, and prints what came of it."""

import asyncio
import sys

import websockets


async def echo(connection):
    async for message in connection:
        await connection.send(message)
        if message == "goodbye":
            await connection.close(4000, "as you wish")


async def serve(address, port):
    async with websockets.serve(echo, address, int(port), max_size=None):
        print("ready", flush=True)
        await asyncio.Future()


async def ask(host):
    headers = {"x-trace": "sockets-"}
    async with websockets.connect(f"ws://{host}/chat", max_size=None, extra_headers=headers) as connection:
        for n in range(500):
            await connection.send(f"message {n}")
            assert await connection.recv() == f"message {n}"
        for size in (0, 1, 1 << 16, 1 << 20):
            # Many frames, in one direction before the other.
            data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            await connection.send(data)
            assert await connection.recv() == data
        # The provider speaks too when nobody asks.
        await (await connection.ping())
        await connection.send("goodbye")
        assert await connection.recv() == "goodbye"
        try:
            await connection.recv()
        except websockets.ConnectionClosed as end:
            print("closed", end.rcvd.code, end.rcvd.reason)


asyncio.run(serve(*sys.argv[2:]) if sys.argv[1] == "serve" else ask(sys.argv[2]))
