"""Where do more papers come from than there are?

From real ones, recombined: a made vector is a real one plus 0.4 times the difference of two of its 30 nearest, so that
it lies where papers lie, and among as many neighbours; a made text is half of that paper's and half of one of those
two. `scripts/benchmark_vectors.py` compares neighbours of made and of real vectors.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from semsearch import Paper
from semsearch.vectors import Vectors

Matrix = NDArray[np.float32]
Rows = NDArray[np.int64]

NEIGHBOURS = 30
_STEP = 0.4
_BLOCK = 10_000


def neighbours(vectors: Vectors) -> Rows:
    """Return nearly the 30 nearest other rows of each row, shape (rows, 30)."""

    def nearest(row: int) -> Rows:
        found = vectors.nearest(vectors.at(np.array([row])), NEIGHBOURS + 1)[1][0]
        others: Rows = found[found != row][:NEIGHBOURS]
        return others

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack([*pool.map(nearest, range(vectors.rows), chunksize=256)])


def parents(first: int, last: int, nearest: Rows) -> Rows:
    """Return what the rows from `first` up to `last` are made of, shape (n, 3): a paper and two of its neighbours.

    The first rows are the real ones, three times each. Whatever part is asked for, a row is made of the same.
    """
    blocks = [
        _parents_of_block(number, nearest)[max(0, first - number * _BLOCK) : last - number * _BLOCK]
        for number in range(first // _BLOCK, -(-last // _BLOCK))
    ]
    made = np.concatenate([np.empty((0, 3), dtype=np.int64), *blocks])
    real = np.arange(first, last) < len(nearest)
    made[real] = np.arange(first, last)[real, None]
    return made


def _parents_of_block(number: int, nearest: Rows) -> Rows:
    chance = np.random.default_rng((1, number))
    rows = chance.integers(0, len(nearest), _BLOCK)
    one = chance.integers(0, NEIGHBOURS, _BLOCK)
    other = (one + chance.integers(1, NEIGHBOURS, _BLOCK)) % NEIGHBOURS  # never the same, or what is made were real
    return np.column_stack([rows, nearest[rows, one], nearest[rows, other]])


def made_vectors(real: Matrix, made_of: Rows) -> Matrix:
    """Return the unit vectors of rows that are made of these."""
    made = real[made_of[:, 0]] + _STEP * (real[made_of[:, 1]] - real[made_of[:, 2]])
    unit: Matrix = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


def made_paper(name: str, paper: Paper, other: Paper) -> Paper:
    """Return a paper of this id that begins as one does and ends as the other."""
    title, abstract = (_halves(getattr(paper, part), getattr(other, part)) for part in ("title", "abstract"))
    return replace(paper, paper_id=name, title=title, abstract=abstract, doi=None)


def _halves(one: str, other: str) -> str:
    beginning, end = one.split(), other.split()
    return " ".join(beginning[: -(-len(beginning) // 2)] + end[len(end) // 2 :])
