#!/usr/bin/env python3
"""Hold thousands of slow connections against the service and see who suffers; end it under load and see what is lost.

scripts/benchmark_doors.py indexes/benchmark --slow 2000 --restarts 30
"""

import argparse
import http.client
import itertools
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from benchmark_serving import served, titles
from measuring import keep, stopwatch

from semsearch.service import Limits

_LIMITS = Limits()
_GRACE_SECONDS = 1.0
_POST = b"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
_KINDS: dict[str, tuple[bytes, bool, float]] = {  # what is sent at first, whether more comes byte by byte, the deadline
    "head byte by byte": (b"GET /search?q=a HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", True, _LIMITS.head_seconds),
    "body byte by byte": (_POST, True, _LIMITS.body_seconds),
    "silent": (b"", False, _LIMITS.head_seconds),
    "silent after an answer": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", False, _LIMITS.idle_seconds),
}


def main() -> None:
    """Run the measurements and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("index", type=Path)
    arguments.add_argument("--slow", type=int, default=2_000, help="connections at once")
    arguments.add_argument("--restarts", type=int, default=30)
    arguments.add_argument("--clients", type=int, default=50, help="at work when the service is told to end")
    options = arguments.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    papers, questions = titles(options.index)
    result: dict[str, Any] = {"papers": papers}
    if options.slow:
        with served(options.index) as address:
            result["slow_clients"] = against_slow_clients(address, questions, options.slow)
    if options.restarts:
        result["restarts"] = restarts(options.index, questions, options.restarts, options.clients)
    keep("doors", result, [])


# Slow clients


def against_slow_clients(address: str, questions: list[str], count: int) -> dict[str, Any]:
    """Return for how long slow connections outlived their deadlines, and how an honest client fared meanwhile."""
    wait_until_ready(address)
    deadline = time.monotonic() + 15
    alone = honest(address, questions, lambda: time.monotonic() < deadline)
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(honest, address, questions[::-1], lambda: not done.is_set())
        try:
            overruns = overruns_of(address, count)
        finally:
            done.set()
    return {
        "connections": count,
        "alive_a_second_after_their_deadline": sum(s > _GRACE_SECONDS for each in overruns.values() for s in each),
        "longest_overrun_seconds": {kind: round(max(each), 2) for kind, each in overruns.items()},
        "honest_client_alone": alone,
        "honest_client_beside_them": asking.result(),
    }


def honest(address: str, questions: Iterable[str], goes_on: Callable[[], bool]) -> dict[str, Any]:
    """Ask one question after the other; return how many got which status, and how long they waited."""
    statuses: Counter[str] = Counter()
    waits: list[float] = []
    connection = http.client.HTTPConnection(address, timeout=60)
    for question in itertools.takewhile(lambda _: goes_on(), itertools.cycle(questions)):
        with stopwatch() as watch:
            try:
                connection.request("GET", f"/search?q={quote(question)}")
                response = connection.getresponse()
                response.read()
                statuses[str(response.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                statuses[type(error).__name__] += 1
                connection.close()
        waits.append(1_000 * watch.seconds)
    connection.close()
    p50, p99 = np.percentile(waits, [50, 99]).tolist()
    return {"answers": dict(statuses), "milliseconds_p50": round(p50, 1), "milliseconds_p99": round(p99, 1)}


@dataclass
class Slow:
    """One slow connection, and since when the service waits for it."""

    kind: str
    since: float


def overruns_of(address: str, count: int) -> dict[str, list[float]]:
    """Keep so many connections slow until the last is closed; return by how much each outlived its deadline."""
    overruns: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    host, _, port = address.partition(":")
    with selectors.DefaultSelector() as waiting:
        for kind in itertools.islice(itertools.cycle(_KINDS), count):
            connection = socket.create_connection((host, int(port)), timeout=30)
            connection.sendall(_KINDS[kind][0])
            connection.setblocking(False)
            waiting.register(connection, selectors.EVENT_READ, Slow(kind, time.monotonic()))
        trickle_at = 0.0
        while waiting.get_map():
            for key, _ in waiting.select(0.05):
                if goes_on(key.fileobj, key.data):
                    continue
                overruns[key.data.kind].append(time.monotonic() - key.data.since - _KINDS[key.data.kind][2])
                waiting.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]  # it is a socket
            if time.monotonic() > trickle_at:
                trickle(key.fileobj for key in list(waiting.get_map().values()) if _KINDS[key.data.kind][1])
                trickle_at = time.monotonic() + 0.5
    return overruns


def goes_on(connection: Any, slow: Slow) -> bool:
    """Return whether the service keeps this connection; an answer makes it wait anew."""
    try:
        data = connection.recv(65_536)
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    if data and slow.kind == "silent after an answer":
        slow.since = time.monotonic()
    return bool(data)


def trickle(connections: Iterable[Any]) -> None:
    """Send one more byte on each."""
    for connection in connections:
        with suppress(OSError):
            connection.send(b" ")


# Restarts


def restarts(index: Path, questions: list[str], rounds: int, clients: int) -> dict[str, Any]:
    """End the service so many times while clients ask without a pause; return what became of their requests."""
    outcomes: Counter[str] = Counter()
    seconds = []
    for _ in range(rounds):
        command = [sys.executable, "-m", "semsearch.cli", "serve", "--index", str(index), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None, "it was asked for"
        address = urlsplit(server.stdout.readline().split()[-1]).netloc
        wait_until_ready(address)
        done = threading.Event()
        with ThreadPoolExecutor(clients) as pool:
            asking = [
                pool.submit(ask_until_refused, address, questions[n::clients], n % 2, done) for n in range(clients)
            ]
            time.sleep(2)
            server.send_signal(signal.SIGTERM)
            with stopwatch() as watch:
                server.wait(60)
            done.set()
            for each in asking:
                outcomes += each.result()
        seconds.append(watch.seconds)
        server.stdout.close()
    return {
        "rounds": rounds,
        "clients": clients,
        "requests": dict(outcomes),
        "longest_seconds_to_exit": round(max(seconds), 2),
    }


def ask_until_refused(address: str, questions: list[str], reuse: int, done: threading.Event) -> Counter[str]:
    """Ask until nobody listens any more, on one connection or each time on a new one; return what came of it."""
    outcomes: Counter[str] = Counter()
    connection = http.client.HTTPConnection(address, timeout=60)
    for question in questions:
        if done.is_set():
            break
        fresh = connection.sock is None
        if fresh:
            try:
                connection.connect()
            except ConnectionError:
                break
        try:
            connection.request("GET", f"/search?q={quote(question)}")
            response = connection.getresponse()
            response.read()
            outcomes[str(response.status)] += 1
        except (OSError, http.client.HTTPException):
            outcomes["dropped on a new connection" if fresh else "dropped on a used connection"] += 1
            connection.close()
        if not reuse:
            connection.close()
    connection.close()
    return outcomes


def wait_until_ready(address: str) -> None:
    """Wait until searches are answered."""
    while True:
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
        connection.close()
        if status == http.HTTPStatus.OK:
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main()
