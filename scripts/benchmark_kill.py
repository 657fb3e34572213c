#!/usr/bin/env python3
"""Kill an indexing run with SIGKILL at random moments, run it again each time, and compare with an undisturbed run.

    scripts/benchmark_kill.py PAPERS.jsonl.zst --count 5000 --kills 5

Shown: texts encoded twice (at most one batch a kill), the same answers as undisturbed wherever scores differ by more
than 1e-5, and that a service beside it answered from the previous generation until the last run published.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import keep
from numpy.typing import NDArray

from semsearch import Page, Searcher, imports_of, update_index
from semsearch.encoders import Encoder, LazyEncoder, ModelFolder, Tokenised, load_encoder
from semsearch.library import text_digest
from semsearch.readers import Found, read

_TOLERANCE = 1e-5
_QUERIES = 200
_FIRST = Page(11, collapse="none")


class LoggingEncoder(LazyEncoder):
    """The real encoder, which first writes down what it is about to encode."""

    log = Path()

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        """Append the batch's text digests to the log, then encode it."""
        with self.log.open("a") as file:
            file.write(" ".join(text_digest(passage.text).hex() for passage in passages) + "\n")
        return super().encode_passages(passages)


def index_logged(papers: Path, index: Path, log: Path) -> None:
    """Index the papers in this process, logging every batch."""

    def load(model: ModelFolder, device: str | None) -> Encoder:
        encoder = LoggingEncoder(model, device, load_encoder)
        encoder.log = log
        return encoder

    update_index(index, imports_of([papers]), load=load)


def main() -> None:
    """Run the measurement and keep its result."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("papers", type=Path)
    arguments.add_argument("--count", type=int, default=5_000)
    arguments.add_argument("--kills", type=int, default=5)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    moments = random.Random(options.seed)
    spawn = multiprocessing.get_context("spawn")

    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        papers, before = head_of(options.papers, room / "papers.jsonl", options.count), room / "before.jsonl"
        head_of(options.papers, before, 100)
        undisturbed, disturbed = room / "undisturbed", room / "disturbed"
        started = time.monotonic()
        index_logged(papers, undisturbed, room / "undisturbed.log")
        seconds = time.monotonic() - started
        peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        update_index(disturbed, imports_of([before], origin="papers"))
        log = room / "disturbed.log"
        with Witness(disturbed) as witness:
            killed_at = []
            for _ in range(options.kills):
                run = spawn.Process(target=index_logged, args=(papers, disturbed, log))
                run.start()
                wait = moments.uniform(12, 12 + seconds / options.kills)
                run.join(wait)
                if run.is_alive():
                    assert run.pid is not None, "it was started"
                    os.kill(run.pid, signal.SIGKILL)
                    killed_at.append(round(wait, 1))
                run.join()
            seen_until_then = witness.generations()
            index_logged(papers, disturbed, log)
            witness.wait_for(2)
            result = {
                "papers": options.count,
                "undisturbed": {
                    "seconds": round(seconds, 1),
                    "abstracts_per_second": round(options.count / seconds, 2),
                    "peak_memory_bytes": peak_memory,
                },
                "killed_after_seconds": killed_at,
                **encoded_twice(log),
                "generations_served_while_killing": seen_until_then,
                "generations_served_in_all": witness.generations(),
                "requests": witness.requests,
                "failed_requests": witness.failed,
                **compared(undisturbed, disturbed, papers),
            }
    keep("kill", {"seed": options.seed} | result, [options.papers])


def head_of(source: Path, target: Path, count: int) -> Path:
    """Write the first papers of a source to a new file."""
    with target.open("w", encoding="utf-8") as file:
        for entry in itertools.islice(read(source), count):
            assert isinstance(entry, Found), "the corpus has no bad records"
            file.write(entry.paper.to_json() + "\n")
    return target


def encoded_twice(log: Path) -> dict[str, Any]:
    """Return how many texts were begun more than once, and the largest batch."""
    batches = [line.split() for line in log.read_text().splitlines()]
    times = Counter(digest for batch in batches for digest in batch)
    return {
        "texts_encoded": len(times),
        "texts_begun_twice": sum(count - 1 for count in times.values()),
        "largest_batch": max(map(len, batches)),
    }


def compared(one: Path, other: Path, papers: Path) -> dict[str, Any]:
    """Return how the answers of two indexes differ, over titles as queries and ten hits each."""
    entries = list(read(papers))
    queries = [entry.paper.title for entry in entries[:: max(1, len(entries) // _QUERIES)] if isinstance(entry, Found)]
    different = same = 0
    with Searcher.open(one) as first, Searcher.open(other) as second:
        for query in queries:
            left, right = first.search(query, _FIRST, "dense").hits, second.search(query, _FIRST, "dense").hits
            for rank in range(10):
                if left[rank].paper.paper_id == right[rank].paper.paper_id:
                    same += 1
                elif abs(left[rank].score - right[rank].score) > _TOLERANCE or not any(
                    abs(left[rank].score - left[near].score) <= _TOLERANCE for near in (rank - 1, rank + 1) if near >= 0
                ):
                    different += 1
        return {
            "queries": len(queries),
            "same_ids": same,
            "different_ids_beyond_ties": different,
            "papers_in_each": [first.generation.papers, second.generation.papers],
        }


class Witness:
    """A real service on the index, asked all the time which generation it answers from."""

    def __init__(self, index: Path) -> None:
        """Prepare to serve this index."""
        self._index = index
        self._stop = threading.Event()
        self._seen: list[int] = []
        self.requests = self.failed = 0

    def __enter__(self) -> "Witness":
        """Start the service and the asking."""
        command = [sys.executable, "-m", "semsearch.cli", "serve", "--index", str(self._index), "--port", "0"]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout is not None, "its output was asked for"
        self._url = self._server.stdout.readline().strip().rsplit(" ", 1)[-1]
        self.wait_for(1)
        self._thread = threading.Thread(target=self._ask_on)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop both."""
        self._stop.set()
        self._thread.join()
        self._server.terminate()
        self._server.wait()

    def generations(self) -> list[int]:
        """Return the generations seen so far, in order."""
        return [number for number, _ in itertools.groupby(self._seen)]

    def wait_for(self, generation: int) -> None:
        """Return when the service answers from this generation."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if self._generation() == generation:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise TimeoutError(f"generation {generation} was never served")

    def _generation(self) -> int:
        with urllib.request.urlopen(f"{self._url}/search?q=grammar&limit=1", timeout=30) as response:
            return int(json.load(response)["meta"]["generation"])

    def _ask_on(self) -> None:
        while not self._stop.wait(0.5):
            self.requests += 1
            try:
                self._seen.append(self._generation())
            except OSError:
                self.failed += 1


if __name__ == "__main__":
    main()
