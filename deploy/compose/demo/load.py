"""Clients: load.py URL [RATE [SECONDS]]. RATE requests a second come for SECONDS, whether answered or not.

Prints how many were answered with which status, and how long the answers took.
"""

import http.client
import sys
import threading
import time
import urllib.parse
from collections import Counter

# Beyond this many at once no more come, and are counted as "busy": clients, too, are finite.
MOST = 800

url = urllib.parse.urlsplit(sys.argv[1])
rate = float(sys.argv[2]) if len(sys.argv) > 2 else 300.0
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 30.0
seen, times, lock = Counter(), [], threading.Lock()
places = threading.BoundedSemaphore(MOST)


def call():
    began = time.monotonic()
    try:
        connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=10)
        connection.request("GET", url.path or "/")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        what = answer.status
    except OSError as error:
        what = type(error).__name__
    finally:
        places.release()
    with lock:
        seen[what] += 1
        times.append(time.monotonic() - began)


began = time.monotonic()
calls = []
for number in range(int(rate * seconds)):
    time.sleep(max(0.0, began + number / rate - time.monotonic()))
    if places.acquire(blocking=False):
        calls.append(threading.Thread(target=call))
        calls[-1].start()
    else:
        with lock:
            seen["busy"] += 1
for started in calls:
    started.join()
times.sort()
middle, late = times[len(times) // 2], times[len(times) * 99 // 100]
print(" ".join(f"{what}={count}" for what, count in sorted(seen.items(), key=str)), end=" ")
print(f"p50={middle * 1000:.0f}ms p99={late * 1000:.0f}ms", flush=True)
