#!/usr/bin/env python3
"""Grow an index to millions of papers, and measure what opening and asking it takes then.

scripts/benchmark_scale.py indexes/benchmark --papers 1000000 --at indexes/million

The papers are those of the index and others recombined from them (scripts/recombined.py); with --short only eight words
of an abstract are taken, which spares most of the time and disk of ten million. A run that was stopped goes on where it
was; an index that is there already is only measured. One paper in a hundred is deleted, so that there are tombstones.

Then a process of its own asks ten thousand titles half remembered by meaning, one in ten of them within a filter that
leaves about one paper in a hundred, and tells how much memory it holds. It times titles and everyday questions in each
mode, and by meaning within that filter; what is found by way of lists is compared with what looking at all finds.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_known_items import Remembering
from benchmark_latency import Questions, filters_near, title_without_a_word
from benchmark_search import drop_page_cache
from measuring import counting, index_facts, keep, resident_bytes, stopwatch
from numpy.typing import NDArray
from recombined import Rows, made_paper, made_vectors, neighbours, parents

from semsearch import Page, Paper, Searcher
from semsearch.filters import EVERY_PAPER, Filter
from semsearch.generation import IndexFolder, current_generation, open_current, open_generation
from semsearch.library import Embedding, Library, text_digest
from semsearch.publishing import publish_pending
from semsearch.ranking import MODES, Mode
from semsearch.stages import Stage, listened_by
from semsearch.vectors import Vectors

_EVERYDAY = Path(__file__).with_name("everyday_questions.txt")
_BATCH = 2_000
_DELETED_EVERY = 100
_SHARE = 0.01
_SHORT = 8
_WARM_UP = 10
_MOST_WARM = 8 << 30  # bytes; more is not in memory as a whole when it has been read
_MEMORY_QUESTIONS = 10_000


def main() -> None:
    """Run the measurements and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("index", type=Path, help="whose papers are taken")
    arguments.add_argument("--papers", type=int, default=1_000_000)
    arguments.add_argument("--at", type=Path, required=True, metavar="FOLDER", help="the index that is grown")
    arguments.add_argument("--short", action="store_true", help="abstracts of eight words")
    arguments.add_argument("--questions", type=int, default=100, help="titles asked in each way")
    arguments.add_argument("--asking", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.asking:
        print(json.dumps(asked(options.at, json.load(sys.stdin), options.questions)))
        return
    made = grown(options.index, options.at, options.papers, short=options.short)
    result = {"made": made, "opening": opening(options.at, cold=True)}
    command = [sys.executable, *sys.argv, "--asking"]  # a process of its own, whose memory nothing else is in
    titles = json.dumps(titles_of(options.index))
    done = subprocess.run(command, input=titles, stdout=subprocess.PIPE, text=True, check=True)
    result |= json.loads(done.stdout)
    keep(f"scale-{options.papers}", result, [])


# Growing


def grown(index: Path, at: Path, papers: int, *, short: bool) -> dict[str, Any]:
    """Make the index, as far as it is not there; return what that took, or took the runs that made it."""
    folder, told = IndexFolder(at), at / "made.json"
    with Searcher.open(index) as source, Library.create(folder.library) as library:
        spec = source.encoder.spec
        deleted = [_name(number) for number in range(0, papers, _DELETED_EVERY)]
        steps: dict[str, Callable[[], object]] = {
            "commit": lambda: _added(source, library, at, papers, short),
            "publish": lambda: publish_pending(folder, library, spec),
            "delete_a_hundredth": lambda: (library.delete(deleted), publish_pending(folder, library, spec)),
        }
        for name, step in steps.items():
            state = library.last_seq(), current_generation(folder)
            with stopwatch() as watch:
                step()
            if state != (library.last_seq(), current_generation(folder)):
                _tell(told, {f"seconds_to_{name}": round(watch.seconds, 1)})
    _tell(told, {"papers": papers, "words_of_an_abstract": _SHORT if short else "all"})
    return _told(told)


def _tell(path: Path, facts: dict[str, Any]) -> None:
    path.write_text(json.dumps(_told(path) | facts))


def _told(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _name(number: int) -> str:
    return f"recombined:{number}"


def _added(source: Searcher, library: Library, at: Path, papers: int, short: bool) -> int:
    """Append what the library lacks of so many papers; return how many that was."""
    start = min(library.last_seq(), papers)
    if start == papers:
        return 0
    segment = max(source.generation.segments, key=lambda segment: segment.rows)
    nearest = _kept_neighbours(at, segment.vectors)
    encoder = library.encoder_number(source.encoder.spec.fingerprint, source.encoder.spec.name)
    real = segment.vectors.at(np.arange(segment.vectors.rows))
    tell = counting("papers")
    for first in range(start, papers, _BATCH):
        made_of = parents(first, min(first + _BATCH, papers), nearest)
        texts = list(_papers(source, segment.seqs, made_of, first, short))
        vectors = made_vectors(real, made_of)
        embeddings = [Embedding(text_digest(text.text), row, 1) for text, row in zip(texts, vectors, strict=True)]
        library.add_versions("recombined", texts, embeddings, encoder)
        tell(first + len(texts), papers)
    return papers - start


def _kept_neighbours(at: Path, vectors: Vectors) -> Rows:
    """Return the neighbours of the real rows, from the file where an earlier run left them."""
    path = at / "neighbours.npy"
    if not path.exists():
        np.save(path, neighbours(vectors))
    found: Rows = np.load(path)
    return found


def _papers(source: Searcher, seqs: NDArray[np.int64], made_of: Rows, first: int, short: bool) -> Iterator[Paper]:
    paper_seqs, other_seqs = seqs[made_of[:, 0]].tolist(), seqs[made_of[:, 1]].tolist()
    versions = source.library.versions_at(sorted({*paper_seqs, *other_seqs}))
    for number, (one, other) in enumerate(zip(paper_seqs, other_seqs, strict=True), first):
        paper = made_paper(_name(number), versions[one].paper, versions[other].paper)
        yield replace(paper, abstract=" ".join(paper.abstract.split()[:_SHORT])) if short else paper


# Measuring


def opening(at: Path, *, cold: bool) -> dict[str, Any]:
    """Return the seconds that opening takes with every file read and digest checked, and with sizes checked alone.

    :param cold: open it once with nothing of it in memory.
    """
    folder = IndexFolder(at)
    named = current_generation(folder)
    assert named, "it was just published"
    size = sum(path.stat().st_size for path in folder.generation(named[0]).rglob("*") if path.is_file())
    result: dict[str, Any] = {"bytes": size, "page_cache_dropped": cold and drop_page_cache()}
    ways = [("cold", True)] * cold + [("warm", True)] * 4 * (size < _MOST_WARM) + [("warm_sizes_alone", False)]
    for name, whole in ways:
        with stopwatch() as watch:
            open_generation(folder, *named, whole=whole)
        result[f"{name}_seconds"] = round(min(watch.seconds, result.get(f"{name}_seconds", watch.seconds)), 2)
    return result


def titles_of(index: Path) -> list[str]:
    """Return titles half remembered of so many of an index's papers as are asked in all."""
    with Searcher.open(index) as source:
        return Questions(source, seed=0).take(title_without_a_word, _WARM_UP + _MEMORY_QUESTIONS)


def asked(at: Path, titles: Sequence[str], count: int) -> dict[str, Any]:
    """Return what so many titles, and everyday questions, cost in each mode, and what those by meaning find."""
    folder = IndexFolder(at)
    with Searcher.over(folder, open_current(folder, whole=False)) as searcher:
        everyday = _EVERYDAY.read_text().splitlines()
        searcher.encoder = encoder = Remembering(searcher.encoder)
        encoder.remember([*titles, *everyday])
        generation = searcher.generation
        (where, facts) = next(filters_near(generation, _SHARE))
        for title in titles[:_WARM_UP]:
            searcher.search(title, mode="dense")  # both legs read vectors by the thousand, and map them
        result: dict[str, Any] = {
            "segments": [segment.rows for segment in generation.segments],
            "dead_rows": len(generation.tombstones),
            "measured_recall_at_10": generation.manifest.recall_at_10,
            "unit": "milliseconds, one question after the other, its vector known",
            "dense_memory": _memory(searcher, titles[_WARM_UP:], where),
        }
        for kind, texts in {"titles": titles[_WARM_UP:][:count], "everyday": everyday}.items():
            result[kind] = {mode: _timed(searcher, texts, mode) for mode in MODES}
            result[kind]["dense"] |= _compared(searcher, texts)
            result[kind]["dense_within_filter"] = facts | _timed(searcher, texts, "dense", where)
            result[kind]["dense_within_filter"] |= _compared(searcher, texts, where)
        return result | {"bytes_resident_at_the_end": resident_bytes(), **index_facts(generation)}


def _memory(searcher: Searcher, titles: Sequence[str], where: Filter) -> dict[str, int]:
    """Return how much memory this process holds, mapped files among it, before and after questions by meaning."""
    before = resident_bytes()
    for number, title in enumerate(titles):
        searcher.search(title, Page(where=EVERY_PAPER if number % 10 else where), "dense")
    return {"bytes_before": before, "questions": len(titles), "bytes_after": resident_bytes()}


class _Scans:
    """Listens to how long the scans took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def begins(self, stage: Stage) -> None:
        """Take no note."""

    def ended(self, stage: Stage, seconds: float) -> None:
        """Note the seconds of a scan."""
        if stage == "scan":
            self.seconds.append(seconds)


def _timed(searcher: Searcher, texts: Sequence[str], mode: Mode, where: Filter = EVERY_PAPER) -> dict[str, Any]:
    seconds, scans = [], _Scans()
    with listened_by(scans):
        for text in texts:
            with stopwatch() as watch:
                searcher.search(text, Page(where=where), mode)
            seconds.append(watch.seconds)
    scan = {"scan_p50": round(1_000 * float(np.median(scans.seconds)), 2)} if scans.seconds else {}
    p50, p95 = (1_000 * np.quantile(seconds, (0.5, 0.95))).round(2).tolist()
    return {"p50": p50, "p95": p95, **scan}


def _compared(searcher: Searcher, texts: Sequence[str], where: Filter = EVERY_PAPER) -> dict[str, float]:
    """Return which part of the ten nearest papers is found by way of lists, and what looking at all of them takes."""
    found, seconds = [], []
    for text in texts:
        quick, all_seen = (Page(where=where, collapse="none", approximate=approximate) for approximate in (True, False))
        with stopwatch() as watch:
            exact = searcher.search(text, all_seen, "dense").hits
        seconds.append(watch.seconds)
        names = {hit.paper.paper_id for hit in exact}
        if names:  # what demands a thing may find none
            found.append(
                len(names & {hit.paper.paper_id for hit in searcher.search(text, quick, "dense").hits}) / len(names)
            )
    return {
        "recall_at_10": round(float(np.mean(found)), 4),
        "p50_of_all_looked_at": round(1_000 * float(np.median(seconds)), 2),
    }


if __name__ == "__main__":
    main()
