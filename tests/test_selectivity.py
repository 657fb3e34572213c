"""Filters that leave from one of 100,000 rows to all of them, on both legs, against brute force."""

from pathlib import Path

import numpy as np
import pytest
from conftest import make_paper
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from storage import unit_rows, written_with_lists

from semsearch.lexical import LexicalIndex, write_lexical
from semsearch.queries import parse_query
from semsearch.vectors import Flat, Lists, Selection, Vectors, tuned

ROWS, DIMENSION = 100_000, 16
WORDS = [f"word{number}" for number in range(40)]  # each in fewer and fewer papers
LEFT = [0, 1, 2, 10, 100, 1_000, 8_192, 8_193, 30_000, 70_000, ROWS]
"""How many rows a filter leaves; at 8,192 the dense leg takes another way."""

lefts = st.sampled_from(LEFT)
limits = st.sampled_from([1, 10, 100, 1_000])
seeds = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def matrix() -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    centres = unit_rows(rng, 200, DIMENSION)
    rows = centres[rng.integers(0, 200, ROWS)] + 0.15 * rng.standard_normal((ROWS, DIMENSION))
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory, matrix: NDArray[np.float32]) -> Vectors:
    flat, lists, codes = written_with_lists(tmp_path_factory.mktemp("dense"), matrix)
    return Vectors(flat, lists, codes, tuned(Flat(flat), Lists(lists)))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> LexicalIndex:
    """Return papers of one to four words each; their seqs are odd, so that others can be asked for."""
    rng = np.random.default_rng(8)
    chances = 1 / np.arange(2, len(WORDS) + 2) ** 1.5
    words = rng.choice(WORDS, (ROWS, 4), p=chances / chances.sum())
    lengths = rng.integers(1, 5, ROWS).tolist()
    papers = (
        (2 * row + 1, make_paper(row, " ".join(some[:length]), title="x"))
        for row, (some, length) in enumerate(zip(words.tolist(), lengths, strict=True))
    )
    folder: Path = tmp_path_factory.mktemp("lexical") / "index"
    return write_lexical(folder, None, papers, [])


def filtered(left: int, seed: int) -> NDArray[np.bool_]:
    allowed = np.zeros(ROWS, dtype=np.bool_)
    allowed[np.random.default_rng(seed).choice(ROWS, left, replace=False)] = True
    return allowed


@settings(max_examples=150)
@given(lefts, limits, seeds)
def test_vectors_within_a_filter(
    vectors: Vectors, matrix: NDArray[np.float32], left: int, limit: int, seed: int
) -> None:
    allowed, query = filtered(left, seed), unit_rows(np.random.default_rng(seed), 1, DIMENSION)
    expected = np.sort(matrix[allowed] @ query[0])[::-1][:limit]
    for exact in (True, False):
        (scores,), (rows,) = vectors.nearest(query, limit, Selection(allowed), exact=exact)
        found = rows[rows >= 0]
        assert len(np.unique(found)) == len(found) == min(limit, left)
        assert allowed[found].all()
        np.testing.assert_allclose(scores[: len(found)], matrix[found] @ query[0], atol=2e-6)
        if exact or left <= 8_192:
            np.testing.assert_allclose(scores[: len(found)], expected, atol=2e-6)


def test_lists_within_a_filter_miss_few(vectors: Vectors, matrix: NDArray[np.float32]) -> None:
    missed = []
    for seed in range(120):
        allowed = filtered([8_193, 30_000, 70_000][seed % 3], seed)
        query = matrix[[seed]] + 0.2 * unit_rows(np.random.default_rng(seed), 1, DIMENSION)
        expected = np.sort(matrix[allowed] @ query[0])[::-1][:10]
        (scores,), _ = vectors.nearest(query, 10, Selection(allowed))
        missed.append(np.count_nonzero(scores < expected[-1] - 2e-6))
    assert np.mean(missed) <= 0.5


@settings(max_examples=150)
@given(
    st.sampled_from(["word1", "word39", "word2 word30", "word5 -word2", '"word3 word4" word9', "word99"]),
    lefts,
    limits,
    seeds,
)
def test_words_within_a_filter(index: LexicalIndex, query: str, left: int, limit: int, seed: int) -> None:
    allowed = filtered(left, seed)
    scores, seqs = index.search(parse_query(query), ROWS)
    passing = allowed[seqs // 2]
    found_scores, found = index.search(parse_query(query), limit, 2 * np.flatnonzero(allowed) + 1)
    there = int(np.count_nonzero(passing))
    assert len(np.unique(found)) == len(found) >= min(limit, there)
    assert set(found.tolist()) <= set(seqs[passing].tolist())
    np.testing.assert_array_equal(found_scores[:limit], scores[passing][:limit])
