"""An application to be protected: it works on WORKERS requests at once, each for SERVICE_TIME seconds.

What comes beyond waits inside, in a queue without bound: what most applications do. Put your own in
its place.
"""

import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORKERS = threading.BoundedSemaphore(int(os.environ.get("WORKERS", "8")))
SERVICE_TIME = float(os.environ.get("SERVICE_TIME", "0.05"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Nagle's algorithm would hold the body back after the head.
    disable_nagle_algorithm = True

    def do_GET(self):
        if self.path != "/healthz":
            with WORKERS:
                time.sleep(SERVICE_TIME)
        body = b"hello\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024


# The first process of a container has no default action for signals.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
Server((os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "8000"))), Handler).serve_forever()
