"""An application and a client of WebSockets: `serve` prints its port, `call HOST:PORT` checks the tunnel.

The application also has a page that tries a WebSocket and a stream of events in a browser, and reports
what it saw; the report is printed.
"""

import asyncio
import http
import sys
import urllib.parse

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as listen

PAGE = b"""<!doctype html><title>peer</title><script>
const report = (what) => fetch('/report?' + encodeURIComponent(what));
const socket = new WebSocket('ws://' + location.host + '/echo');
const seen = [];
socket.onopen = () => socket.send('one');
socket.onmessage = (event) => {
  seen.push(event.data);
  if (seen.length === 1) socket.send('x'.repeat(200000));
  else socket.close(1000, 'done');
};
socket.onerror = () => report('the WebSocket failed');
socket.onclose = (event) =>
  report('closed ' + event.code + ' after ' + seen.map((data) => data.length).join(' and '));
</script>"""


async def echo(socket):
    async for message in socket:
        await socket.send(message)


def page(connection, request):
    path, _, query = request.path.partition("?")
    if path == "/page":
        response = connection.respond(http.HTTPStatus.OK, "")
        del response.headers["Content-Type"], response.headers["Content-Length"]
        response.headers["Content-Type"] = "text/html"
        response.headers["Content-Length"] = str(len(PAGE))
        response.body = PAGE
        return response
    if path == "/report":
        print(urllib.parse.unquote(query), flush=True)
        return connection.respond(http.HTTPStatus.OK, "thanks")
    return None


async def serve():
    async with listen(echo, "127.0.0.1", 0, process_request=page, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


async def call(address):
    async with connect(f"ws://{address}/echo", max_size=None) as socket:
        for message in ["text", b"binary", "x" * 70_000, b"y" * 3_000_000]:
            await socket.send(message)
            assert await socket.recv() == message, len(message)
        await (await socket.ping())
        assert "permessage-deflate" in socket.response.headers.get("Sec-WebSocket-Extensions", "")
    assert socket.close_code == 1000, socket.close_code
    # Many at once, each with its own bytes.
    await asyncio.gather(*(one(address, number) for number in range(8)))
    print("every message came back", flush=True)


async def one(address, number):
    async with connect(f"ws://{address}/echo") as socket:
        for turn in range(50):
            await socket.send(f"{number} {turn}")
            assert await socket.recv() == f"{number} {turn}"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            asyncio.run(serve())
        case ["call", address]:
            asyncio.run(call(address))
        case other:
            sys.exit(f"what is {other}?")
