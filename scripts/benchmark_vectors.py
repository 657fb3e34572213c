#!/usr/bin/env python3
"""Compare ways to find the nearest vectors as their number grows: looking at all of them, lists, graphs.

scripts/benchmark_vectors.py FOLDER --sizes 10000 100000 1000000

The vectors are those of the index in FOLDER, and more made from them (scripts/recombined.py). How true these are shows
when half of the real ones are grown to as many as all: `made_like_real` has both. Questions are papers that are kept
out, titles, and everyday questions, which nothing is near to. One is asked at a time, of one thread, in a new process
for each size, as a service is one: what an index was made in has its memory in pieces.

The graphs are HNSW with 32 links over numbers of 8 bits, whose best 32 are scored by their float32 vectors, and
hnswlib's over float32 vectors, where `pip install hnswlib` was done; where not, that is what the result says of it.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from measuring import index_facts, keep, resident_bytes, stopwatch
from numpy.typing import NDArray
from recombined import Matrix, Rows, made_vectors, neighbours, parents

from semsearch import Searcher
from semsearch.vectors import Flat, Lists, Probing, Selection, Vectors, tuned, write_codes, write_lists, write_vectors
from semsearch.vectors.flat import best

_EVERYDAY = Path(__file__).with_name("everyday_questions.txt")
_QUESTIONS, _TIMED, _TURNS, _ASKED_WITHIN = 500, 300, 10, 100
_SHARES = (0.99, 0.01)
_MOST_IN_MEMORY = 2_000_000
_DEPTH, _WINDOW = 10, 1_016
_BLOCK = 50_000
_LINKS, _CODES, _RESCORED, _RECALL = 32, "SQ8", 32, 0.99
_GRAPH_EFFORTS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024)
_RESIDENT_QUESTIONS = 10_000
_ASKED, _PROBING = "questions.npz", "probing.json"


def main() -> None:
    """Run the measurements and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("index", type=Path)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    arguments.add_argument("--graph-up-to", type=int, default=0, metavar="ROWS", help="also make graphs so large")
    arguments.add_argument("--making-effort", type=int, default=40, help="efConstruction of these graphs")
    arguments.add_argument("--resident", choices=["flat", "lists"], help=argparse.SUPPRESS)
    arguments.add_argument("--asked", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.resident:
        print(json.dumps(_resident_after_questions(options.index, options.resident)))
        return
    if options.asked:
        print(json.dumps(answered(options.index)))
        return
    with Searcher.open(options.index) as searcher:
        facts = index_facts(searcher.generation)
        papers, questions = _material(searcher)
    with tempfile.TemporaryDirectory() as scratch:
        alike = _made_like_real(papers, questions, Path(scratch))
        grown = Grown(papers, Path(scratch))
        effort = options.making_effort
        sizes: list[dict[str, Any]] = []
        for rows in options.sizes:
            size = measured(grown, rows, questions, Path(scratch))
            if rows <= options.graph_up_to:
                size |= graphs(questions, effort, Path(scratch), size["flat"]["milliseconds"])
            sizes.append(size | {"recombined": max(0, rows - len(papers))})
            result = {"index": facts, "real_vectors": len(papers), "made_like_real": alike, "sizes": sizes}
            keep("vectors", result, [])  # after each, because the next may take an hour


def _material(searcher: Searcher) -> tuple[Matrix, dict[str, Matrix]]:
    """Return the vectors to search, in random order, and the questions of each kind."""
    generation, generator = searcher.generation, np.random.default_rng(0)
    rows = generator.permutation(np.flatnonzero(generation.live))
    held_out, rest = rows[:_QUESTIONS], rows[_QUESTIONS:]
    versions = searcher.library.versions_at(generation.seqs_at(np.sort(rest[:_QUESTIONS])).tolist())
    titles = [version.paper.title or version.paper.abstract[:100] for version in versions.values()]
    texts = {"titles": titles, "everyday": _EVERYDAY.read_text().splitlines()}
    questions = {kind: searcher.encoder.encode_queries(some) for kind, some in texts.items()}
    return generation.vectors_at(rest), {"papers": generation.vectors_at(held_out)} | questions


class Grown:
    """The vectors of papers, and as many more made from them as are asked for."""

    def __init__(self, papers: Matrix, scratch: Path) -> None:
        self._papers = papers
        self._folder = scratch
        self._nearest: Rows | None = None

    def blocks(self, rows: int) -> Iterator[Matrix]:
        """Yield the first so many vectors."""
        if rows > len(self._papers) and self._nearest is None:
            self._nearest = neighbours(_written(self.blocks(len(self._papers)), len(self._papers), self._folder)[0])
        for start in range(0, rows, _BLOCK):
            stop = min(start + _BLOCK, rows)
            if stop <= len(self._papers):
                yield self._papers[start:stop]
            else:
                assert self._nearest is not None, "they were found"
                yield made_vectors(self._papers, parents(start, stop, self._nearest))


def _made_like_real(papers: Matrix, questions: dict[str, Matrix], folder: Path) -> dict[str, Any]:
    """Return how near the nearest are among all papers, and among as many that were made from half of them."""
    made = np.concatenate(list(Grown(papers[: len(papers) // 2], folder).blocks(len(papers))))
    return {name: _nearness(matrix, questions) for name, matrix in (("real", papers), ("made", made))}


def _nearness(matrix: Matrix, questions: dict[str, Matrix]) -> dict[str, dict[str, float]]:
    index = faiss.IndexFlatIP(matrix.shape[1])
    index.add(np.ascontiguousarray(matrix))
    return {kind: _by_place(index.search(asked, _WINDOW)[0]) for kind, asked in questions.items()}


def _by_place(scores: Matrix) -> dict[str, float]:
    """Return the mean cosine of the first neighbour, the tenth and so on."""
    places = [place for place in (1, 10, 100, 1_000) if place <= scores.shape[1]]
    return {str(place): round(float(scores[:, place - 1].mean()), 4) for place in places}


def _written(blocks: Iterable[Matrix], rows: int, folder: Path) -> tuple[Vectors, dict[str, Any]]:
    """Return the vectors as a segment has them, and what it took to write them."""
    paths = flat, lists, codes = _paths(folder)
    for path in paths:
        path.unlink(missing_ok=True)  # an earlier one may still be mapped
    remaining = iter(blocks)
    first = next(remaining)
    with flat.open("wb") as file:
        write_vectors(chain([first], remaining), rows, first.shape[1], file.write)
    with stopwatch() as making, lists.open("wb") as file:
        write_lists(Flat(flat), file.write)
    with stopwatch() as coding, codes.open("wb") as file:
        write_codes(Flat(flat), file.write)
    with stopwatch() as tuning:
        probing = tuned(Flat(flat), Lists(lists))
    (folder / _PROBING).write_text(json.dumps(asdict(probing)))
    facts = {
        "lists": Lists(lists).count,
        "making_seconds": round(making.seconds, 1),
        "coding_seconds": round(coding.seconds, 1),
        "tuning_seconds": round(tuning.seconds, 1),
        "bytes_per_vector": round((lists.stat().st_size + codes.stat().st_size) / rows, 1),
        "probing": asdict(probing),
    }
    return Vectors(*paths, probing), facts


def _paths(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "vectors.faiss", folder / "lists.faiss", folder / "codes.npy"


def _blocks(flat: Flat) -> Iterator[Matrix]:
    for start in range(0, flat.rows, _BLOCK):
        yield flat.at(np.arange(start, min(start + _BLOCK, flat.rows)))


def measured(grown: Grown, rows: int, questions: dict[str, Matrix], folder: Path) -> dict[str, Any]:
    """Return what it takes to find the nearest of so many vectors, and what is found."""
    print(f"{rows:,} vectors", file=sys.stderr)
    _, facts = _written(grown.blocks(rows), rows, folder)
    np.savez(folder / _ASKED, **questions)  # type: ignore[arg-type]  # taken for its other arguments
    result: dict[str, Any] = {"rows": rows, **_in_a_process(folder, "--asked")}
    result["lists"] = facts | result["lists"]
    if rows <= _MOST_IN_MEMORY:
        memory = np.concatenate(list(_blocks(Flat(folder / "vectors.faiss"))))
        scan = _milliseconds(lambda query: np.argpartition(-(memory @ query), _DEPTH), questions["papers"][:50])
        result["numpy"] = {"milliseconds": scan}
    resident = {way: round(_in_a_process(folder, "--resident", way) / rows, 1) for way in ("flat", "lists")}
    return result | {"resident_bytes_per_vector": resident}


def _in_a_process(folder: Path, *arguments: str) -> Any:
    command = [sys.executable, __file__, str(folder), *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def answered(folder: Path) -> dict[str, Any]:
    """Return what is found of the vectors in this folder by looking at all and by lists, and how long that takes."""
    vectors = _opened(folder)
    with np.load(folder / _ASKED) as file:
        questions = dict(file)
    exact = {kind: vectors.nearest(some, _WINDOW, exact=True) for kind, some in questions.items()}
    flat, by_lists = _in_turns(vectors, questions)
    papers = by_lists["papers"]
    return {
        "mean_cosine_of_neighbour": {kind: _by_place(scores) for kind, (scores, _) in exact.items()},
        "flat": {"milliseconds": _median(flat)},
        "lists": {
            kind: {"milliseconds": _median(by_lists[kind])} | _by_lists(vectors, some, exact[kind][1])
            for kind, some in questions.items()
        },
        "times_flat": round(float(np.median(np.median(flat, axis=1) / np.median(papers, axis=1))), 1),
    }


def _in_turns(vectors: Vectors, questions: dict[str, Matrix]) -> tuple[Matrix, dict[str, Matrix]]:
    """Return the milliseconds of looking at all for papers, and of lists for each kind, both of shape (rounds, n).

    In turns, because what else the machine does comes and goes within seconds.
    """
    faiss.omp_set_num_threads(1)
    exact = partial(vectors.nearest, k=_DEPTH, exact=True)
    by_lists = partial(vectors.nearest, k=_DEPTH)
    flat: list[list[float]] = []
    lists: dict[str, list[list[float]]] = {kind: [] for kind in questions}
    for turn in range(_TURNS):
        flat.append(_each(exact, questions["papers"][turn::_TURNS][:5]))
        for kind, some in questions.items():
            lists[kind].append(_each(by_lists, some[turn::_TURNS][: _TIMED // _TURNS]))
    return np.array(flat), {kind: np.array(took) for kind, took in lists.items()}


def _each(ask: Callable[[Matrix], object], questions: Matrix) -> list[float]:
    ask(questions[:1])
    took = []
    for question in questions:
        started = time.perf_counter()
        ask(question[None, :])
        took.append(1_000 * (time.perf_counter() - started))
    return took


def _median(milliseconds: Matrix) -> float:
    return round(float(np.median(milliseconds)), 3)


def _by_lists(vectors: Vectors, some: Matrix, true: Rows) -> dict[str, Any]:
    window = vectors.nearest(some, _WINDOW)[1]
    return {
        "recall_at_10": _recall(vectors.nearest(some, _DEPTH)[1], true[:, :_DEPTH]),
        "recall_at_100": _recall(window[:, :100], true[:, :100]),
        "recall_at_1000": _recall(window[:, :1_000], true[:, :1_000]),
        "milliseconds_window": _milliseconds(lambda query: vectors.nearest(query[None, :], _WINDOW), some[:_TIMED]),
        "within": _within(vectors, some),
    }


def _within(vectors: Vectors, asked: Matrix) -> list[dict[str, float]]:
    """Return what asking takes, and finds, where one row of a hundred is dead, and where so many are allowed."""
    results, generator = [], np.random.default_rng(3)
    for share in _SHARES:
        mask = generator.random(vectors.rows) < share
        ask = partial(_asked_within, vectors, mask)
        few = asked[:_ASKED_WITHIN]
        found = np.stack([ask(query) for query in few])
        true = vectors.nearest(few, _DEPTH, Selection(mask), exact=True)[1]
        results.append({"share": share, "recall_at_10": _recall(found, true), "milliseconds": _milliseconds(ask, few)})
    return results


def _asked_within(vectors: Vectors, mask: NDArray[np.bool_], query: Matrix) -> Rows:
    found: Rows = vectors.nearest(query[None, :], _DEPTH, Selection(mask))[1][0]
    return found


def graphs(questions: dict[str, Matrix], making_effort: int, folder: Path, flat: float) -> dict[str, Any]:
    """Return what graphs of both kinds take, `flat` being the milliseconds of looking at all vectors."""
    vectors = Flat(folder / "vectors.faiss")
    true = {kind: vectors.nearest(asked, _DEPTH)[1] for kind, asked in questions.items()}
    results: dict[str, Any] = {"graph": _graph(vectors, questions, true, making_effort, folder)}
    try:
        hnswlib = importlib.import_module("hnswlib")
    except ImportError:
        results["hnswlib"] = "absent"
    else:
        results["hnswlib"] = _hnswlib(hnswlib.Index("ip", vectors.dimension), vectors, questions, true, making_effort)
    for graph in results.values():
        for kind in questions if isinstance(graph, dict) else ():
            graph[kind]["times_flat"] = round(flat / graph[kind]["milliseconds"], 1)
    return results


def _graph(
    vectors: Flat,
    questions: dict[str, Matrix],
    true: dict[str, Rows],
    making_effort: int,
    folder: Path,
) -> dict[str, Any]:
    path = folder / "graph.faiss"
    made: Any = faiss.index_factory(vectors.dimension, f"HNSW{_LINKS},{_CODES}", faiss.METRIC_INNER_PRODUCT)
    made.hnsw.efConstruction = making_effort
    with stopwatch() as making:
        made.train(vectors.at(np.arange(0, vectors.rows, max(1, vectors.rows // _BLOCK))))
        for block in _blocks(vectors):
            made.add(block)
        faiss.write_index(made, str(path))
    del made
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)

    def ask(query: Matrix, effort: int, k: int, rescored: int) -> Rows:
        parameters = faiss.SearchParametersHNSW(efSearch=effort)  # type: ignore[attr-defined]
        rows = index.search(query[None, :], rescored, params=parameters)[1][0]
        rows = rows[rows >= 0]
        return best(rows, vectors.scores_of(rows, query), k)[1]

    return {
        "making_effort": making_effort,
        "making_seconds": round(making.seconds, 1),
        "bytes_per_vector": round(path.stat().st_size / vectors.rows, 1),
        "milliseconds_window": _milliseconds(lambda query: ask(query, _WINDOW, _WINDOW, _WINDOW), questions["titles"]),
        **least_effort(lambda query, effort: ask(query, effort, _DEPTH, _RESCORED), questions, true),
    }


def _hnswlib(
    index: Any, vectors: Flat, questions: dict[str, Matrix], true: dict[str, Rows], making_effort: int
) -> dict[str, Any]:
    with stopwatch() as making:
        index.init_index(vectors.rows, ef_construction=making_effort, M=_LINKS // 2)  # its M counts half of the links
        for block in _blocks(vectors):
            index.add_items(block)

    def ask(query: Matrix, effort: int) -> Rows:
        index.set_ef(effort)
        rows: Rows = index.knn_query(query, _DEPTH, num_threads=1)[0][0].astype(np.int64)
        return rows

    facts = {"making_effort": making_effort, "making_seconds": round(making.seconds, 1)}
    return facts | least_effort(ask, questions, true)


def least_effort(
    ask: Callable[[Matrix, int], Rows], questions: dict[str, Matrix], true: dict[str, Rows]
) -> dict[str, Any]:
    """Return, by kind of question, the least effort that finds 0.99 of the ten nearest, or the most that was tried."""
    faiss.omp_set_num_threads(1)
    results = {}
    for kind, asked in questions.items():
        for effort in _GRAPH_EFFORTS:
            asked_so = partial(_asked_with, ask, effort)
            recall = _recall(np.stack([asked_so(query) for query in asked]), true[kind])
            if recall >= _RECALL:
                break
        timed = _milliseconds(asked_so, asked[:_TIMED])
        results[kind] = {"effort": effort, "recall_at_10": recall, "milliseconds": timed}
    return results


def _asked_with(ask: Callable[[Matrix, int], Rows], effort: int, query: Matrix) -> Rows:
    return ask(query, effort)


def _milliseconds(ask: Callable[[Matrix], object], questions: Matrix) -> float:
    """Return the median time of one question."""
    faiss.omp_set_num_threads(1)
    for question in questions[:10]:
        ask(question)
    took = []
    for question in questions:
        started = time.perf_counter()
        ask(question)
        took.append(time.perf_counter() - started)
    return round(1_000 * float(np.median(took)), 3)


def _recall(found: Rows, true: Rows) -> float:
    met = [len(np.intersect1d(some, best)) / len(best) for some, best in zip(found, true, strict=True)]
    return round(float(np.mean(met)), 4)


def _opened(folder: Path) -> Vectors:
    return Vectors(*_paths(folder), Probing(**json.loads((folder / _PROBING).read_text())))


def _resident_after_questions(folder: Path, way: str) -> int:
    """Return how much more memory this process holds after 10,000 questions, mapped pages among it."""
    generator = np.random.default_rng(2)
    before = resident_bytes()
    if way == "flat":
        vectors, questions = Vectors(_paths(folder)[0]), 20  # each touches all
    else:
        vectors, questions = _opened(folder), _RESIDENT_QUESTIONS
    for row in generator.integers(0, vectors.rows, questions):
        vectors.nearest(vectors.at(np.array([row])), _DEPTH)
    return resident_bytes() - before


if __name__ == "__main__":
    main()
