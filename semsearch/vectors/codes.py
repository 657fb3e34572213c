"""Which of some rows may be nearest to a query, told from a quarter of their bytes?

A vector's numbers in eight bits each, and behind them what they are to be multiplied by: its largest, through 127. What
these say of an inner product is off by a known little, so those rows that could still be among the nearest are few, and
only their vectors have to be read. A segment of millions is searched without its vectors in memory.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from semsearch.arrays import array_header, load_array
from semsearch.vectors.flat import Flat, inner_products

_LARGEST = 127
_DEVIATIONS = 4.0
"""Rounding to whole numbers errs evenly by up to a half, so a sum of such errors, weighted by a unit vector, has a
standard deviation of 1 / sqrt(12). Two rows, each off by four of them towards the other, are one pair in a hundred
million."""
_BLOCK_ROWS = 1_024  # what fits the cache of a core as float32
_WORTH_THREADS = 16  # blocks: what waits for memory that is nowhere near, two threads do in half of the time
_THREADS = faiss.omp_get_max_threads()
_WRITTEN_ROWS = 65_536


def _record(dimension: int) -> np.dtype[np.void]:
    return np.dtype([("codes", "i1", (dimension,)), ("scale", "<f4")])


def write_codes(flat: Flat, write: Callable[[bytes], int]) -> None:
    """Give the codes of these rows to `write`, piece by piece: an array in numpy's own format."""
    record = _record(flat.dimension)
    write(array_header(record, flat.rows))
    for start in range(0, flat.rows, _WRITTEN_ROWS):
        vectors = flat.matrix[start : start + _WRITTEN_ROWS]
        codes = np.empty(len(vectors), dtype=record)
        codes["scale"] = np.maximum(np.abs(vectors).max(axis=1) / _LARGEST, np.finfo(np.float32).tiny)
        codes["codes"] = np.rint(vectors / codes["scale"][:, None])
        write(codes.tobytes())


class Codes:
    """The codes of one segment, mapped read-only from their file."""

    def __init__(self, path: Path, dimension: int) -> None:
        """Map the file, which must already have passed its digest.

        :raises ValueError: if it holds no codes of vectors of this dimension.
        """
        mapped = load_array(path, "r")
        if mapped.dtype != _record(dimension) or mapped.ndim != 1:
            raise ValueError(f"{path} holds {mapped.dtype}, not codes of {dimension} numbers")
        self.rows = len(mapped)
        self._dtype = mapped.dtype
        self._records = np.asarray(mapped).view(np.dtype((np.void, mapped.dtype.itemsize)))  # a row is one item

    def promising(self, rows: NDArray[np.int64], query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return those of these rows that may be among their k nearest to the query, of shape (dimension,)."""
        if len(rows) <= k:
            return rows
        scores, errors = self.estimates(rows, query)
        least = np.partition(scores - errors, -k)[-k]
        promising: NDArray[np.int64] = rows[scores + errors >= least]
        return promising

    def estimates(
        self, rows: NDArray[np.int64], query: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return nearly the inner products of a unit vector and these rows, and how far off they may be; both (n,)."""
        scores, scales = np.empty(len(rows), dtype=np.float32), np.empty(len(rows), dtype=np.float32)

        def estimate(block: slice) -> None:
            records = np.take(self._records, rows[block]).view(self._dtype)
            scores[block] = inner_products(records["codes"].astype(np.float32), query)
            scales[block] = records["scale"]

        blocks = [slice(start, start + _BLOCK_ROWS) for start in range(0, len(rows), _BLOCK_ROWS)]
        if len(blocks) < _WORTH_THREADS or _THREADS == 1:
            for block in blocks:
                estimate(block)
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(estimate, blocks))
        return scores * scales, scales * np.float32(_DEVIATIONS / 12**0.5)
