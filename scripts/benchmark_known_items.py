#!/usr/bin/env python3
"""Ask an index for papers that it is known to hold: by title, by what is remembered of it, by half of the abstract.

scripts/benchmark_known_items.py indexes/benchmark --titles 10000 --halves 1000

Papers are drawn by a seed. Right is the paper itself, or one of the same title; it should come first.
"""

import argparse
from pathlib import Path
from typing import Any

from measuring import counting, index_facts, keep, stopwatch

from semsearch import Searcher
from semsearch.evaluate import KnownItems, Rank, Scores, ask_known, side_by_side
from semsearch.ranking import MODES, Mode


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
        keep("known-items", measured(searcher, counts, options.seed), [])


def measured(searcher: Searcher, counts: dict[str, int], seed: int) -> dict[str, Any]:
    """Return the figures of each test in each mode, and how hybrid search differs from the others."""
    generation = searcher.generation
    known = KnownItems.draw(searcher.library, generation.live_seqs(), counts, seed)
    scores: dict[Mode, dict[str, Scores]] = {}
    seconds = {}
    for mode in MODES:
        with stopwatch() as watch:
            scores[mode] = ask_known(known, ranked_in(searcher, mode), counting(mode))
        seconds[mode] = round(watch.seconds, 1)
    return {
        "tests": {test: side_by_side({mode: scores[mode][test] for mode in MODES}) for test in counts},
        "seed": seed,
        "seconds": seconds,
        "questions_sha256": known.subject("").questions_sha256,
        **index_facts(generation),
    }


def ranked_in(searcher: Searcher, mode: Mode) -> Rank:
    """Return how a question is asked in this mode."""
    return lambda query: searcher.ranked(query, mode)


if __name__ == "__main__":
    main()
