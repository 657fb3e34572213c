"""Which rows of a segment are nearest to a query?

Exactly, where the segment is small. Else by way of its lists, of whose candidates those that their codes tell to be
among the best are scored by their vectors, as everywhere; where few rows are allowed, all of them are candidates. Where
that finds fewer rows than were asked for, all are looked at.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semsearch.vectors.codes import Codes
from semsearch.vectors.flat import Flat, best
from semsearch.vectors.lists import Lists
from semsearch.vectors.selection import Selection
from semsearch.vectors.tuning import Probing

LISTS_FROM = 32_768
"""From so many rows on, a segment has lists."""
_FEW_ROWS = 8_192
"""So many allowed rows are compared by their codes, one by one, faster than lists are looked through."""


class Vectors:
    """The vectors of one segment, with lists and codes of them if it has some."""

    def __init__(
        self, flat: Path, lists: Path | None = None, codes: Path | None = None, probing: Probing | None = None
    ) -> None:
        """Map the files, which must already have passed their digests.

        :param probing: how the lists are looked through; without it, all rows always are.
        :raises ValueError: if a file holds anything else, or not of the same rows.
        """
        self._flat = Flat(flat)
        self.rows = self._flat.rows
        self.dimension = self._flat.dimension
        self._lists: Lists | None = None
        if lists and codes and probing:
            self._lists, self._codes, self._margin = Lists(lists), Codes(codes, self.dimension), probing.margin
            if (self._lists.rows, self._codes.rows) != (self.rows, self.rows):
                raise ValueError(f"{lists} and {codes} are not of {self.rows} rows, as {flat} is")

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a copy of the vectors at these rows, shape (n, dimension)."""
        return self._flat.at(rows)

    def squared_lengths(self) -> NDArray[np.float32]:
        """Return the squared Euclidean length of each vector, shape (rows,)."""
        return self._flat.squared_lengths()

    def nearest(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: Selection | None = None,
        *,
        exact: bool = False,
        candidates: int = 0,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the scores and rows of the k best allowed rows per query, both of shape (n_queries, k), best first.

        Where fewer than k rows are allowed, the rest has row -1 and score -inf. None allows all.

        :param exact: look at all rows that are allowed.
        :param candidates: of how many rows these shall be the best at least, where not all are looked at. Who asks for
            fewer or more of as many gets the same first.
        """
        if exact or self._lists is None:
            return self._flat.nearest(queries, k, allowed)
        found = [self._probed(self._lists, query, k, allowed, candidates) for query in queries]
        return np.stack([scores for scores, _ in found]), np.stack([rows for _, rows in found])

    def _probed(
        self, lists: Lists, query: NDArray[np.float32], k: int, allowed: Selection | None, candidates: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if allowed is not None and allowed.count <= _FEW_ROWS:
            rows = allowed.rows
        else:
            rows = lists.candidates(query, max(k, candidates), self._margin, allowed)
        if len(rows) < min(k, self.rows if allowed is None else allowed.count):
            (scores,), (rows,) = self._flat.nearest(query[None, :], k, allowed)
            return scores, rows
        rows = self._codes.promising(rows, query, k)
        return best(rows, self._flat.scores_of(rows, query), k)
