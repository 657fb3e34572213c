"""More papers than there are, recombined, and the measurements over them: by hand, and over the samples."""

from pathlib import Path

import numpy as np
import pytest
from benchmark_scale import asked, grown, opening
from conftest import SAMPLES, make_paper
from recombined import made_paper, made_vectors, neighbours, parents
from storage import unit_rows

from semsearch import Searcher, imports_of, update_index
from semsearch.vectors import Vectors, write_vectors


@pytest.fixture
def vectors(tmp_path: Path) -> Vectors:
    with (tmp_path / "vectors.faiss").open("wb") as file:
        write_vectors([unit_rows(np.random.default_rng(3), 80, 8)], 80, 8, file.write)
    return Vectors(tmp_path / "vectors.faiss")


def test_neighbours_are_the_thirty_nearest_others(vectors: Vectors) -> None:
    real = vectors.at(np.arange(80))
    cosines = real @ real.T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_array_equal(neighbours(vectors), np.argsort(-cosines, axis=1)[:, :30])


def test_rows_are_made_of_a_paper_and_two_of_its_neighbours_whatever_part_is_asked_for(vectors: Vectors) -> None:
    nearest = neighbours(vectors)
    whole = parents(0, 25_000, nearest)
    np.testing.assert_array_equal(whole[:80], np.repeat(np.arange(80), 3).reshape(80, 3))
    for one in (1, 2):
        assert (nearest[whole[80:, 0]] == whole[80:, [one]]).any(axis=1).all()
    assert (whole[80:, 1] != whole[80:, 2]).all(), "or it would be the paper itself"
    for first, last in ((0, 50), (70, 90), (9_990, 10_010), (20_000, 25_000)):
        np.testing.assert_array_equal(parents(first, last, nearest), whole[first:last])


def test_vectors_are_moved_by_part_of_a_difference() -> None:
    real = np.eye(3, dtype=np.float32)
    made = made_vectors(real, np.array([[0, 0, 0], [0, 1, 2]]))
    np.testing.assert_allclose(made, [[1, 0, 0], np.array([1, 0.4, -0.4]) / np.sqrt(1.32)], rtol=1e-6)


def test_texts_begin_as_one_and_end_as_the_other() -> None:
    one, other = make_paper(1, "a b c d e", title="One two three"), make_paper(2, "v w x y", title="Four")
    made = made_paper("made:7", one, other)
    assert (made.paper_id, made.title, made.abstract) == ("made:7", "One two Four", "a b c x y")
    assert (made.doi, made.authors) == (None, one.authors)


def test_an_index_is_grown_and_measured(tmp_path: Path) -> None:
    update_index(tmp_path / "index", imports_of([SAMPLES]))
    assert grown(tmp_path / "index", tmp_path / "short", 100, short=True)["papers"] == 100
    with Searcher.open(tmp_path / "short") as more:
        assert len(more.paper("recombined:99").abstract.split()) == 8
    made = grown(tmp_path / "index", tmp_path / "grown", 150, short=False)
    steps = {f"seconds_to_{step}" for step in ("commit", "publish", "delete_a_hundredth")}
    assert made.keys() == {"papers", "words_of_an_abstract", *steps}
    assert grown(tmp_path / "index", tmp_path / "grown", 150, short=False) == made, "it is there"
    with Searcher.open(tmp_path / "index") as few, Searcher.open(tmp_path / "grown") as more:
        assert more.generation.papers == 148
        assert len(more.generation.tombstones) == 2
        assert len(more.paper("recombined:149").abstract.split()) > 8
        np.testing.assert_allclose(  # the first are the real ones
            more.generation.vectors_at(np.arange(1, 96)), few.generation.vectors_at(np.arange(1, 96)), atol=1e-6
        )
    assert opening(tmp_path / "grown", cold=False)["warm_seconds"] >= 0
    result = asked(tmp_path / "grown", [f"glaciers {number}" for number in range(30)], 5)
    assert result["dense_memory"]["questions"] == 20
    assert (result["papers"], result["segments"], result["dead_rows"]) == (148, [150], 2)
    for kind in ("titles", "everyday"):
        assert result[kind]["dense"]["recall_at_10"] == result[kind]["dense_within_filter"]["recall_at_10"] == 1
        assert set(result[kind]) == {"hybrid", "dense", "lexical", "dense_within_filter"}
