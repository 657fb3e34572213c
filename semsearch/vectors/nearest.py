"""Which rows of a segment are nearest to a query?

Exactly, where the segment is small or few of its rows are allowed. Else by way of its lists: a fixed number of
candidates, scored by their vectors as everywhere. Where that finds fewer rows than were asked for, all are looked at.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semsearch.vectors.flat import Flat, best
from semsearch.vectors.lists import Lists
from semsearch.vectors.selection import Selection
from semsearch.vectors.tuning import CANDIDATES, Probing

LISTS_FROM = 32_768
"""From so many rows on, a segment has lists."""
_FEW_ROWS = 8_192
"""So many allowed rows are looked at one by one faster than lists are looked through."""
_MOST_ROWS = 0.5
"""Where a larger part of the rows is allowed, lists are looked through as if all were."""
_SURE = 10
"""So many of the best rows are made sure of under a filter."""


class Vectors:
    """The vectors of one segment, with its lists if it has some."""

    def __init__(self, flat: Path, lists: Path | None = None, probing: Probing | None = None) -> None:
        """Map the files, which must already have passed their digests.

        :param probing: how the lists are looked through.
        """
        self._flat = Flat(flat)
        self._lists = Lists(lists) if lists and probing else None
        self._probing = probing
        self.rows = self._flat.rows
        self.dimension = self._flat.dimension
        self.rows_in_lists = self._lists.rows if self._lists else 0

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a copy of the vectors at these rows, shape (n, dimension)."""
        return self._flat.at(rows)

    def squared_lengths(self) -> NDArray[np.float32]:
        """Return the squared Euclidean length of each vector, shape (rows,)."""
        return self._flat.squared_lengths()

    def nearest(
        self, queries: NDArray[np.float32], k: int, allowed: Selection | None = None, *, exact: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the scores and rows of the k best allowed rows per query, both of shape (n_queries, k), best first.

        Where fewer than k rows are allowed, the rest has row -1 and score -inf. None allows all.

        :param exact: look at all rows that are allowed.
        """
        if exact or self._lists is None or (allowed is not None and allowed.count <= _FEW_ROWS):
            return self._flat.nearest(queries, k, allowed)
        found = [self._probed(query, k, allowed) for query in queries]
        return np.stack([scores for scores, _ in found]), np.stack([rows for _, rows in found])

    def _probed(
        self, query: NDArray[np.float32], k: int, allowed: Selection | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        assert self._lists is not None, "there are lists"
        assert self._probing is not None, "and it is known how to look through them"
        if allowed is None or allowed.share > _MOST_ROWS:
            rows = self._lists.candidates(query, max(k, CANDIDATES), self._probing.probes, allowed)
            scores = self._flat.scores_of(rows, query)
        else:
            rows, scores = self._probed_among(query, k, allowed, self._lists, self._probing)
        if len(rows) < min(k, self.rows if allowed is None else allowed.count):
            (scores,), (rows,) = self._flat.nearest(query[None, :], k, allowed)
            return scores, rows
        return best(rows, scores, k)

    def _probed_among(
        self, query: NDArray[np.float32], k: int, allowed: Selection, lists: Lists, probing: Probing
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the rows of the best estimates and their scores, in twice as many lists until the best are sure."""
        order, cosines = lists.ranked(query)
        held = np.bincount(lists.list_of_row[allowed.rows], minlength=lists.count)[order]
        probes = probing.among(allowed, held)
        while True:
            rows = lists.candidates(query, max(k, CANDIDATES), probes, allowed)
            scores = self._flat.scores_of(rows, query)
            if probes >= lists.count or _are_sure(scores, cosines[probes] + probing.margin):
                return rows, scores
            probes = min(2 * probes, lists.count)


def _are_sure(scores: NDArray[np.float32], least: float) -> bool:
    return len(scores) >= _SURE and bool(np.partition(scores, -_SURE)[-_SURE] >= least)
