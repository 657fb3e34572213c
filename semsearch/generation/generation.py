"""What can be asked of one published state?"""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semsearch.batching import Shared
from semsearch.columns import Facet, facets, matching_rows
from semsearch.errors import GenerationDamageError
from semsearch.filters import Filter
from semsearch.generation.allowed import Allowed
from semsearch.generation.segment import Segment
from semsearch.lexical import LexicalIndex
from semsearch.manifest import Manifest
from semsearch.vectors import Selection
from semsearch.works import Works

_MOST_SCANS = 64  # queries at once: FAISS multiplies matrices from 20 on, and reads the vectors once for all of them

_Scan = tuple[NDArray[np.float32], int]
_Found = tuple[NDArray[np.float32], NDArray[np.int64]]


class Generation:
    """One open generation; immutable, safe to share between threads.

    A row is a position in it: segments laid end to end. Rows join to seqs here and nowhere else.
    """

    def __init__(
        self,
        manifest: Manifest,
        name: tuple[int, str],
        folder: Path,
        segments: Sequence[Segment],
        tombstones: NDArray[np.int64],
        work_pairs: NDArray[np.int64],
        lexical: LexicalIndex,
    ) -> None:
        """Lay the open segments end to end.

        :param tombstones: the dead rows, ascending.
        :param work_pairs: rows that are versions of one work, shape (p, 2); dead ones among them.
        """
        self.manifest = manifest
        self.name = name
        """What CURRENT says when it means this generation: its number and its manifest's sha256."""
        self.unread: frozenset[str] = frozenset()
        """The files that were not read as a whole when it was opened, because it is so large."""
        self.folder = folder
        """Where its files stand."""
        self.segments = tuple(segments)
        self.tombstones = tombstones
        self.work_pairs = work_pairs
        self.lexical = lexical
        self.starts = [0, *np.cumsum([segment.rows for segment in segments]).tolist()]
        self._alive = [
            _alive(start, segment.rows, tombstones) for start, segment in zip(self.starts, self.segments, strict=False)
        ]
        found = (self.starts[-1], self.starts[-1] - len(tombstones), lexical.papers)
        if found != (manifest.rows, manifest.papers, manifest.papers):
            raise GenerationDamageError(
                f"it holds {found[0]} rows, {found[1]} papers and the words of {found[2]}, "
                f"its manifest counts {manifest.rows} and {manifest.papers}"
            )
        itself = weakref.proxy(self)  # or both held each other, and a replaced one its files until garbage is collected

        def scan(scans: Sequence[_Scan]) -> list[_Found]:
            found: list[_Found] = itself._scan_together(scans)
            return found

        self._scan = Shared(scan, _MOST_SCANS)
        self.live = np.ones(manifest.rows, dtype=np.bool_)
        """Which rows can be found, shape (rows,)."""
        self.live[tombstones] = False
        self.works = Works(work_pairs[self.live[work_pairs].all(axis=1)])
        self.live_works = self.works.count(self.live)
        self._facets_of_all: dict[tuple[int, bool], dict[str, Facet]] = {}  # which each question without a filter asks

    @property
    def papers(self) -> int:
        """How many papers can be found."""
        return self.manifest.papers

    def nearest(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: Allowed | None = None,
        *,
        exact: bool = False,
        candidates: int = 0,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the scores and rows of the k best live rows per query, both (n_queries, <= k), best first.

        :param allowed: which rows may be found; None allows all live ones.
        :param exact: look at all of them, however many they are.
        :param candidates: of how many rows these shall be the best at least, where not all are looked at.
        """
        k = min(k, self.papers if allowed is None else allowed.count)
        if k == 0:
            empty = (len(queries), 0)
            return np.empty(empty, dtype=np.float32), np.empty(empty, dtype=np.int64)
        found = []
        selections = self._alive if allowed is None else allowed.in_segments
        for start, segment, among in zip(self.starts, self.segments, selections, strict=False):
            if among is None or among.count:
                scores, rows = segment.vectors.nearest(
                    queries, min(k, segment.rows), among, exact=exact, candidates=candidates
                )
                found.append((scores, np.where(rows < 0, -1, rows + start)))
        scores, rows = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def nearest_to(
        self,
        query: NDArray[np.float32],
        k: int,
        allowed: Allowed | None = None,
        *,
        exact: bool = False,
        candidates: int = 0,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return what `nearest` does for one query; where all live rows are looked at, callers share one scan."""
        if allowed is None and (exact or not self.manifest.approximate):
            scores, rows = self._scan((query, k))
        else:
            (scores,), (rows,) = self.nearest(query[None, :], k, allowed, exact=exact, candidates=candidates)
        return scores[:k], rows[:k]

    def _scan_together(self, asked: Sequence[_Scan]) -> list[_Found]:
        queries = np.stack([query for query, _ in asked])
        scores, rows = self.nearest(queries, max(k for _, k in asked), exact=True)
        return list(zip(scores, rows, strict=True))

    def vectors_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors at these rows, shape (n, dimension)."""
        return self._gather(
            rows, lambda segment, local: segment.vectors.at(local), (self.manifest.encoder.dimension,), np.float32
        )

    def seqs_at(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the library's seqs of the versions at these rows, shape (n,)."""
        return self._gather(rows, lambda segment, local: segment.seqs[local], (), np.int64)

    def ids_at(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the ids of the papers at these rows."""
        ids: list[str] = self._gather(
            rows, lambda segment, local: np.array(segment.columns.ids_at(local), dtype=object), (), np.object_
        ).tolist()
        return ids

    def title_words_at(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return how many different words the titles at these rows have, shape (n,), 255 for more."""
        return self._gather(rows, lambda segment, local: segment.columns.title_words[local], (), np.uint8)

    def titled(self, title: str) -> NDArray[np.int64]:
        """Return the live rows that have this title, however it is typed, ascending."""
        parts = [seg.columns.titled(title) + start for start, seg in zip(self.starts, self.segments, strict=False)]
        rows: NDArray[np.int64] = np.concatenate([np.empty(0, dtype=np.int64), *parts])
        return rows[self.live[rows]]

    def rows_of(self, seqs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each of these versions, -1 for those that have no row; dead rows are given too."""
        return rows_in(self.segments, seqs)

    def is_live(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these rows, -1 for none, can be found, shape (n,)."""
        return (rows >= 0) & self.live[rows] if self.live.size else np.zeros(len(rows), dtype=np.bool_)

    def matching(self, wanted: Filter, rows_of_ids: Callable[[Sequence[str]], NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Return which live rows a filter means, shape (rows,)."""
        return self.live & matching_rows([segment.columns for segment in self.segments], wanted, rows_of_ids)

    def facets(self, among: NDArray[np.bool_], limit: int, *, folded: bool = False) -> dict[str, Facet]:
        """Return how these rows are spread over years, categories, venues and sources.

        :param folded: rows of one work count once for each value that any of them has.
        """
        if among is self.live and (limit, folded) in self._facets_of_all:
            return self._facets_of_all[limit, folded]
        columns = [segment.columns for segment in self.segments]
        found = facets(columns, among, limit, self.works.several(among) if folded else None)
        if among is self.live:
            self._facets_of_all[limit, folded] = found
        return found

    def live_seqs(self) -> NDArray[np.int64]:
        """Return the seqs of all versions that can be found, ascending."""
        seqs = np.concatenate([segment.seqs for segment in self.segments]) if self.segments else np.empty(0, np.int64)
        return np.sort(np.delete(seqs, self.tombstones))

    def _gather(
        self,
        rows: NDArray[np.int64],
        take: Callable[[Segment, NDArray[np.int64]], NDArray[Any]],
        shape: tuple[int, ...],
        dtype: type[np.generic],
    ) -> NDArray[Any]:
        if len(self.segments) == 1:
            return take(self.segments[0], rows)
        gathered = np.empty((len(rows), *shape), dtype=dtype)
        owners = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.flatnonzero(np.bincount(owners)):
            mine = owners == number
            gathered[mine] = take(self.segments[number], rows[mine] - self.starts[number])
        return gathered


def _alive(start: int, rows: int, tombstones: NDArray[np.int64]) -> Selection | None:
    dead = tombstones[(tombstones >= start) & (tombstones < start + rows)] - start
    if not dead.size:
        return None
    alive = np.ones(rows, dtype=np.bool_)
    alive[dead] = False
    return Selection(alive)


def rows_in(segments: Sequence[Segment], seqs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row of each of these versions in segments laid end to end, -1 for those that have none."""
    rows = np.full(len(seqs), -1, dtype=np.int64)
    start = 0
    for segment in segments:
        local = np.minimum(np.searchsorted(segment.seqs, seqs), segment.rows - 1)
        rows = np.where(segment.seqs[local] == seqs, local + start, rows)
        start += segment.rows
    return rows
