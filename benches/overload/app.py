"""The application of the simulator's model, over sockets.

`workers` servers before one queue, first come, first served. With more inside than `knee` all are
slower, by `contention` for each knee more, as if they shared memory, locks and a database. It does
not notice that a client has left, and works on. A request's path says how much work it is:
`/<route>/<nanoseconds>`.

Workers run on an exact clock of their own: a request starts when the one before it was done, and
not when a timer noticed. Only the answer is late by what the timer is, some 100 us.
"""
import asyncio
import collections
import heapq
import socket
import threading
import time

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Workers:
    """The model, at the instants that it is told."""

    def __init__(self, workers, knee=32, contention=0.3):
        self.workers, self.knee, self.contention = workers, knee, contention
        self.delay = 0.0
        self.running, self.queue = [], collections.deque()
        # What a server has done that never idled: one clock for all, whatever their speed.
        self.work, self.speed, self.now, self.number = 0.0, 1.0, 0.0, 0

    def enter(self, now, work, done):
        """A request comes; `done` is called with the instant at which it is answered."""
        self.run_until(now)
        self.queue.append((work, done))
        self.start()

    def next(self):
        """When the next request is done; `None` if none is worked on."""
        if not self.running:
            return None
        return self.now + max(self.running[0][0] - self.work, 0.0) / self.speed

    def run_until(self, now):
        while (at := self.next()) is not None and at <= now:
            self.advance(at)
            heapq.heappop(self.running)[2](at + self.delay)
            self.start()
        self.advance(now)

    def advance(self, now):
        self.work += max(now - self.now, 0.0) * self.speed
        self.now = max(self.now, now)

    def start(self):
        while self.queue and len(self.running) < self.workers:
            work, done = self.queue.popleft()
            self.number += 1
            heapq.heappush(self.running, (self.work + work, self.number, done))
        above = len(self.running) + len(self.queue) - self.knee
        self.speed = 1.0 / (1.0 + self.contention * above / self.knee) if above > 0 else 1.0


class Clock:
    """Calls back at an instant to some 100 us: an event loop's timers are good for 1 ms."""

    def __init__(self, loop):
        self.loop, self.due, self.number = loop, [], 0
        self.changed = threading.Condition()
        threading.Thread(target=self.keep, daemon=True).start()

    def at(self, instant, call):
        with self.changed:
            self.number += 1
            heapq.heappush(self.due, (instant, self.number, call))
            self.changed.notify()

    def keep(self):
        with self.changed:
            while True:
                left = self.due[0][0] - time.monotonic() if self.due else None
                if left is None or left > 0:
                    self.changed.wait(left)
                else:
                    self.loop.call_soon_threadsafe(heapq.heappop(self.due)[2])


class Connection(asyncio.Protocol):
    def __init__(self, app):
        self.app, self.buffer = app, b""

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head, self.buffer = self.buffer[:end], self.buffer[end + 4:]
            path = head.split(b" ", 2)[1]
            self.app.request(int(path.rsplit(b"/", 1)[1]) / 1e9, self.answer)

    def answer(self):
        if not self.transport.is_closing():
            self.transport.write(ANSWER)


class App:
    def __init__(self, loop, workers):
        self.workers, self.clock, self.armed = Workers(workers), Clock(loop), None

    def request(self, work, answer):
        self.workers.enter(time.monotonic(), work, lambda at: self.clock.at(at, answer))
        self.arm()

    def arm(self):
        at = self.workers.next()
        if at is not None and (self.armed is None or at < self.armed):
            self.armed = at
            self.clock.at(at, self.wake)

    def wake(self):
        self.armed = None
        self.workers.run_until(time.monotonic())
        self.arm()

    def change(self, workers, delay):
        self.workers.run_until(time.monotonic())
        self.workers.workers, self.workers.delay = workers, delay
        self.workers.start()
        self.arm()


async def serve(port, workers, steps):
    """Serves until it is ended. `steps`: seconds from the first request on, the workers from then
    on, and a delay of each answer."""
    loop = asyncio.get_running_loop()
    app = App(loop, workers)
    began = []

    class First(Connection):
        def data_received(self, data):
            if not began:
                began.append(loop.time())
                for at, count, delay in steps:
                    loop.call_later(at, app.change, int(count), delay)
            super().data_received(data)

    server = await loop.create_server(lambda: First(app), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()
