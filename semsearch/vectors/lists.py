"""Which rows of a segment are probably nearest to a query, without looking at all of them?

An inverted file: k-means puts every row into the list of its nearest centroid, and only the lists whose centroids are
nearly as near to the query as the nearest ones are looked through. How many that are depends on the query: a paper has
its like in a few of them, what nothing resembles is about as far from most. All that happens in the fewer dimensions
in which the rows nearly lie: their principal axes, turned at random so that each number says as much as any other. A
row is kept in its list as four bits for each two of these numbers, a product quantizer (Jégou, Douze and Schmid, TPAMI
2011), of which FAISS compares 32 rows at once (André, Kermarrec and Le Scouarnec, ICMR 2017). What lists cost is the
memory that has to be read for a query. That estimates the inner product well enough to choose candidates; who wants
scores takes them from the vectors themselves.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from semsearch.vectors.flat import Flat, inner_products
from semsearch.vectors.opening import opened, vectors_of
from semsearch.vectors.selection import Selection

_LISTS_PER_ROOT = 2
"""Lists per square root of rows: with half as many, a million rows take a third longer at the same recall."""
_TRAINING_ROWS_PER_LIST = 64
_TRAINING_ROUNDS = 10
_SEED = 1234
NEAREST_ROWS = 1_200
"""The mean cosine of the centroids that stand for so many of the nearest rows is what all are measured by. It must be
more rows than a ranking wants to know; between 600 and 2,400 it makes no difference."""
_NEAREST_OF_FEW = 400
"""The same where so few rows are allowed that each is compared by its code, so no estimate misses any. Of a million
papers, within 1 and 5 %, it costs up to 0.003 of the ten nearest, and spares a quarter of the time."""
_MOST_ALLOWED = 0.5
"""Where a larger part of the rows is allowed, lists are chosen as if all were."""
_FEWEST_CANDIDATES, _LISTS_PER_CANDIDATE = 384, 8
"""So many of the best estimates hold the ten best rows, as nearly as four times as many do; more of more rows,
of which more are nearly as near."""
_CANDIDATES_PER_ROW = 2
"""Of a thousand rows that are asked for, twice as many of the best estimates hold 0.92, for 0.3 ms more; as many hold
0.80, four times as many 0.95."""
_CLEARLY_WORSE = 1.0
"""Through the square root of the dimensions kept: a row whose estimate is farther below the k-th best is none of the k
best. Two bits a number let estimates of unit vectors err with a standard deviation of 0.38 through that root, 0.023
with 256. So much leaves 80 to 140 candidates, and costs one in a thousand of the ten nearest."""
_SQUARES_KEPT, _DIMENSIONS_STEP = 0.97, 32
"""So much of the squared lengths the dimensions kept must hold. Of MiniLM's 384 these are 256: lists take two thirds of
the memory, and a query a fifth to a quarter less time, at the same recall. 192 hold 0.92; what is far from all papers
has more outside of them, and 0.89 of its nearest are found, not 0.98."""
_BITS = 4
_SPARSE = 1 / 16
"""Where fewer rows are allowed, they are fewer than what estimates are made for to find them."""
_TABLES = 64 << 20  # bytes that FAISS wants to be allowed for tables of a product quantizer, which are not made here
_NEAREST_LIST_FIRST = 11
"""FAISS's number (IndexIVFFastScan, `implem`) for one query at a time, list by list in the order given: what is good is
known soon, and little of the rest has to be noted. It takes a tenth to a fifth less time than what FAISS chooses."""
_MARGINS_SORTED = 1.5
"""Lists farther than the nearest by so many margins are seldom looked through; to sort all takes longer."""
_BLOCK_ROWS = 65_536
_THREADS = faiss.omp_get_max_threads()


def write_lists(flat: Flat, write: Callable[[bytes], int]) -> None:
    """Make the lists of these rows and give them to `write`, piece by piece."""
    rows = flat.rows
    lists = max(1, round(_LISTS_PER_ROOT * rows**0.5))
    sample = np.random.default_rng(_SEED).choice(rows, min(rows, _TRAINING_ROWS_PER_LIST * lists), replace=False)
    trained_on = flat.matrix[np.sort(sample)]
    faiss.omp_set_num_threads(_THREADS)
    projection = _projection(trained_on)
    index = faiss.IndexPreTransform(projection, _empty_lists(projection.d_out, lists))
    index.train(trained_on)
    for start in range(0, rows, _BLOCK_ROWS):
        index.add(np.ascontiguousarray(flat.matrix[start : start + _BLOCK_ROWS]))
    faiss.write_index(index, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]


def _projection(rows: NDArray[np.float32]) -> Any:
    """Return what takes rows of this kind to the axes that hold nearly all of their squared lengths, turned at random.

    Not their variances: what counts here are inner products, and a mean that were taken off would be missing in them.
    """
    dimension = rows.shape[1]
    squares, axes = np.linalg.eigh((rows.T @ rows).astype(np.float64))
    squares, axes = squares[::-1], axes[:, ::-1]
    needed = int(np.searchsorted(np.cumsum(squares), _SQUARES_KEPT * squares.sum())) + 1
    kept = min(dimension, -(-needed // _DIMENSIONS_STEP) * _DIMENSIONS_STEP)
    turned, _ = np.linalg.qr(np.random.default_rng(_SEED).standard_normal((kept, kept)))
    projection = faiss.LinearTransform(dimension, kept, False)
    faiss.copy_array_to_vector((axes[:, :kept] @ turned).T.astype(np.float32).ravel(), projection.A)
    projection.is_trained = True
    return projection


def _empty_lists(dimension: int, lists: int) -> Any:
    parts = dimension // 2 if dimension % 2 == 0 else dimension
    quantizer = faiss.IndexFlatIP(dimension)
    index: Any = faiss.IndexIVFPQFastScan(quantizer, dimension, lists, parts, _BITS, faiss.METRIC_INNER_PRODUCT)
    index.by_residual = False  # what differences from centroids would add to the recall, twice the candidates do
    index.cp.niter, index.cp.seed = _TRAINING_ROUNDS, _SEED
    index.cp.max_points_per_centroid = _TRAINING_ROWS_PER_LIST
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1  # few rows only happen in tests
    return index


class Lists:
    """The rows of one segment in lists, read from their file."""

    def __init__(self, path: Path) -> None:
        """Read the file, which must already have passed its digest."""
        whole = opened(path, _TABLES, in_memory=True)  # FAISS copies lists that it maps, and both are resident
        projection: Any = faiss.downcast_VectorTransform(whole.chain.at(0))
        self._projection = faiss.vector_to_array(projection.A).reshape(projection.d_out, projection.d_in)
        self._whole, self._index = whole, cast(Any, faiss.downcast_index(whole.index))
        self._index.implem = _NEAREST_LIST_FIRST
        self.rows: int = self._index.ntotal
        self.count: int = self._index.nlist
        centroids = faiss.downcast_index(self._index.quantizer)
        self._centroids = vectors_of(centroids, whole)
        self._clearly_worse = _CLEARLY_WORSE / projection.d_out**0.5
        self.sizes = np.array([self._index.invlists.list_size(number) for number in range(self.count)], dtype=np.int64)
        """How many rows each list holds, shape (count,)."""

    @cached_property
    def list_of_row(self) -> NDArray[np.int32]:
        """The list in which each row stands, shape (rows,)."""
        owners = np.empty(self.rows, dtype=np.int32)
        for number in np.flatnonzero(self.sizes).tolist():
            size = int(self.sizes[number])
            owners[faiss.rev_swig_ptr(self._index.invlists.get_ids(number), size)] = number
        return owners

    def candidates(
        self, query: NDArray[np.float32], k: int, margin: float, allowed: Selection | None = None
    ) -> NDArray[np.int64]:
        """Return rows among which the k nearest to this query, of shape (dimension,), probably are; fewer if fewer are.

        Those of the best estimates; where few are allowed, all of those in the lists that are near enough.

        :param margin: how much farther than those of the nearest rows the centroids of lists that are looked through
            may be, as a difference of cosines.
        """
        projected = inner_products(self._projection, query)
        cosines, held = inner_products(self._centroids, projected), self._held(allowed)
        if allowed is not None and allowed.share < _SPARSE:
            lists = within(cosines, held, margin, k, _NEAREST_OF_FEW)
            looked_through = np.zeros(self.count, dtype=np.bool_)
            looked_through[lists] = True
            return allowed.rows[looked_through[self.list_of_row[allowed.rows]]]
        lists = within(cosines, held, margin, k, NEAREST_ROWS)
        return self._of_best_estimates(projected, k, lists, cosines, allowed)

    def cosines(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return nearly the cosines of this query, of shape (dimension,), and the centroids, shape (count,)."""
        return inner_products(self._centroids, inner_products(self._projection, query))

    def _held(self, allowed: Selection | None) -> NDArray[np.int64]:
        """Return how many allowed rows each list holds."""
        if allowed is None or allowed.share > _MOST_ALLOWED:
            return self.sizes
        return np.bincount(self.list_of_row[allowed.rows], minlength=self.count)

    def _of_best_estimates(
        self,
        projected: NDArray[np.float32],
        k: int,
        lists: NDArray[np.int64],
        cosines: NDArray[np.float32],
        allowed: Selection | None,
    ) -> NDArray[np.int64]:
        wanted = max(_CANDIDATES_PER_ROW * k, _FEWEST_CANDIDATES, self.count // _LISTS_PER_CANDIDATE)
        parameters = faiss.SearchParametersIVF(nprobe=len(lists))  # type: ignore[call-arg]
        if allowed is not None:
            parameters.sel = allowed.selector
        scores, rows = np.empty(wanted, dtype=np.float32), np.empty(wanted, dtype=np.int64)
        inputs = (projected, lists, cosines[lists])
        asked, numbers, of_lists, found_scores, found = (faiss.swig_ptr(array) for array in (*inputs, scores, rows))
        faiss.omp_set_num_threads(1)  # of this Python thread; requests that come at once have threads of their own
        self._index.search_preassigned_c(1, asked, wanted, numbers, of_lists, found_scores, found, False, parameters)
        near_the_best: NDArray[np.int64] = rows[(rows >= 0) & (scores >= scores[k - 1] - self._clearly_worse)]
        return near_the_best


def within(
    cosines: NDArray[np.float32], held: NDArray[np.int64], margin: float, k: int, nearest: int
) -> NDArray[np.int64]:
    """Return the lists within the margin, and at least those needed to hold k rows, the nearest first.

    :param cosines: of the query and each list's centroid.
    :param held: how many rows that may be found each list holds.
    :param nearest: how many rows are the nearest ones, from which the margin is measured.
    """
    for farthest in (cosines.max() - _MARGINS_SORTED * margin, -np.inf):
        lists, rows = _nearest_first(cosines, held, farthest)
        least = _mean_of_nearest(cosines, held, lists, rows, nearest) - margin
        if least >= farthest and rows.size and rows[-1] >= max(k, nearest):
            break
    near_enough = np.searchsorted(-cosines[lists], -least, side="right")
    enough = np.searchsorted(rows, k) + 1
    return lists[: max(near_enough, enough)]


def near(cosines: NDArray[np.float32], held: NDArray[np.int64], nearest: int) -> float:
    """Return the mean cosine of the centroids that stand for so many of the nearest rows."""
    return _mean_of_nearest(cosines, held, *_nearest_first(cosines, held, -np.inf), nearest)


def _nearest_first(
    cosines: NDArray[np.float32], held: NDArray[np.int64], farthest: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the lists that hold rows and are not farther, and how many rows each and those before it hold together."""
    lists = np.flatnonzero((cosines >= farthest) & (held > 0))
    lists = lists[np.argsort(-cosines[lists])]
    return lists, np.cumsum(held[lists])


def _mean_of_nearest(
    cosines: NDArray[np.float32],
    held: NDArray[np.int64],
    lists: NDArray[np.int64],
    rows: NDArray[np.int64],
    nearest: int,
) -> float:
    lists = lists[: np.searchsorted(rows, nearest) + 1]
    if not len(lists):
        return 0.0
    total = rows[len(lists) - 1]
    too_many = max(total - nearest, 0)  # of the last list
    return float((held[lists] @ cosines[lists] - too_many * cosines[lists[-1]]) / (total - too_many))
