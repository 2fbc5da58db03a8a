"""Open-loop clients: each call is made when it is due, whatever became of those before it."""
import asyncio
import collections
import dataclasses
import gc
import random
import socket
import time


@dataclasses.dataclass
class Group:
    """Clients of one kind."""
    name: str
    rate: float
    service: float
    route: str = "default"
    clients: int = 1000
    timeout: float = 1.0
    retries: int = 2
    # Seconds on and off, and multiples of the rate meanwhile.
    bursts: tuple = None


@dataclasses.dataclass
class Call:
    due: float
    group: Group
    work: float
    client: str
    # Of the attempt that was answered in time.
    ended: float = None
    took: float = None
    late: float = 0.0
    attempts: int = 0


def calls(groups, seconds, seed):
    """All calls of a run, in order: the same for whoever stands before the application."""
    made = []
    for group in groups:
        draw = random.Random(f"{seed} {group.name}")
        peak = max(group.bursts[2:]) if group.bursts else 1.0
        at = draw.expovariate(group.rate * peak)
        while at < seconds:
            if draw.random() * peak < level(group, at):
                work = draw.expovariate(1 / group.service)
                client = f"{group.name}-{draw.randrange(group.clients)}"
                made.append(Call(at, group, work, client))
            at += draw.expovariate(group.rate * peak)
    return sorted(made, key=lambda call: call.due)


def level(group, at):
    if not group.bursts:
        return 1.0
    on, off, high, low = group.bursts
    return high if at % (on + off) < on else low


class Connection(asyncio.Protocol):
    def __init__(self):
        self.buffer, self.answer, self.keep = b"", None, True

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data):
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15:].split(b"\r\n", 1)[0]) if at >= 0 else None
        if length is None or len(self.buffer) < end + 4 + length:
            return
        self.buffer, self.keep = b"", b"connection: close" not in head
        if self.answer and not self.answer.done():
            self.answer.set_result(int(head[9:12]))

    def connection_lost(self, _):
        self.keep = False
        if self.answer and not self.answer.done():
            self.answer.set_result(0)


class Clients:
    def __init__(self, port):
        self.port, self.idle = port, collections.deque()

    async def ask(self, call):
        """The status of an answer; 0: closed without one."""
        loop = asyncio.get_running_loop()
        connection = None
        while self.idle and connection is None:
            connection = self.idle.pop()
            connection = connection if connection.keep else None
        if connection is None:
            try:
                _, connection = await loop.create_connection(Connection, "127.0.0.1", self.port)
            except OSError:
                return 0
        connection.answer = loop.create_future()
        path = f"/{call.group.route}/{int(call.work * 1e9)}"
        request = f"GET {path} HTTP/1.1\r\nhost: app\r\nx-client: {call.client}\r\n\r\n"
        try:
            connection.transport.write(request.encode())
            status = await connection.answer
        except asyncio.CancelledError:
            # Who waits no longer closes its connection.
            connection.transport.abort()
            raise
        if connection.keep:
            self.idle.append(connection)
        else:
            connection.transport.close()
        return status

    async def play(self, call, began):
        for attempt in range(1 + call.group.retries):
            start = time.monotonic()
            call.attempts += 1
            try:
                status = await asyncio.wait_for(self.ask(call), call.group.timeout)
            except asyncio.TimeoutError:
                status = None
            if status == 200:
                call.ended = time.monotonic() - began
                call.took = time.monotonic() - start
                return
            await asyncio.sleep(0.001)


async def play(port, made):
    """Makes all calls and waits for the last of them."""
    clients, running = Clients(port), set()
    gc.collect()
    gc.disable()
    began = time.monotonic() + 0.05
    for call in made:
        while (left := began + call.due - time.monotonic()) > 0:
            await asyncio.sleep(left)
        call.late = time.monotonic() - began - call.due
        task = asyncio.create_task(clients.play(call, began))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    gc.enable()
    for connection in clients.idle:
        connection.transport.close()
