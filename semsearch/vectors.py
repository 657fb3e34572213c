"""Which stored vectors are nearest to a query?

Exact inner product over unit vectors, so a score is a cosine and higher is better. The only file that imports faiss.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

RECIPE = "Flat,inner-product,float32"

_MATRIX_QUERIES = 20
"""From so many queries on, FAISS multiplies matrices, which several threads share well. Below, a scan waits for memory
more than it computes, and requests that come at once have threads of their own: one thread is faster than two."""
_THREADS = faiss.omp_get_max_threads()


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


class Vectors:
    """The vectors of one segment, mapped read-only from their file."""

    def __init__(self, path: Path) -> None:
        """Map the file, which must already have passed its digest: FAISS checks little of what it reads."""
        self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        self.rows: int = self._index.ntotal
        self.dimension: int = self._index.d
        flat = faiss.rev_swig_ptr(self._index.get_xb(), self.rows * self.dimension)  # type: ignore[attr-defined]
        self._matrix: NDArray[np.float32] = flat.reshape(self.rows, self.dimension)
        self._matrix.flags.writeable = False

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return a copy of the vectors at these rows, shape (n, dimension)."""
        return self._matrix[rows]

    def nearest(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the scores and rows of the k best allowed rows per query, both of shape (n_queries, k), best first.

        Where fewer than k rows are allowed, the rest has row -1 and score -inf. `allowed` has shape (rows,); None
        allows all.
        """
        parameters = None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg,arg-type]  # its stubs know only C pointers
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        faiss.omp_set_num_threads(_THREADS if len(queries) >= _MATRIX_QUERIES else 1)  # of this Python thread alone
        scores, rows = self._index.search(np.ascontiguousarray(queries), k, params=parameters)
        scores[rows < 0] = -np.inf
        return scores, rows
