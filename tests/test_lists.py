"""Rows found by way of lists: only allowed ones, always as many as asked for, and nearly always the best."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from storage import resident_of, unit_rows, written_with_lists

from semsearch.vectors import (
    Codes,
    Flat,
    Lists,
    Probing,
    Selection,
    Vectors,
    tuned,
    write_codes,
    write_vectors,
)
from semsearch.vectors import nearest as nearest_module
from semsearch.vectors.flat import best
from semsearch.vectors.lists import NEAREST_ROWS, within

ROWS, DIMENSION = 12_000, 32
Paths = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def matrix() -> NDArray[np.float32]:
    """Rows in 60 clouds, as papers lie in fields."""
    rng = np.random.default_rng(11)
    centres = unit_rows(rng, 60, DIMENSION)
    rows = centres[rng.integers(0, 60, ROWS)] + 0.12 * rng.standard_normal((ROWS, DIMENSION))
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, matrix: NDArray[np.float32]) -> Paths:
    return written_with_lists(tmp_path_factory.mktemp("lists"), matrix)


@pytest.fixture(scope="module")
def probing(paths: Paths) -> Probing:
    return tuned(Flat(paths[0]), Lists(paths[1]))


@pytest.fixture
def vectors(paths: Paths, probing: Probing, monkeypatch: pytest.MonkeyPatch) -> Vectors:
    monkeypatch.setattr(nearest_module, "_FEW_ROWS", 50)
    return Vectors(*paths, probing)


def true_rows(
    matrix: NDArray[np.float32], queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    scores = queries.astype(np.float64) @ matrix.T.astype(np.float64)
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return np.argsort(-scores, axis=1)[:, :k]


def recall(found: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    return float(np.mean([len(np.intersect1d(some, best)) / len(best) for some, best in zip(found, true, strict=True)]))


def looked_through_for(lists: Lists, query: NDArray[np.float32], margin: float) -> int:
    return len(within(lists.cosines(query), lists.sizes, margin, 10, NEAREST_ROWS))


def nearest_centroids(lists: Lists, matrix: NDArray[np.float32]) -> NDArray[np.int64]:
    nearest: NDArray[np.int64] = np.argmax([lists.cosines(row) for row in matrix], axis=1)
    return nearest


def test_every_row_is_in_the_list_of_its_nearest_centroid(paths: Paths, matrix: NDArray[np.float32]) -> None:
    lists = Lists(paths[1])
    assert (lists.rows, lists.count) == (ROWS, 219)
    np.testing.assert_array_equal(lists.list_of_row, nearest_centroids(lists, matrix))


def test_lists_within_the_margin_of_the_nearest_rows_are_looked_through(
    paths: Paths, matrix: NDArray[np.float32]
) -> None:
    lists = Lists(paths[1])
    list_of_row = nearest_centroids(lists, matrix)
    for query in unit_rows(np.random.default_rng(1), 5, DIMENSION):
        cosines = lists.cosines(query)
        of_rows = np.sort(cosines[list_of_row])[::-1]  # of the centroid of each row, the nearest first
        for margin in (0.0, 0.2, 0.4):
            within = np.flatnonzero(cosines[list_of_row] >= of_rows[:1_200].mean() - margin)
            np.testing.assert_array_equal(np.sort(lists.candidates(query, len(within), margin)), within)


def test_what_the_nearest_rows_are_depends_on_what_is_allowed(paths: Paths, matrix: NDArray[np.float32]) -> None:
    lists, (query,) = Lists(paths[1]), unit_rows(np.random.default_rng(6), 1, DIMENSION)
    of_row = lists.cosines(query)[nearest_centroids(lists, matrix)]
    allowed = of_row < np.median(of_row)
    nearest = np.sort(of_row[allowed])[::-1][:1_200]
    within = np.flatnonzero(allowed & (of_row >= nearest.mean() - 0.05))
    np.testing.assert_array_equal(np.sort(lists.candidates(query, len(within), 0.05, Selection(allowed))), within)


def test_so_many_lists_are_looked_through_that_k_rows_are_found(paths: Paths) -> None:
    for query in unit_rows(np.random.default_rng(1), 5, DIMENSION):
        assert len(Lists(paths[1]).candidates(query, 9_000, -1.0)) >= 9_000


def test_candidates_far_below_the_best_are_left_out_and_hold_hardly_any_of_the_nearest(
    paths: Paths, matrix: NDArray[np.float32]
) -> None:
    lists, queries, left = Lists(paths[1]), matrix[::100], 0
    for query in queries:
        many, few = lists.candidates(query, 256, 0.3), lists.candidates(query, 10, 0.3)
        nearest = many[np.argsort(-(matrix[many] @ query))][:10]
        assert np.isin(few, many).all()
        assert np.isin(nearest, few).sum() >= 9
        left += len(few)
    assert left < 200 * len(queries)


def test_of_rows_that_lie_in_few_dimensions_lists_keep_these(tmp_path: Path, matrix: NDArray[np.float32]) -> None:
    rng = np.random.default_rng(8)
    axes, _ = np.linalg.qr(rng.standard_normal((3 * DIMENSION, DIMENSION)))
    wide = matrix @ axes.T + 0.005 * rng.standard_normal((ROWS, 3 * DIMENSION))
    wide = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    paths = written_with_lists(tmp_path, wide)
    assert paths[1].stat().st_size < ROWS * (3 * DIMENSION / 4 + 8), (
        "a number of a row takes two bits, its own eight bytes"
    )
    probing = tuned(Flat(paths[0]), Lists(paths[1]))
    assert probing.recall_at_10 >= 0.98
    queries = wide[::60]
    _, rows = Vectors(*paths, probing).nearest(queries, 10)
    assert recall(rows, true_rows(wide, queries, 10)) >= 0.98


def test_what_was_tuned_keeps_its_promise(
    paths: Paths, vectors: Vectors, matrix: NDArray[np.float32], probing: Probing
) -> None:
    assert probing.recall_at_10 >= 0.98
    queries = matrix[::40] + matrix[7::40][: len(matrix[::40])]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    looked_through = [looked_through_for(Lists(paths[1]), query, probing.margin) for query in queries]
    assert np.mean(looked_through) < 110, "half of the lists; or there would be little approximate about it"
    _, rows = vectors.nearest(queries, 10)
    assert recall(rows, true_rows(matrix, queries, 10)) >= 0.98
    _, few = Vectors(*paths, Probing(-1.0, 1.0)).nearest(queries, 10)
    assert recall(few, true_rows(matrix, queries, 10)) < 0.9, "the lists do decide what is found"


@pytest.mark.parametrize("part", [0.9, 0.4, 0.1, 0.02])
def test_under_a_filter_recall_holds_and_nothing_leaks(
    vectors: Vectors, matrix: NDArray[np.float32], part: float
) -> None:
    rng = np.random.default_rng(5)
    allowed = rng.random(ROWS) < part
    queries = matrix[rng.integers(0, ROWS, 100)]
    scores, rows = vectors.nearest(queries, 10, Selection(allowed))
    assert allowed[rows].all()
    assert recall(rows, true_rows(matrix, queries, 10, allowed)) >= 0.95
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, matrix[rows]), atol=1e-5)


def test_a_filter_that_stands_far_from_the_question(
    paths: Paths, vectors: Vectors, matrix: NDArray[np.float32]
) -> None:
    """All that is allowed lies on the other side: what is nearest of all says nothing of where."""
    lists, queries = Lists(paths[1]), matrix[:20]
    found, true = [], []
    for query in queries:
        allowed = np.isin(lists.list_of_row, np.argsort(lists.cosines(query))[:60])
        found.append(vectors.nearest(query[None, :], 10, Selection(allowed))[1][0])
        true.append(true_rows(matrix, query[None, :], 10, allowed)[0])
        assert allowed[found[-1]].all()
    assert recall(np.stack(found), np.stack(true)) >= 0.7  # by what is nearest of all it would be 0.2


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), part=st.sampled_from([0.0, 0.0005, 0.01, 0.2, 0.7, 1.0]), k=st.integers(1, 2_000))
def test_k_rows_whenever_k_are_allowed(paths: Paths, probing: Probing, seed: int, part: float, k: int) -> None:
    allowed = np.random.default_rng(seed).random(ROWS) < part
    query = unit_rows(np.random.default_rng(seed), 1, DIMENSION)
    scores, rows = Vectors(*paths, probing).nearest(query, k, Selection(allowed))
    found = rows[0][rows[0] >= 0]
    assert len(found) == len(set(found.tolist())) == min(k, np.count_nonzero(allowed))
    assert allowed[found].all()
    assert (np.diff(scores[0][: len(found)]) <= 0).all()
    assert np.isneginf(scores[0][len(found) :]).all()


def test_exact_is_exact_and_small_selections_are_too(vectors: Vectors, matrix: NDArray[np.float32]) -> None:
    queries = unit_rows(np.random.default_rng(9), 40, DIMENSION)
    _, rows = vectors.nearest(queries, 20, exact=True)
    np.testing.assert_array_equal(rows, true_rows(matrix, queries, 20))
    allowed = np.zeros(ROWS, dtype=np.bool_)
    allowed[np.random.default_rng(2).choice(ROWS, 50, replace=False)] = True
    _, rows = vectors.nearest(queries, 20, Selection(allowed))
    np.testing.assert_array_equal(rows, true_rows(matrix, queries, 20, allowed))


def test_alone_and_together_questions_get_the_same(vectors: Vectors, matrix: NDArray[np.float32]) -> None:
    together = vectors.nearest(matrix[:50], 30)
    for position in range(50):
        scores, rows = vectors.nearest(matrix[[position]], 30)
        np.testing.assert_array_equal(rows[0], together[1][position])
        np.testing.assert_array_equal(scores[0], together[0][position])


def test_best_of_scores() -> None:
    rows, scores = np.array([5, 6, 7, 8]), np.array([0.1, 0.4, 0.3, 0.4], dtype=np.float32)
    assert [array.tolist() for array in best(rows, scores, 3)] == [pytest.approx([0.4, 0.4, 0.3]), [6, 8, 7]]
    assert best(rows, scores, 6)[1].tolist() == [6, 8, 7, 5, -1, -1]
    assert best(rows[:0], scores[:0], 2)[1].tolist() == [-1, -1]


# Codes


@pytest.fixture(scope="module")
def codes(paths: Paths) -> Codes:
    return Codes(paths[2], DIMENSION)


def test_codes_are_off_by_no_more_than_they_say(codes: Codes, matrix: NDArray[np.float32]) -> None:
    rows = np.random.default_rng(0).permutation(ROWS)
    for query in unit_rows(np.random.default_rng(3), 20, DIMENSION):
        estimates, errors = codes.estimates(rows, query)
        off = np.abs(estimates - matrix[rows].astype(np.float64) @ query)
        assert (off <= errors).mean() > 0.9999
        assert (off > errors / 10).mean() > 0.2, "nor do they say much more than they are"


def test_threads_share_many_codes(codes: Codes, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, (query,) = np.random.default_rng(0).permutation(ROWS), unit_rows(np.random.default_rng(3), 1, DIMENSION)
    alone = codes.estimates(rows, query)
    monkeypatch.setattr("semsearch.vectors.codes._WORTH_THREADS", 2)
    monkeypatch.setattr("semsearch.vectors.codes._THREADS", 3)
    np.testing.assert_array_equal(codes.estimates(rows, query), alone)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(0, 3_000), k=st.integers(1, 1_500))
def test_what_is_promising_holds_the_nearest(
    codes: Codes, matrix: NDArray[np.float32], seed: int, n: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, query = rng.choice(ROWS, n, replace=False), unit_rows(rng, 1, DIMENSION)[0]
    promising = codes.promising(rows, query, k)
    assert np.isin(promising, rows).all()
    assert len(promising) >= min(k, n)
    nearest = rows[np.argsort(-(matrix[rows] @ query))][:k]
    assert np.isin(nearest, promising).all()
    assert n <= 2 * k or len(promising) < n


def test_large_and_empty_numbers_have_codes(tmp_path: Path) -> None:
    rows = np.zeros((3, DIMENSION), dtype=np.float32)
    rows[0, 5], rows[1, :] = -1, DIMENSION**-0.5
    with (tmp_path / "vectors").open("wb") as file:
        write_vectors([rows], 3, DIMENSION, file.write)
    with (tmp_path / "codes").open("wb") as file:
        write_codes(Flat(tmp_path / "vectors"), file.write)
    estimates, _ = Codes(tmp_path / "codes", DIMENSION).estimates(np.arange(3), rows[0])
    np.testing.assert_allclose(estimates, [1, -(DIMENSION**-0.5), 0], atol=1e-6)


def test_codes_of_other_vectors_are_refused(paths: Paths, probing: Probing, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not codes of 31 numbers"):
        Codes(paths[2], 31)
    few = tmp_path / "codes"
    few.write_bytes(paths[2].read_bytes().replace(b"(12000,)", b"(11999,)"))
    with pytest.raises(ValueError, match="not of 12000 rows"):
        Vectors(*paths[:2], few, probing)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux alone tells what is resident of a mapping")
def test_few_rows_are_compared_without_their_vectors_in_memory(
    paths: Paths, probing: Probing, matrix: NDArray[np.float32], tmp_path: Path
) -> None:
    own = [Path(shutil.copy(path, tmp_path)) for path in paths]
    vectors = Vectors(own[0], own[1], own[2], probing)
    queries, allowed = unit_rows(np.random.default_rng(9), 20, DIMENSION), np.arange(ROWS) % 4 == 0
    rows = vectors.nearest(queries, 10, Selection(allowed))[1]
    assert rows.tolist() == true_rows(matrix, queries, 10, allowed).tolist()
    assert resident_of(own[0]) < matrix.nbytes / 10
