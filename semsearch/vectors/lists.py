"""Which rows of a segment are probably nearest to a query, without looking at all of them?

An inverted file: k-means puts every row into the list of its nearest centroid, and only the lists whose centroids are
nearest to the query are looked through. A row is kept there as one bit for each of its numbers, RaBitQ (Gao and Long,
SIGMOD 2024), of which FAISS compares 32 rows at once. That estimates the inner product well enough to choose
candidates; who wants scores takes them from the vectors themselves.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from semsearch.vectors.flat import Flat
from semsearch.vectors.mapping import mapped
from semsearch.vectors.selection import Selection

_LISTS_PER_ROOT = 2
"""Lists per square root of rows: with half as many, a million rows take a third longer at the same recall."""
_TRAINING_ROWS_PER_LIST = 64
_TRAINING_ROUNDS = 10
_SEED = 1234
_BLOCK_ROWS = 65_536
_THREADS = faiss.omp_get_max_threads()


def write_lists(flat: Flat, write: Callable[[bytes], int]) -> None:
    """Make the lists of these rows and give them to `write`, piece by piece."""
    rows, dimension = flat.matrix.shape
    lists = max(1, round(_LISTS_PER_ROOT * rows**0.5))
    index = cast(Any, faiss.index_factory(dimension, f"IVF{lists},RaBitQfs", faiss.METRIC_INNER_PRODUCT))
    index.cp.niter, index.cp.seed = _TRAINING_ROUNDS, _SEED
    index.cp.max_points_per_centroid = _TRAINING_ROWS_PER_LIST
    index.cp.min_points_per_centroid = 1  # few rows in many lists only happen in tests
    sample = np.random.default_rng(_SEED).choice(rows, min(rows, _TRAINING_ROWS_PER_LIST * lists), replace=False)
    faiss.omp_set_num_threads(_THREADS)
    index.train(flat.matrix[np.sort(sample)])
    for start in range(0, rows, _BLOCK_ROWS):
        index.add(np.ascontiguousarray(flat.matrix[start : start + _BLOCK_ROWS]))
    faiss.write_index(index, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]


class Lists:
    """The rows of one segment in lists, mapped read-only from their file."""

    def __init__(self, path: Path) -> None:
        """Map the file, which must already have passed its digest."""
        self._index = mapped(path)
        self.rows: int = self._index.ntotal
        self.count: int = self._index.nlist
        self.centroids: NDArray[np.float32] = self._index.quantizer.reconstruct_n(0, self.count)

    @cached_property
    def list_of_row(self) -> NDArray[np.int32]:
        """The list in which each row stands, shape (rows,)."""
        owners = np.empty(self.rows, dtype=np.int32)
        for number in range(self.count):
            if size := self._index.invlists.list_size(number):
                owners[faiss.rev_swig_ptr(self._index.invlists.get_ids(number), size)] = number
        return owners

    def ranked(self, query: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the lists in the order in which they are looked through, and the cosines of their centroids."""
        cosines = self.centroids @ query
        order = np.argsort(-cosines)
        return order, cosines[order]

    def candidates(
        self, query: NDArray[np.float32], k: int, probes: int, allowed: Selection | None = None
    ) -> NDArray[np.int64]:
        """Return the k rows of the best estimates that stand in the `probes` nearest lists, fewer if fewer do."""
        parameters = faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]
        if allowed is not None:
            parameters.sel = allowed.selector
        faiss.omp_set_num_threads(1)  # of this Python thread; requests that come at once have threads of their own
        _, rows = self._index.search(np.ascontiguousarray(query[None, :]), k, params=parameters)
        found: NDArray[np.int64] = rows[0][rows[0] >= 0]
        return found
