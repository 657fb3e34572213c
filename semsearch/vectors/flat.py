"""Which rows of a segment are nearest to a query, when all of them are looked at?

Every vector is stored as it is, so what comes back is exact, and rows found otherwise are scored by it again.
"""

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from semsearch.errors import GenerationDamageError
from semsearch.vectors.opening import opened, vectors_of
from semsearch.vectors.selection import Selection

_MATRIX_QUERIES = 20
"""From so many queries on, FAISS multiplies matrices, which several threads share well. Below, a scan waits for memory
more than it computes, and requests that come at once have threads of their own: one thread is faster than two."""
_THREADS = faiss.omp_get_max_threads()

_MOST_READ = 256
"""Up to so many vectors are read from the file, not from memory that it is mapped to. It takes two microseconds each
instead of half of one; but the system maps sixteen pages where one is touched, and soon all would be resident."""

_BLOCK_ROWS = 256  # what fits the cache of a core
_SPARSE = 1 / 16
"""Where fewer rows are allowed, they are looked up one by one; else FAISS walks over all rows and skips the others."""


def write_vectors(
    blocks: Iterable[NDArray[np.float32]], rows: int, dimension: int, write: Callable[[bytes], int]
) -> int:
    """Give the index over these rows to `write`, piece by piece; return the number of rows that came.

    Neither FAISS's own file writer, which can report success on a full disk, nor an index in memory, which grows with
    the corpus: FAISS writes an empty index of this kind through a callback, and the rows follow behind its header.

    :param rows: how many rows the blocks will hold in all.
    """
    write(_header(rows, dimension))
    written = 0
    for block in blocks:
        assert block.shape[1] == dimension, "vectors of one space have one dimension"
        write(np.ascontiguousarray(block, dtype="<f4").tobytes())
        written += len(block)
    return written


def _header(rows: int, dimension: int) -> bytes:
    """Return what FAISS writes before the rows of a flat index, for this many rows.

    Its two counts, of rows and of numbers in all, are little-endian and 64 bits wide: the rows stand after the
    four-letter kind and the dimension, the numbers at the end (faiss/impl/index_write.cpp, IndexFlat).
    """
    empty = bytearray()

    def take(piece: bytes) -> int:
        empty.extend(piece)
        return len(piece)

    faiss.write_index(faiss.IndexFlatIP(dimension), faiss.PyCallbackIOWriter(take))  # type: ignore[attr-defined]
    empty[8:16] = rows.to_bytes(8, "little")
    empty[-8:] = (rows * dimension).to_bytes(8, "little")
    return bytes(empty)


class Flat:
    """The vectors of one segment, mapped read-only from their file."""

    def __init__(self, path: Path) -> None:
        """Map the file, which must already have passed its digest."""
        self._index = opened(path)
        self.rows: int = self._index.ntotal
        self.dimension: int = self._index.d
        self.matrix: NDArray[np.float32] = vectors_of(self._index)
        """All vectors, shape (rows, dimension), read-only."""
        self._records = self.matrix.view(np.dtype((np.void, 4 * self.dimension)))[:, 0]  # a row is one item
        self._path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._header_bytes = os.fstat(self._file).st_size - self.matrix.nbytes

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a copy of the vectors at these rows, shape (n, dimension).

        They stand in the file behind a header of any length, so numpy would gather them number by number, or copy all
        of them first; as items they are copied row by row.

        :raises GenerationDamageError: if the file cannot be read any more.
        """
        if len(rows) <= _MOST_READ:
            return self._read(rows)
        return np.take(self._records, rows).view(np.float32).reshape(len(rows), self.dimension)

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        size = 4 * self.dimension
        places = [self._header_bytes + size * row for row in rows.tolist()]
        with self._reading():
            found = bytearray().join([os.pread(self._file, size, place) for place in places])
        self._check_read(len(found), size * len(rows))
        return np.frombuffer(found, dtype="<f4").reshape(len(rows), self.dimension)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise GenerationDamageError(f"{self._path} cannot be read any more: {error}") from error

    def _check_read(self, found: int, wanted: int) -> None:
        if found != wanted:
            raise GenerationDamageError(f"{self._path} has been cut since it was opened")

    def squared_lengths(self) -> NDArray[np.float32]:
        """Return the squared Euclidean length of each vector, shape (rows,).

        They are read from the file: looked at where they are mapped, all of them would be resident from then on.

        :raises GenerationDamageError: if the file cannot be read any more.
        """
        squares = np.empty(self.rows, dtype=np.float32)
        room = np.empty((_BLOCK_ROWS, self.dimension), dtype="<f4")
        for start in range(0, self.rows, _BLOCK_ROWS):
            block = room[: self.rows - start]
            with self._reading():
                found = os.preadv(self._file, [block.data], self._header_bytes + 4 * self.dimension * start)
            self._check_read(found, block.nbytes)
            arrays = faiss.swig_ptr(squares[start:]), faiss.swig_ptr(block)
            faiss.fvec_norms_L2sqr(*arrays, self.dimension, len(block))  # type: ignore[attr-defined]  # not in its stubs
        return squares

    def scores_of(self, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the inner products of the query, of shape (dimension,), and these rows, shape (n,)."""
        if len(rows) <= _MOST_READ:
            return inner_products(self._read(rows), query)
        scores = np.empty(len(rows), dtype=np.float32)
        rows, query = np.ascontiguousarray(rows), np.ascontiguousarray(query)
        arrays = (faiss.swig_ptr(array) for array in (scores, query, self.matrix, rows))
        faiss.fvec_inner_products_by_idx(*arrays, self.dimension, 1, len(rows))  # type: ignore[attr-defined]
        return scores

    def nearest(
        self, queries: NDArray[np.float32], k: int, allowed: Selection | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the scores and rows of the k best allowed rows per query, both of shape (n_queries, k), best first.

        Where fewer than k rows are allowed, the rest has row -1 and score -inf. None allows all.
        """
        if allowed is not None and allowed.share < _SPARSE:
            found = [best(allowed.rows, self.scores_of(allowed.rows, query), k) for query in queries]
            return np.stack([scores for scores, _ in found]), np.stack([rows for _, rows in found])
        parameters = faiss.SearchParameters(sel=allowed.selector) if allowed else None  # type: ignore[call-arg]
        faiss.omp_set_num_threads(_THREADS if len(queries) >= _MATRIX_QUERIES else 1)  # of this Python thread alone
        scores, rows = self._index.search(np.ascontiguousarray(queries), k, params=parameters)
        scores[rows < 0] = -np.inf
        return scores, rows


def inner_products(matrix: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the inner products of a query, of shape (dimension,), and rows, shape (n, dimension), on one thread."""
    query, matrix = np.ascontiguousarray(query), np.ascontiguousarray(matrix)
    products = np.empty(len(matrix), dtype=np.float32)
    arrays = (faiss.swig_ptr(array) for array in (products, query, matrix))
    faiss.fvec_inner_products_ny(*arrays, matrix.shape[1], len(matrix))  # type: ignore[attr-defined]
    return products


def best(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the k best of these scores and their rows, best first, filled up with -inf and -1; both of shape (k,)."""
    best_scores, best_rows = np.full(k, -np.inf, dtype=np.float32), np.full(k, -1, dtype=np.int64)
    places = np.argpartition(-scores, k - 1)[:k] if 0 < k < len(scores) else np.arange(len(scores))
    places = places[np.argsort(-scores[places], kind="stable")]
    best_scores[: len(places)], best_rows[: len(places)] = scores[places], rows[places]
    return best_scores, best_rows
