#!/usr/bin/env python3
"""Compare 8 and 64 concurrent clients of the service with one: questions a second, and how long each waits.

scripts/benchmark_serving.py indexes/benchmark --mode hybrid
"""

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from measuring import keep, stopwatch

from semsearch import IndexFolder, Library

_WARM_UP = 20


def main() -> None:
    """Run the measurements and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("index", type=Path)
    arguments.add_argument("--clients", type=int, nargs="+", default=[8, 64])
    arguments.add_argument("--seconds", type=float, default=20.0, help="of each round")
    arguments.add_argument("--mode", default="hybrid")
    arguments.add_argument("--workers", type=int, help="processes that search; by default what serve chooses")
    options = arguments.parse_args()
    papers, questions = titles(options.index)
    with served(options.index, options.workers) as address:
        ask(address, questions[:_WARM_UP], options.mode, time.monotonic() + 60)
        counts = (1, *options.clients)
        rounds = [
            (clients, measured(address, questions, options.mode, clients, options.seconds)) for clients in counts * 2
        ]
        workers = int(metrics(address)["semsearch_workers"])
    result: dict[str, Any] = {"papers": papers, "mode": options.mode, "workers": workers}
    for count in counts:
        result[f"{count} clients" if count > 1 else "1 client"] = [
            figures for clients, figures in rounds if clients == count
        ]
    rate = {count: statistics.mean(f["questions_per_second"] for c, f in rounds if c == count) for count in counts}
    result["times_one_client"] = {str(count): round(rate[count] / rate[1], 2) for count in options.clients}
    keep("serving", result, [])


def titles(index: Path) -> tuple[int, list[str]]:
    """Return how many papers there are, and titles to ask, each another one: nothing is remembered of them."""
    with Library.open(IndexFolder(index).library) as library:
        seqs = library.all_live_seqs(library.last_seq())
        chosen = np.random.default_rng(1).choice(seqs, min(20_000, len(seqs)), replace=False).tolist()
        found = [version.paper.title for version in library.versions_at(chosen).values()]
    return len(seqs), [title for title in found if title]


@contextmanager
def served(index: Path, workers: int | None = None) -> Iterator[str]:
    """Serve the index in a process of its own until the end; give its host and port."""
    command = [sys.executable, "-m", "semsearch.cli", "serve", "--index", str(index), "--port", "0"]
    command += [] if workers is None else ["--workers", str(workers)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None, "it was asked for"
    try:
        yield urlsplit(server.stdout.readline().split()[-1]).netloc
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        server.stdout.close()


def metrics(address: str) -> dict[str, float]:
    """Return what the service tells of itself without labels."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs if "{" not in name}


def measured(address: str, questions: list[str], mode: str, clients: int, seconds: float) -> dict[str, Any]:
    """Let so many clients ask one question after the other."""
    deadline = time.monotonic() + seconds
    shares = [questions[client::clients] for client in range(clients)]
    np.random.default_rng(os.getpid() + clients).shuffle(questions)  # the next round asks others
    with stopwatch() as watch, ThreadPoolExecutor(clients) as pool:
        waits = [wait for each in pool.map(lambda share: ask(address, share, mode, deadline), shares) for wait in each]
    p50, p99 = np.percentile(waits, [50, 99])
    return {
        "questions_per_second": round(len(waits) / watch.seconds, 2),
        "milliseconds_p50": round(1_000 * float(p50), 1),
        "milliseconds_p99": round(1_000 * float(p99), 1),
    }


def ask(address: str, questions: Sequence[str], mode: str, deadline: float) -> list[float]:
    """Ask until the deadline over one connection; return the seconds that each answer took."""
    connection = http.client.HTTPConnection(address, timeout=60)
    waits = []
    for question in questions:
        if time.monotonic() > deadline:
            break
        with stopwatch() as watch:
            connection.request("GET", f"/search?q={quote(question)}&mode={mode}")
            response = connection.getresponse()
            body = response.read()
        if response.status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            time.sleep(0.2)  # it is still opening the index
            continue
        assert response.status == http.HTTPStatus.OK, body
        assert json.loads(body)["results"], question
        waits.append(watch.seconds)
    connection.close()
    return waits


if __name__ == "__main__":
    main()
