"""How alike are two ways to rank, whoever is right?"""

from collections.abc import Mapping, Sequence

import numpy as np

from semsearch.evaluate.asking import Rank
from semsearch.evaluate.measures import Scores

CUTOFFS = (1, 10, 100)


def overlap(one: Sequence[str], other: Sequence[str], cutoff: int) -> float:
    """Return which part of the first `cutoff` papers two rankings share, of as many as the longer one has.

    >>> overlap(["a", "b", "c"], ["b", "a", "d"], cutoff=2), overlap(["a"], ["a", "b"], cutoff=10), overlap([], [], 10)
    (1.0, 0.5, 1.0)
    """
    mine, theirs = set(one[:cutoff]), set(other[:cutoff])
    return len(mine & theirs) / max(len(mine), len(theirs)) if mine or theirs else 1.0


class Remembered:
    """A way to rank, and what it gave."""

    def __init__(self, rank: Rank) -> None:
        """Wrap it."""
        self._rank = rank
        self.found: dict[str, Sequence[str]] = {}

    def __call__(self, query: str) -> Sequence[str]:
        """Return the ids of the papers found for the query, best first."""
        if query not in self.found:
            self.found[query] = self._rank(query)
        return self.found[query]


def overlaps(one: Mapping[str, Sequence[str]], other: Mapping[str, Sequence[str]]) -> Scores:
    """Return the overlap at each of `CUTOFFS` for each query that was asked of both, in the order of their texts."""
    queries = sorted(one.keys() & other.keys())
    rows = [[overlap(one[query], other[query], cutoff) for cutoff in CUTOFFS] for query in queries]
    names = tuple(f"overlap@{cutoff}" for cutoff in CUTOFFS)
    return Scores(tuple(queries), names, np.array(rows, dtype=np.float64).reshape(len(queries), len(CUTOFFS)))
