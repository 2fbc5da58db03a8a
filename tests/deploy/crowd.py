"""A crowd before a small proxy, and the application behind it.

crowd.py app PORT: large answers to GET /large, /healthz at once, reads uploads, works 0.2 s on the rest.
crowd.py clients HOST PORT SECONDS: 100 clients that hardly read, 100 that hardly send, 2,000 that ask now
and then, and one that must be answered throughout. Prints what they got; fails if somebody was failed.
crowd.py canary HOST PORT SECONDS: that one, in a process of its own.
"""

import asyncio
import random
import resource
import socket
import subprocess
import sys
import time
from collections import Counter

LARGE = 8 * 1024 * 1024
# As much of an upload comes at once.
BEGINNING = 256 * 1024
SLOW = 100
CLIENTS = 2_000
# A client asks once in so many seconds, more or less.
EVERY = 2.0
# Nobody waits longer for an answer. The proxy lets nobody wait longer than a second; the rest is for a busy
# machine.
PATIENCE = 10.0


# === the application ===


async def serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = 2
            if head.startswith(b"post"):
                left = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                while left > 0:
                    left -= len(await reader.read(min(left, 65536)))
                    if reader.at_eof():
                        return
            elif head.startswith(b"get /large "):
                length = LARGE
            elif not head.startswith(b"get /healthz "):
                await asyncio.sleep(0.2)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
            for begin in range(0, length, 65536):
                writer.write(b"x" * min(65536, length - begin))
                await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def application(port):
    server = await asyncio.start_server(serve, "0.0.0.0", port, backlog=1024)
    await server.serve_forever()


# === clients ===


class Failed(Exception):
    """Somebody got less than an answer."""


class Closed(Exception):
    """A connection ended before the first byte of an answer."""


class Connection:
    """One that is used again as long as the proxy keeps it."""

    def __init__(self, host, port):
        self.at = host, port
        self.writer = None

    async def get(self, path):
        """The status. Who finds a kept connection closed opens another: that is no failure."""
        if self.writer is not None:
            try:
                return await self.ask(path)
            except Closed:
                self.close()
        self.reader, self.writer = await asyncio.open_connection(*self.at)
        try:
            return await self.ask(path)
        except Closed as error:
            raise Failed("a new connection was closed without an answer") from error

    async def ask(self, path):
        try:
            self.writer.write(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            await self.writer.drain()
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise Failed("a head that breaks off") from error
            raise Closed from error
        except OSError as error:
            raise Closed from error
        lines = head.decode().lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        await self.reader.readexactly(int(fields["content-length"]))
        if fields.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1])

    def close(self):
        self.writer.close()
        self.writer = None


async def slow_reader(host, port, until, go_on):
    """Takes a few KiB of its answer now and then; told to go on, all the rest."""
    loop = asyncio.get_running_loop()
    with socket.socket() as conn:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        conn.setblocking(False)
        await loop.sock_connect(conn, (host, port))
        await loop.sock_sendall(conn, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        came = b""
        while b"\r\n\r\n" not in came:
            more = await loop.sock_recv(conn, 2048)
            if not more:
                raise Failed("a slow reader was closed")
            came += more
        if not came.startswith(b"HTTP/1.1 200 "):
            raise Failed(f"a slow reader got {came[:40]}")
        yield "begun"
        read = len(came.split(b"\r\n\r\n", 1)[1])
        while time.monotonic() < until() or (go_on and read < LARGE):
            more = await loop.sock_recv(conn, 65536 if time.monotonic() > until() else 4096)
            if not more:
                raise Failed(f"a slow reader was closed after {read} bytes")
            read += len(more)
            if time.monotonic() < until():
                await asyncio.sleep(random.uniform(0.1, 0.4))
        yield "done"


async def slow_upload(host, port, until, go_on):
    """Sends a byte now and then; told to go on, all the rest."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE)
    writer.write(b"x" * BEGINNING)
    await writer.drain()
    yield "begun"
    sent = BEGINNING
    answer = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
    while time.monotonic() < until():
        await asyncio.sleep(random.uniform(0.25, 0.75))
        writer.write(b"x")
        await writer.drain()
        sent += 1
        if answer.done():
            raise Failed(f"a slow upload got an answer: {answer}")
    if go_on:
        writer.write(b"x" * (LARGE - sent))
        if not (await answer).startswith(b"HTTP/1.1 200 "):
            raise Failed(f"an upload got {answer.result()}")
    answer.cancel()
    writer.close()
    yield "done"


async def client(host, port, until, seen):
    conn = Connection(host, port)
    await asyncio.sleep(random.uniform(0, EVERY))
    while time.monotonic() < until():
        seen[await asyncio.wait_for(conn.get(b"/"), PATIENCE)] += 1
        await asyncio.sleep(random.uniform(0, 2 * EVERY))


async def canary(host, port, seconds):
    """Asks all the time, on one connection, and must be answered each time."""
    conn, times, until = Connection(host, port), [], time.monotonic() + seconds
    await conn.get(b"/healthz")
    while time.monotonic() < until:
        began = time.monotonic()
        status = await asyncio.wait_for(conn.ask(b"/healthz"), PATIENCE)
        if status != 200:
            raise Failed(f"the canary got {status}")
        times.append(time.monotonic() - began)
        await asyncio.sleep(0.05)
    times.sort()
    middle, last = times[len(times) // 2] * 1000, times[-1] * 1000
    print(f"canary {len(times)} of {len(times)}, p50 {middle:.0f} ms, slowest {last:.0f} ms", flush=True)


async def clients(host, port, seconds):
    end = float("inf")

    def until():
        return end

    slow = [kind(host, port, until, n == 0) for kind in (slow_reader, slow_upload) for n in range(SLOW)]
    # Before the others, so that each of them is let in.
    for one in slow:
        await asyncio.wait_for(anext(one), PATIENCE)
    seen = Counter()
    end = time.monotonic() + seconds
    bird = subprocess.Popen([sys.executable, __file__, "canary", host, str(port), str(seconds)])
    crowd = [asyncio.ensure_future(client(host, port, until, seen)) for _ in range(CLIENTS)]
    crowd += [asyncio.ensure_future(anext(one)) for one in slow]
    done, left = await asyncio.wait(crowd, timeout=seconds + 5 * PATIENCE)
    errors = Counter(repr(task.exception()) for task in done if task.exception())
    if left:
        errors["without an end"] = len(left)
    print(" ".join(f"{what}={count}" for what, count in sorted(seen.items())), flush=True)
    if bird.wait(PATIENCE) != 0:
        errors["the canary"] = 1
    if set(seen) != {200, 503} or min(seen.values()) < 100:
        errors[f"other answers than 200 and 503, or hardly any: {seen}"] = 1
    for what, count in errors.items():
        print(f"{count} x {what}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if sys.argv[1] == "app":
        asyncio.run(application(int(sys.argv[2])))
    kind = {"clients": clients, "canary": canary}[sys.argv[1]]
    sys.exit(asyncio.run(kind(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
