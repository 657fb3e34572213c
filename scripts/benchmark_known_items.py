#!/usr/bin/env python3
"""Ask an index for papers that it is known to hold: by title, by what is remembered of it, by half of the abstract.

scripts/benchmark_known_items.py indexes/benchmark --titles 10000 --halves 1000

Papers are drawn by a seed. Right is the paper itself, or one of the same title; it should come first. Each core has a
process of its own that opens the index and asks one question after the other; what they say is encoded in batches,
which changes no vector.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from measuring import counting, index_facts, keep, stopwatch
from numpy.typing import NDArray

from semsearch import Searcher
from semsearch.encoders import Encoder, LazyEncoder, Tokenised, find_model, load_encoder
from semsearch.evaluate import KnownItems, Question, side_by_side
from semsearch.generation import IndexFolder, open_current
from semsearch.library import Library
from semsearch.ranking import MODES, Mode

_QUESTIONS_PER_TASK = 64

Ranks = dict[Mode, int | None]
Asked = Callable[[Sequence[Question]], Iterable[Ranks]]


def main() -> None:
    """Ask in every mode and keep the figures."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("index", type=Path)
    arguments.add_argument("--titles", type=int, default=10_000, help="for each of the two tests with titles")
    arguments.add_argument("--halves", type=int, default=1_000, help="second halves of abstracts")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    counts = {"title": options.titles, "partial_title": options.titles, "abstract_half": options.halves}
    with Searcher.open(options.index) as searcher:
        keep("known-items", measured(searcher, counts, options.seed, partial(asked_by_all_cores, options.index)), [])


def measured(searcher: Searcher, counts: dict[str, int], seed: int, asked: Asked) -> dict[str, Any]:
    """Return the figures of each test in each mode, and how hybrid search differs from the others.

    :param asked: gives the ranks for each of some questions, in their order.
    """
    known = KnownItems.draw(searcher.library, searcher.generation.live_seqs(), counts, seed)
    with stopwatch() as watch:
        found = list(asked(known.all_questions))
    scores = {mode: known.scores([each[mode] for each in found]) for mode in MODES}
    return {
        "tests": {test: side_by_side({mode: scores[mode][test] for mode in MODES}) for test in counts},
        "seed": seed,
        "seconds": round(watch.seconds, 1),
        "questions_sha256": known.subject("").questions_sha256,
        **index_facts(searcher.generation),
    }


def ranks(searcher: Searcher, questions: Sequence[Question]) -> list[Ranks]:
    """Return the rank of the right paper in each mode, None beyond the first 1,000, by question."""
    return [
        {mode: question.rank_among(searcher.ranked(question.text, mode)) for mode in MODES} for question in questions
    ]


def asked_by_all_cores(index: Path, questions: Sequence[Question]) -> Iterator[Ranks]:
    """Yield what `ranks` returns, by a process for each core."""
    tasks = [questions[start : start + _QUESTIONS_PER_TASK] for start in range(0, len(questions), _QUESTIONS_PER_TASK)]
    on_asked, done = counting("questions, in every mode"), 0
    spawned = get_context("spawn")  # neither FAISS nor OpenVINO survives a fork
    with ProcessPoolExecutor(os.cpu_count(), spawned, _Asker.begin, (index,)) as pool:
        for found in pool.map(_Asker.ranks, tasks):
            yield from found
            done += len(found)
            on_asked(done, len(questions))


class Remembering:
    """An encoder of queries that remembers those of a batch."""

    def __init__(self, encoder: Encoder) -> None:
        """Stand before this encoder."""
        self.spec = encoder.spec
        self.batch_tokens = encoder.batch_tokens
        self._encoder = encoder
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def remember(self, queries: Sequence[str]) -> None:
        """Encode these queries, and forget those before."""
        self._vectors = dict(zip(queries, self._encoder.encode_queries(queries), strict=True))

    def tokenise(self, passages: Sequence[str]) -> list[Tokenised]:
        """Return the passages' tokens."""
        return self._encoder.tokenise(passages)

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        """Return the passages' vectors, shape (n, dimension)."""
        return self._encoder.encode_passages(passages)

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the queries' vectors, shape (n, dimension): of those that are not remembered, encoded now."""
        if all(query in self._vectors for query in queries):
            return np.stack([self._vectors[query] for query in queries])
        return self._encoder.encode_queries(queries)


class _Asker:
    """What a process asks with."""

    searcher: Searcher
    encoder: Remembering

    @classmethod
    def begin(cls, index: Path) -> None:
        """Open the index."""
        folder = IndexFolder(index)
        generation = open_current(folder)
        model = find_model(generation.manifest.encoder.name, folder.networks)
        cls.encoder = Remembering(LazyEncoder(model, load=partial(load_encoder, threads=1)))
        cls.searcher = Searcher(Library.open(folder.library), generation, cls.encoder)

    @classmethod
    def ranks(cls, questions: Sequence[Question]) -> list[Ranks]:
        """Return what the function of this name does."""
        cls.encoder.remember([question.text for question in questions])
        return ranks(cls.searcher, questions)


if __name__ == "__main__":
    main()
