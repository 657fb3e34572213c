#!/usr/bin/env python3
"""Measure what new papers cost an index that is large already, from the file until they are found; not their encoding.

    scripts/benchmark_growth.py indexes/benchmark --papers 1000 --rounds 12

A copy of the index is made first and grows instead of it. The new papers are recombined from its own: one's title with
another's abstract, and for a vector the normalised sum of both of theirs, so that neighbours are as near as real ones.
After each round a question is asked by meaning, so that what searching several segments costs is seen as well.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import index_facts, keep, stopwatch
from numpy.typing import NDArray

from semsearch import Page, Paper, Searcher, imports_of, update_index
from semsearch.copying import backup
from semsearch.encoders import EncoderSpec, Tokenised
from semsearch.generation import IndexFolder, open_current
from semsearch.library import Embedding, text_digest
from semsearch.publishing import publish_pending
from semsearch.queries import parse_query

_QUESTIONS = 100


def main() -> None:
    """Run the measurement and keep its result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("index", type=Path)
    arguments.add_argument("--papers", type=int, default=1_000, help="new ones in each round")
    arguments.add_argument("--rounds", type=int, default=12)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.index.parent) as folder:
        copy = Path(folder) / "index"
        backup(IndexFolder(options.index), copy)
        result = measured(copy, options.papers, options.rounds)
    keep(f"growth-{result['papers']}", result, [])


def measured(index: Path, count: int, rounds: int) -> dict[str, Any]:
    """Return what each round cost, and what a question costs after it."""
    folder = IndexFolder(index)
    with Searcher.open(index) as first:
        encoder = Recombining(first, seed=0)
        asked = encoder.some(_QUESTIONS)
        results = [asking(searcher := Searcher(first.library, first.generation, encoder), asked)]
        for number in range(rounds):
            papers = encoder.recombined(number, count)
            by = "a run" if number % 2 == 0 else "a service"
            with stopwatch() as watch:
                if by == "a run":
                    reindex(index, papers, encoder)
                else:
                    add(folder, searcher, papers)
                searcher = Searcher(first.library, open_current(folder, searcher.generation), encoder)
                one = asked_as_they_are(papers)[0]
                nearest = searcher.search(one, Page(limit=1), "dense").hits[0].paper
            assert nearest.text == one, "a new paper is not found"
            results.append({"by": by, "seconds_until_found": round(watch.seconds, 3), **asking(searcher, asked)})
        return {
            "new_papers_a_round": count,
            "rounds": rounds,
            "seconds_until_found": {by: summary(results, by) for by in ("a run", "a service")},
            "each": results,
            **index_facts(first.generation),
        }


def reindex(index: Path, papers: Sequence[Paper], encoder: "Recombining") -> None:
    """Bring the papers in from a file, as a new process would: with everything opened and checked."""
    source = index.parent / "growth.jsonl"
    source.write_text("".join(f"{paper.to_json()}\n" for paper in papers))
    update_index(index, imports_of([source]), load=lambda *_: encoder)


def add(folder: IndexFolder, searcher: Searcher, papers: Sequence[Paper]) -> None:
    """Bring the papers in as a service does, which has the live generation open."""
    library, spec = searcher.library, searcher.encoder.spec
    vectors = searcher.encoder.encode_passages(searcher.encoder.tokenise([paper.text for paper in papers]))
    embeddings = [Embedding(text_digest(paper.text), row, 1) for paper, row in zip(papers, vectors, strict=True)]
    library.add_versions("service", papers, embeddings, library.encoder_number(spec.fingerprint, spec.name))
    publish_pending(folder, library, None, searcher.generation)


def summary(results: Sequence[dict[str, Any]], by: str) -> dict[str, float]:
    """Return the median and the greatest of the seconds."""
    seconds = [each["seconds_until_found"] for each in results if each.get("by") == by]
    return {"median": statistics.median(seconds), "most": max(seconds)} if seconds else {}


def asking(searcher: Searcher, asked: Sequence[str]) -> dict[str, Any]:
    """Return how many segments there are and the median milliseconds of a question by meaning, without encoding."""
    taken = []
    for text in asked:
        with stopwatch() as watch:
            searcher.search(text, Page(), "dense")
        taken.append(watch.seconds)
    return {
        "segments": [segment.rows for segment in searcher.generation.segments],
        "question_p50_milliseconds": round(1_000 * statistics.median(taken), 2),
    }


def asked_as_they_are(papers: Sequence[Paper]) -> list[str]:
    """Return the texts of the papers that a question may be: in others a sign is read as a demand."""
    return [paper.text for paper in papers if parse_query(paper.text).text == paper.text]


class Recombining:
    """New papers out of an index's own, and the encoder that knows their vectors."""

    batch_tokens = 65_536

    def __init__(self, searcher: Searcher, seed: int) -> None:
        self.spec: EncoderSpec = searcher.encoder.spec
        self._library, self._generation = searcher.library, searcher.generation
        self._chance = np.random.default_rng(seed)
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def some(self, count: int) -> list[str]:
        """Return the texts of so many recombined papers, to ask with."""
        return asked_as_they_are(self.recombined(-1, 2 * count))[:count]

    def recombined(self, number: int, count: int) -> list[Paper]:
        """Return so many papers that are not in the index."""
        rows = self._chance.choice(np.flatnonzero(self._generation.live), (count, 2), replace=False)
        seqs = self._generation.seqs_at(rows.ravel()).reshape(rows.shape)
        versions = self._library.versions_at(sorted(seqs.ravel().tolist()))
        sums = self._generation.vectors_at(rows[:, 0]) + self._generation.vectors_at(rows[:, 1])
        sums /= np.linalg.norm(sums, axis=1, keepdims=True)
        papers = []
        for place in range(count):
            title, rest = (versions[int(seq)].paper for seq in seqs[place])
            paper = replace(rest, paper_id=f"growth:{number}-{place}", title=title.title, doi=None)
            self._vectors[paper.text] = sums[place]
            papers.append(paper)
        return papers

    def tokenise(self, passages: Sequence[str]) -> list[Tokenised]:
        """Return a token for each: only their number matters here."""
        return [Tokenised(text, [0], 1) for text in passages]

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        """Return the vectors that are known."""
        return np.stack([self._vectors[passage.text] for passage in passages])

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of papers that are asked with."""
        return self.encode_passages(self.tokenise(queries))


if __name__ == "__main__":
    main()
