#!/usr/bin/env python3
"""Compare search with numpy brute force over the library's vectors, and time it; time new processes to first answer.

scripts/benchmark_search.py indexes/benchmark --queries 1000
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from measuring import keep, stopwatch
from numpy.typing import NDArray

from semsearch import Page, Searcher

_EACH = Page(collapse="none", approximate=False)
_QUERY = "how do word meanings change over time"


def main() -> None:
    """Run the measurements and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("index", type=Path)
    arguments.add_argument("--queries", type=int, default=1_000)
    options = arguments.parse_args()
    starts: dict[str, dict[str, Any]] = {}
    for name in ("search", "serve"):
        dropped = drop_page_cache()
        cold = first_answer(options.index, name)
        warm = min(first_answer(options.index, name) for _ in range(3))
        starts[name] = {"cold_seconds": round(cold, 2), "page_cache_dropped": dropped, "warm_seconds": round(warm, 2)}
    with Searcher.open(options.index) as searcher:
        result = {"papers": searcher.generation.papers, "brute_force": against_brute_force(searcher, options.queries)}
    keep("search", result | {"first_answer_of_a_new_process": starts}, [])


def against_brute_force(searcher: Searcher, count: int) -> dict[str, Any]:
    """Ask titles as queries with one and with two threads, and compare every answer with the oracle's."""
    seqs, matrix, ids = everything(searcher)
    chosen = np.random.default_rng(0).choice(len(seqs), min(count, len(seqs)), replace=False)
    versions = searcher.library.versions_at(seqs[chosen].tolist())
    titles = [version.paper.title or version.paper.abstract[:100] for version in versions.values()]
    answers: dict[int, list[list[tuple[str, float]]]] = {}
    timings: dict[str, float] = {}
    vectors = [searcher.encoder.encode_queries([title])[0] for title in titles]
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        with stopwatch() as watch:
            found = [searcher.search(title, _EACH, "dense").hits for title in titles]
        answers[threads] = [[(hit.paper.paper_id, hit.score) for hit in hits] for hits in found]
        timings[f"milliseconds_per_query_{threads}_threads"] = round(1_000 * watch.seconds / len(titles), 2)
    expected = [oracle(matrix, ids, vector) for vector in vectors]
    return {
        "queries": len(titles),
        "different_from_numpy": sum(
            [name for name, _ in answer] != [name for name, _ in truth]
            for answer, truth in zip(answers[2], expected, strict=True)
        ),
        "different_between_1_and_2_threads": sum(a != b for a, b in zip(answers[1], answers[2], strict=True)),
        "largest_score_difference": max(
            abs(mine - theirs)
            for answer, truth in zip(answers[2], expected, strict=True)
            for (_, mine), (_, theirs) in zip(answer, truth, strict=True)
        ),
        **timings,
    }


def everything(searcher: Searcher) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.str_]]:
    """Return seqs, vectors and ids of all live papers, read from the library and not from the index."""
    library, spec = searcher.library, searcher.encoder.spec
    live = library.all_live_seqs(searcher.generation.manifest.last_seq)
    blocks = list(library.vectors_at(live.tolist(), library.known_encoder(spec.fingerprint) or 0))
    names = [library.ids_at(seqs.tolist()) for seqs, _ in blocks]
    ids = [name[seq] for name, (seqs, _) in zip(names, blocks, strict=True) for seq in seqs.tolist()]
    return live, np.concatenate([vectors for _, vectors in blocks]), np.array(ids)


def oracle(matrix: NDArray[np.float32], ids: NDArray[np.str_], vector: NDArray[np.float32]) -> list[tuple[str, float]]:
    """Return the ten best (id, score) by a float64 matrix product, scores rounded to 1e-6, ties by id."""
    rough = matrix @ vector
    candidates = np.flatnonzero(rough >= np.partition(rough, -50)[-50] - 1e-4)
    scores = np.round(matrix[candidates].astype(np.float64) @ vector.astype(np.float64), 6)
    order = np.lexsort((ids[candidates], -scores))[:10]
    return [(str(ids[candidates][row]), float(scores[row])) for row in order]


def first_answer(index: Path, command: str) -> float:
    """Return the seconds from starting a new process to its first answer."""
    semsearch = [sys.executable, "-m", "semsearch.cli"]
    if command == "search":
        with stopwatch() as watch:
            subprocess.run([*semsearch, "search", _QUERY, "--index", str(index)], check=True, stdout=subprocess.DEVNULL)
        return watch.seconds
    with stopwatch() as watch:
        server = subprocess.Popen(
            [*semsearch, "serve", "--index", str(index), "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None, "its output was asked for"
        url = server.stdout.readline().strip().rsplit(" ", 1)[-1]
        while not answers(f"{url}/search?q=word+meanings"):
            time.sleep(0.05)
    server.terminate()
    server.wait()
    return watch.seconds


def answers(url: str) -> bool:
    """Return whether the service answers this with results."""
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return bool(json.load(response)["results"])
    except urllib.error.URLError:
        return False


def drop_page_cache() -> bool:
    """Make the system forget what it has read, and return whether it was allowed to (Linux, as root)."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
