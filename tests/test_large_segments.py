"""Segments that are searched by way of lists: written, linked, merged, opened, found damaged; here from 300 rows on."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_paper
from storage import SPEC, Shelf, assert_answers, memory_folder, vector_of

from semsearch.errors import GenerationDamageError
from semsearch.generation import Generation, IndexFolder, files, open_current, open_generation
from semsearch.manifest import Manifest
from semsearch.merging import merge_segments
from semsearch.publishing import publish_pending
from semsearch.vectors import Lists
from semsearch.vectors import lists as lists_room
from semsearch.vectors import nearest as nearest_room
from semsearch.vectors import tuning as tuning_room

FROM = 300


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LISTS_FROM", FROM)
    monkeypatch.setattr(nearest_room, "_FEW_ROWS", 20)
    monkeypatch.setattr(lists_room, "NEAREST_ROWS", 50)
    monkeypatch.setattr(tuning_room, "NEAREST_ROWS", 50)
    monkeypatch.setattr(lists_room, "_FEWEST_CANDIDATES", 50)


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    with memory_folder() as path:
        shelf = Shelf(path / "index")
        shelf.add([make_paper(number) for number in range(600)])
        yield shelf
        shelf.library.close()


def lists_of(opened: Generation, folder: IndexFolder) -> list[Path]:
    return sorted(folder.generation(opened.manifest.generation).rglob("lists.faiss"))


def recall(opened: Generation, shelf: Shelf) -> float:
    """Return which part of the ten nearest is found, compared with a numpy matrix product."""
    vectors = shelf.oracle.vectors()
    seqs, matrix = np.array(list(vectors)), np.stack(list(vectors.values()))
    queries = np.stack([vector_of(f"query {number}") for number in range(60)])
    _, rows = opened.nearest(queries, 10)
    true = seqs[np.argsort(-(queries @ matrix.T), axis=1)[:, :10]]
    return float(np.mean([np.isin(opened.seqs_at(some), best).mean() for some, best in zip(rows, true, strict=True)]))


def test_the_manifest_tells_how_good_the_lists_are(shelf: Shelf) -> None:
    opened = shelf.publish()
    (segment,) = opened.manifest.segments
    assert segment.probing is not None
    assert opened.manifest.approximate
    assert opened.manifest.recall_at_10 == segment.probing.recall_at_10 < 1
    assert len(lists_of(opened, shelf.folder)) == 1
    assert Manifest.from_bytes(opened.manifest.to_bytes()) == opened.manifest
    assert open_current(shelf.folder).manifest == opened.manifest


def test_exact_search_is_exact_and_the_lists_are_nearly(shelf: Shelf) -> None:
    opened = shelf.publish()
    queries = np.stack([vector_of(f"query {number}") for number in range(20)])
    vectors = shelf.oracle.vectors()
    truth = -np.sort(-(queries @ np.stack(list(vectors.values())).T), axis=1)
    np.testing.assert_allclose(opened.nearest(queries, 10, exact=True)[0], truth[:, :10], atol=1e-6)
    for query, best in zip(queries, truth, strict=True):
        np.testing.assert_allclose(opened.nearest_to(query, 10, exact=True)[0], best[:10], atol=1e-6)
    assert 0.5 < recall(opened, shelf) < 1


def test_small_additions_link_the_lists_and_have_none_of_their_own(shelf: Shelf) -> None:
    first = shelf.publish()
    shelf.add([make_paper(number) for number in range(600, 650)])
    shelf.delete(["p5", "p6"])
    second = shelf.publish()
    assert [segment.probing is not None for segment in second.manifest.segments] == [True, False]
    (old,), (new,) = lists_of(first, shelf.folder), lists_of(second, shelf.folder)
    assert old.stat().st_ino == new.stat().st_ino
    assert second.manifest.recall_at_10 > first.manifest.recall_at_10, "the new rows are looked at one by one"
    _, rows = second.nearest(vector_of("any")[None, :], 648)
    assert sorted(second.seqs_at(rows[0]).tolist()) == second.live_seqs().tolist()
    for number in (601, 649):
        _, rows = second.nearest(vector_of(make_paper(number).text)[None, :], 1)
        assert second.ids_at(rows[0]) == [f"p{number}"]


def test_merged_small_segments_become_a_large_one(shelf: Shelf) -> None:
    shelf.publish()
    for start in (600, 750):
        shelf.add([make_paper(number) for number in range(start, start + 150)])
        opened = publish_pending(shelf.folder, shelf.library, SPEC, most_merged=0)
    assert [segment.rows for segment in opened.segments] == [600, 150, 150]
    merged = merge_segments(shelf.folder)
    assert merged is not None
    assert [(segment.rows, segment.record.probing is not None) for segment in merged.segments][-1][1]
    assert recall(open_current(shelf.folder), shelf) > 0.5


def test_a_segment_that_shrinks_loses_its_lists(shelf: Shelf) -> None:
    shelf.publish()
    shelf.delete([f"p{number}" for number in range(400)])
    opened = shelf.publish()
    assert not opened.manifest.approximate
    assert lists_of(opened, shelf.folder) == []
    assert_answers(opened, shelf.oracle.vectors())


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "other"])
def test_damaged_lists_are_not_searched(shelf: Shelf, damage: str) -> None:
    opened = shelf.publish()
    (path,) = lists_of(opened, shelf.folder)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-1] if damage == "cut" else b"x" * len(content) if damage == "other" else content)
    with pytest.raises(GenerationDamageError, match=r"lists\.faiss"):
        open_generation(shelf.folder, opened.manifest.generation)


def test_lists_of_other_rows_are_refused(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = shelf.publish()
    number = opened.manifest.generation
    original = Lists.__init__

    def fewer(self: Lists, path: Path) -> None:
        original(self, path)
        self.rows = 599

    monkeypatch.setattr(Lists, "__init__", fewer)
    with pytest.raises(GenerationDamageError, match=r"lists\.faiss and .* are not of 600 rows"):
        open_generation(shelf.folder, number)


def test_canaries_that_lists_no_longer_answer_are_made_anew(shelf: Shelf) -> None:
    """As it may be where rows have died, and other lists are looked through; here it is the answer that is another."""
    first = shelf.publish()
    canary, *others = first.manifest.canaries
    far = [seq for seq in range(1, 601) if seq not in canary.seqs][:3]
    answer = replace(canary, seqs=(*far, *canary.seqs[3:]))
    first.manifest = replace(first.manifest, canaries=(answer, *others))
    shelf.add([make_paper(600)])
    second = publish_pending(shelf.folder, shelf.library, SPEC, parent=first)
    assert len(second.segments) == 2
    assert far[0] not in second.manifest.canaries[0].seqs
    assert open_current(shelf.folder).name == second.name
