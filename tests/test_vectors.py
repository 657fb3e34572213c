from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray
from storage import resident_of, unit_rows

from semsearch.errors import GenerationDamageError
from semsearch.vectors import Flat, Selection, Vectors, write_vectors

ROWS, DIMENSION = 203, 24


@pytest.fixture(scope="module")
def matrix() -> NDArray[np.float32]:
    return unit_rows(np.random.default_rng(1), ROWS, DIMENSION)


@pytest.fixture
def path(tmp_path: Path, matrix: NDArray[np.float32]) -> Path:
    path = tmp_path / "vectors.faiss"
    with path.open("wb") as file:
        assert write_vectors([matrix[:100], matrix[100:101], matrix[101:]], ROWS, DIMENSION, file.write) == ROWS
    return path


def brute_force(
    matrix: NDArray[np.float32], queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    scores = queries.astype(np.float64) @ matrix.T.astype(np.float64)
    scores[:, ~allowed] = -np.inf
    rows = np.argsort(-scores, axis=1)[:, :k]
    best = np.take_along_axis(scores, rows, axis=1)
    return best, np.where(np.isinf(best), -1, rows)


def test_what_was_written_is_what_is_mapped(path: Path, matrix: NDArray[np.float32]) -> None:
    vectors = Vectors(path)
    assert (vectors.rows, vectors.dimension) == (ROWS, DIMENSION)
    np.testing.assert_array_equal(vectors.at(np.arange(ROWS)), matrix)
    np.testing.assert_array_equal(vectors.at(np.array([202, 0, 0, 7])), matrix[[202, 0, 0, 7]])


@pytest.mark.parametrize("claimed", [ROWS * DIMENSION + 1, 1 << 40, (1 << 64) - 1])
def test_a_file_that_claims_to_hold_more_than_it_has_is_refused(path: Path, claimed: int) -> None:
    data = bytearray(path.read_bytes())
    place = len(data) - ROWS * DIMENSION * 4 - 8
    assert int.from_bytes(data[place : place + 8], "little") == ROWS * DIMENSION, "it is the count of numbers"
    data[place : place + 8] = claimed.to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(RuntimeError, match=r"limit|size|read"):
        Flat(path)


def test_a_file_is_mapped_within_limits_of_its_own_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []

    def reading(name: str, flags: int) -> Any:
        limits.extend([faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()])
        return read(name, flags)

    read = faiss.read_index
    monkeypatch.setattr(faiss, "read_index", reading)
    Flat(path)
    assert limits == [path.stat().st_size] * 2


@pytest.mark.parametrize("k", [1, 10, 203])
def test_all_rows_against_brute_force(path: Path, matrix: NDArray[np.float32], k: int) -> None:
    queries = unit_rows(np.random.default_rng(2), 9, DIMENSION)
    scores, rows = Vectors(path).nearest(queries, k, None)
    expected_scores, expected_rows = brute_force(matrix, queries, k, np.ones(ROWS, dtype=np.bool_))
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    np.testing.assert_array_equal(rows, expected_rows)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.99])
def test_only_allowed_rows_are_found_and_the_rest_is_minus_one(
    path: Path, matrix: NDArray[np.float32], share: float
) -> None:
    rng = np.random.default_rng(3)
    allowed = rng.random(ROWS) < share
    queries = unit_rows(rng, 5, DIMENSION)
    scores, rows = Vectors(path).nearest(queries, 30, Selection(allowed))
    expected_scores, expected_rows = brute_force(matrix, queries, 30, allowed)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_the_first_and_the_last_row_alone(path: Path, matrix: NDArray[np.float32]) -> None:
    for row in (0, 7, 8, ROWS - 1):  # around the borders of the selector's bytes
        allowed = np.zeros(ROWS, dtype=np.bool_)
        allowed[row] = True
        scores, rows = Vectors(path).nearest(matrix[[row]], 3, Selection(allowed))
        assert rows.tolist() == [[row, -1, -1]]
        assert scores[0, 0] == pytest.approx(1, abs=1e-6)
        assert np.isneginf(scores[0, 1:]).all()


def test_more_asked_for_than_there_are(path: Path) -> None:
    scores, rows = Vectors(path).nearest(unit_rows(np.random.default_rng(4), 1, DIMENSION), ROWS + 5, None)
    assert sorted(rows[0, :ROWS].tolist()) == list(range(ROWS))
    assert rows[0, ROWS:].tolist() == [-1] * 5
    assert np.isneginf(scores[0, ROWS:]).all()


def test_the_mapped_file_can_not_be_written_through_it(path: Path) -> None:
    before = path.read_bytes()
    vectors, flat = Vectors(path), Flat(path)
    copy = vectors.at(np.array([3]))
    copy[:] = 0
    with pytest.raises(ValueError, match="read-only"):
        flat.matrix[3] = 0
    assert vectors.at(np.array([3])).any()
    assert path.read_bytes() == before


def test_a_removed_file_is_still_read_by_who_has_it_open(path: Path, matrix: NDArray[np.float32]) -> None:
    vectors = Vectors(path)
    path.unlink()
    _, rows = vectors.nearest(matrix[[150]], 1, None)
    assert rows.tolist() == [[150]]
    np.testing.assert_array_equal(vectors.at(np.arange(ROWS)), matrix)


def test_an_error_while_writing_ends_the_writing(matrix: NDArray[np.float32]) -> None:
    written = 0

    def full_after_a_while(data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 1_000:
            raise OSError(28, "No space left on device")
        return len(data)

    with pytest.raises(OSError, match="No space left on device"):
        write_vectors([matrix], ROWS, DIMENSION, full_after_a_while)


def test_blocks_of_another_order_or_dimension(matrix: NDArray[np.float32], tmp_path: Path) -> None:
    with (tmp_path / "fortran").open("wb") as file:
        write_vectors([np.asfortranarray(matrix)], ROWS, DIMENSION, file.write)
    np.testing.assert_array_equal(Vectors(tmp_path / "fortran").at(np.arange(ROWS)), matrix)
    with pytest.raises(AssertionError):
        write_vectors([matrix], ROWS, DIMENSION + 1, len)


@pytest.mark.parametrize("rows", [0, 1, 2, ROWS])
def test_the_file_is_the_one_that_faiss_would_write(matrix: NDArray[np.float32], rows: int) -> None:
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(matrix[:rows])
    written = bytearray()

    def take(data: bytes) -> int:
        written.extend(data)
        return len(data)

    assert write_vectors([matrix[:rows]], rows, DIMENSION, take) == rows
    assert bytes(written) == faiss.serialize_index(index).tobytes()


def test_a_file_that_is_cut_while_it_is_open_is_called_damage(path: Path) -> None:
    vectors = Vectors(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(GenerationDamageError, match="has been cut since it was opened"):
        vectors.at(np.array([0, ROWS - 1]))


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 1_000])
def test_the_lengths_of_all_vectors_in_blocks_of_any_number(tmp_path: Path, rows: int) -> None:
    matrix = np.random.default_rng(5).standard_normal((rows, DIMENSION)).astype(np.float32)
    path = tmp_path / "vectors.faiss"
    with path.open("wb") as file:
        write_vectors([matrix], rows, DIMENSION, file.write)
    expected = (matrix.astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(Vectors(path).squared_lengths(), expected, rtol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux alone tells what is resident of a mapping")
def test_looking_at_the_length_of_every_vector_leaves_none_in_memory(tmp_path: Path) -> None:
    matrix, path = unit_rows(np.random.default_rng(6), 20_000, DIMENSION), tmp_path / "vectors.faiss"
    with path.open("wb") as file:
        write_vectors([matrix], len(matrix), DIMENSION, file.write)
    vectors = Vectors(path)
    vectors.squared_lengths()
    assert resident_of(path) < matrix.nbytes / 10
    vectors.nearest(matrix[:1], 10, exact=True)
    assert resident_of(path) >= matrix.nbytes, "or nothing is measured here"
