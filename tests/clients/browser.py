"""A headless Chromium, driven line by line over the DevTools protocol. Only the standard library.

    browser.py URL [WIDTH HEIGHT [dark]]

Opens the page. Each line on standard input is a JSON object, answered by one on standard output:
{"eval": EXPRESSION} by the value (promises are awaited); {"shot": FILE} saves the page as PNG;
{"console": true} lists what the page has complained about.
"""

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request


class Tab:
    """One tab, over a WebSocket (RFC 6455)."""

    def __init__(self, url):
        host, path = url.removeprefix("ws://").split("/", 1)
        address, port = host.split(":")
        self.socket = socket.create_connection((address, int(port)), timeout=30)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.stream = self.socket.makefile("rb")
        while self.stream.readline() not in (b"\r\n", b""):
            pass
        self.number = 0
        self.complaints = []

    def call(self, method, **parameters):
        self.number += 1
        number = self.number
        self.send(json.dumps({"id": number, "method": method, "params": parameters}).encode())
        while True:
            message = json.loads(self.receive())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.note(message)

    def note(self, message):
        kind, parameters = message.get("method"), message.get("params", {})
        if kind == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            thrown = details.get("exception", {}).get("description", "")
            self.complaints.append(f"{details['text']} {thrown}")
        elif kind == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(parameters["entry"]["text"])

    def send(self, payload):
        mask = os.urandom(4)
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x81, 0x80 | length)
        elif length < 65536:
            head = struct.pack("!BBH", 0x81, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x81, 0x80 | 127, length)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self.socket.sendall(head + mask + masked)

    def receive(self):
        text = b""
        while True:
            first, second = self.stream.read(2)
            length = second & 127
            if length == 126:
                (length,) = struct.unpack("!H", self.stream.read(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self.stream.read(8))
            payload = self.stream.read(length)
            if first & 15 in (0, 1):
                text += payload
                if first & 128:
                    return text


def start(profile):
    """Chromium on a port of its own choice, which it writes into its profile."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("chromium is not installed")
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    arguments += ["--disable-dev-shm-usage", "--disable-background-networking", "--disable-extensions"]
    arguments += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen([chromium, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    written = os.path.join(profile, "DevToolsActivePort")
    for _ in range(600):
        if os.path.exists(written) and open(written).read().count("\n"):
            return process, int(open(written).readline())
        time.sleep(0.05)
    process.kill()
    sys.exit("chromium does not listen")


def main():
    url = sys.argv[1]
    width, height = (int(number) for number in sys.argv[2:4] or (1280, 900))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process, port = start(profile)
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            tabs = json.load(opener.open(f"http://127.0.0.1:{port}/json"))
            tab = Tab(next(tab for tab in tabs if tab["type"] == "page")["webSocketDebuggerUrl"])
            tab.call("Runtime.enable")
            tab.call("Log.enable")
            tab.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                     deviceScaleFactor=1 if width > 600 else 2, mobile=width <= 600)
            scheme = "dark" if "dark" in sys.argv[4:] else "light"
            tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            tab.call("Page.navigate", url=url)
            there = "location.href !== 'about:blank' && document.readyState === 'complete'"
            while not answer(tab, {"eval": there}, width):
                time.sleep(0.05)
            print(json.dumps("open"), flush=True)
            for line in sys.stdin:
                print(json.dumps(answer(tab, json.loads(line), width)), flush=True)
        finally:
            process.kill()
            process.wait()


def answer(tab, wish, width):
    if "eval" in wish:
        result = tab.call("Runtime.evaluate", expression=wish["eval"], returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")
    if "shot" in wish:
        whole = tab.call("Runtime.evaluate", expression="document.documentElement.scrollHeight")["result"]["value"]
        clip = {"x": 0, "y": 0, "width": width, "height": whole, "scale": 1}
        picture = tab.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        with open(wish["shot"], "wb") as file:
            file.write(base64.b64decode(picture["data"]))
        return wish["shot"]
    return tab.complaints


main()
