"""Which stored vectors are nearest to a query?

Exact inner product over unit vectors, so a score is a cosine and higher is better. The only file that imports faiss.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

RECIPE = "Flat,inner-product,float32"


def write_vectors(blocks: Iterable[NDArray[np.float32]], dimension: int, write: Callable[[bytes], int]) -> int:
    """Give the index over these rows to `write`, piece by piece; return the number of rows.

    FAISS's own file writer can report success on a full disk, and serialising to bytes doubles the memory: so it writes
    through a callback, whose errors end the writing.
    """
    index = faiss.IndexFlatIP(dimension)
    for block in blocks:
        index.add(np.ascontiguousarray(block))
    faiss.write_index(index, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]  # missing in its stubs
    return int(index.ntotal)


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
        scores, rows = self._index.search(np.ascontiguousarray(queries), k, params=parameters)
        scores[rows < 0] = -np.inf
        return scores, rows
