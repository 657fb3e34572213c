import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import make_paper
from storage import (
    SPEC,
    Fault,
    Shelf,
    assert_alike,
    assert_answers,
    assert_words_and_columns,
    built_at_once,
    clone,
    files_below,
    hurry,
    memory_folder,
    rich_paper,
    works_of,
)

from semsearch import merging as room
from semsearch.durable import exclusive_lock
from semsearch.errors import IndexBusyError, IndexMissingError, SemsearchError
from semsearch.generation import Generation, IndexFolder, MergedSegment, open_current, write_merged
from semsearch.merging import due_merge, merge_segments
from semsearch.publishing import papers_at, publish_pending


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def memory() -> Iterator[Path]:
    with memory_folder() as path:
        yield path


@pytest.fixture
def shelf(memory: Path) -> Iterator[Shelf]:
    shelf = Shelf(memory / "index")
    yield shelf
    shelf.library.close()


def add_little(shelf: Shelf, numbers: range, most_merged: int = 0) -> Generation:
    """Publish these papers one by one, with next to no merging."""
    for number in numbers:
        shelf.add([rich_paper(number, 0)])
        opened = publish_pending(shelf.folder, shelf.library, SPEC, most_merged=most_merged)
    return opened


def rows_of_segments(generation: Generation) -> list[int]:
    return [segment.rows for segment in generation.segments]


def merged(shelf: Shelf, spared_rows: int = 0) -> Generation:
    generation = merge_segments(shelf.folder, spared_rows)
    assert generation is not None
    return generation


def assert_whole(shelf: Shelf, opened: Generation) -> None:
    for each in (opened, open_current(shelf.folder)):
        assert_answers(each, shelf.oracle.vectors())
        assert_words_and_columns(each, shelf.oracle.papers())


# What is due


def generation_of(*segments: tuple[int, int]) -> Any:
    """Return what is asked of a generation with segments of so many rows, so many of them dead."""
    starts = np.cumsum([0, *(rows for rows, _ in segments)]).tolist()
    dead = [start + row for start, (_, count) in zip(starts, segments, strict=False) for row in range(count)]
    return SimpleNamespace(
        segments=[SimpleNamespace(rows=rows) for rows, _ in segments],
        starts=starts,
        tombstones=np.array(dead, dtype=np.int64),
    )


@pytest.mark.parametrize(
    ("segments", "spared", "expected"),
    [
        ([], 0, None),
        ([(9, 0)], 0, None),
        ([(9, 0), (4, 0), (2, 0), (1, 0)], 0, None),
        ([(9, 0), (4, 0), (3, 0)], 0, (0, 3)),
        ([(99, 0), (4, 0), (3, 0)], 0, (1, 3)),
        ([(99, 0), (4, 0), (3, 0), (2, 0), (1, 0)], 0, None),
        ([(99, 0), (4, 0), (3, 0), (2, 0), (2, 0)], 0, (1, 5)),
        ([(99, 0), (40, 0), (30, 0), (2, 0), (2, 0)], 4, (0, 3)),
        ([(99, 0), (40, 0), (30, 0), (2, 0), (2, 0)], 3, None),
        ([(9, 0), (8, 0)], 100, None),
        ([(9, 5)], 0, (0, 1)),
        ([(9, 4)], 0, None),
        ([(9, 9)], 0, None),
        ([(90, 50), (20, 0), (10, 0)], 0, (0, 3)),
        ([(90, 0), (20, 0), (20, 20)], 0, None),
        ([(90, 0), (20, 20), (20, 0)], 0, (1, 3)),
    ],
)
def test_what_is_due(segments: list[tuple[int, int]], spared: int, expected: tuple[int, int] | None) -> None:
    assert due_merge(generation_of(*segments), spared) == expected


# What a merge leaves


def test_a_merge_changes_nothing_but_the_segments(shelf: Shelf, memory: Path) -> None:
    shelf.add([rich_paper(number, 0) for number in range(10)])
    shelf.publish()
    before = add_little(shelf, range(10, 18))
    shelf.delete(["p3", "p12"])
    shelf.add([rich_paper(14, 1)])
    before = publish_pending(shelf.folder, shelf.library, SPEC, most_merged=0)
    assert rows_of_segments(before) == [10, *[1] * 9]
    parent = files_below(shelf.folder.generation(before.manifest.generation))
    after = merged(shelf)
    assert rows_of_segments(after) == [16]
    assert_whole(shelf, after)
    assert works_of(after) == works_of(before)
    assert_alike(after, built_at_once(shelf.library, memory / "anew"))
    assert (after.manifest.last_seq, after.manifest.last_change) == (
        before.manifest.last_seq,
        before.manifest.last_change,
    )
    assert after.manifest.parent == before.manifest.generation
    assert [canary.seqs for canary in after.manifest.canaries] == [canary.seqs for canary in before.manifest.canaries]
    assert files_below(shelf.folder.generation(before.manifest.generation)) == parent
    assert not shelf.folder.merging.exists()
    assert merge_segments(shelf.folder) is None, "nothing is due any more"
    assert_whole(shelf, shelf.publish())


def test_what_was_added_last_is_left_to_who_adds(shelf: Shelf) -> None:
    shelf.add([rich_paper(number, 0) for number in range(40)])
    shelf.publish()
    for start in (40, 45, 50):
        shelf.add([rich_paper(number, 0) for number in range(start, start + 5)])
        publish_pending(shelf.folder, shelf.library, SPEC, most_merged=0)
    add_little(shelf, range(55, 58))
    after = merged(shelf, spared_rows=3)
    assert rows_of_segments(after) == [40, 15, 1, 1, 1]
    assert_whole(shelf, after)


def test_dead_rows_go_and_pairs_stay(shelf: Shelf) -> None:
    shelf.add([rich_paper(number, 0) for number in range(20)])
    shelf.publish()
    shelf.add([rich_paper(number, 0) for number in range(20, 32)])
    publish_pending(shelf.folder, shelf.library, SPEC, most_merged=0)
    shelf.delete([f"p{number}" for number in range(0, 20, 3)])
    before = publish_pending(shelf.folder, shelf.library, SPEC, most_merged=0)
    assert rows_of_segments(before) == [20, 12]
    assert len(before.tombstones) == 7
    assert rows_of_segments(merged(shelf)) == [25]
    assert works_of(open_current(shelf.folder)) == works_of(before)
    assert_whole(shelf, open_current(shelf.folder))


# What happens meanwhile


def interrupted(monkeypatch: pytest.MonkeyPatch, meanwhile: Any) -> None:
    """Let something happen between the writing of a merged segment and its publishing."""

    def write(*arguments: Any) -> MergedSegment:
        segment = write_merged(*arguments)
        meanwhile()
        return segment

    monkeypatch.setattr("semsearch.merging.write_merged", write)


def test_what_comes_and_goes_meanwhile_is_kept(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.add([rich_paper(number, 0) for number in range(10)])
    shelf.publish()
    shelf.add([rich_paper(number, 0) for number in range(10, 18)])
    publish_pending(shelf.folder, shelf.library, SPEC, most_merged=0)

    def meanwhile() -> None:
        shelf.add([rich_paper(30, 0), rich_paper(4, 1)])
        shelf.delete(["p12", "p13"])
        publish_pending(shelf.folder, shelf.library, SPEC, most_merged=0)

    interrupted(monkeypatch, meanwhile)
    after = merged(shelf)
    assert rows_of_segments(after) == [18, 2]
    assert len(after.tombstones) == 3
    assert_whole(shelf, after)
    monkeypatch.undo()
    hurry(monkeypatch)
    shelf.add([rich_paper(12, 0)], "two")
    assert_whole(shelf, shelf.publish())


@pytest.mark.parametrize("what", ["merged by another", "came back", "made anew"])
def test_a_merge_that_no_longer_fits_comes_to_nothing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    shelf.add([rich_paper(number, 0) for number in range(10)])
    shelf.publish()
    shelf.add([rich_paper(number, 0) for number in range(10, 18)])
    shelf.add([make_paper(4, title="A paper of two")], "two")
    publish_pending(shelf.folder, shelf.library, SPEC, most_merged=0)

    def meanwhile() -> None:
        if what == "merged by another":
            shelf.add([rich_paper(30, 0)])
            shelf.publish()
            shelf.add([rich_paper(number, 0) for number in range(40, 60)])
        elif what == "came back":
            shelf.delete(["p4"], "two")
        else:
            for path in shelf.folder.generations.iterdir():
                path.rename(shelf.folder.path / f"away-{path.name}")
            shelf.folder.current.unlink()
        publish_pending(shelf.folder, shelf.library, SPEC, most_merged=0 if what == "came back" else None)

    interrupted(monkeypatch, meanwhile)
    assert merge_segments(shelf.folder) is None
    assert_whole(shelf, open_current(shelf.folder))


def test_an_older_generation_that_serves_for_a_damaged_one_is_not_merged(shelf: Shelf) -> None:
    add_little(shelf, range(5))
    (shelf.folder.generation(5) / "tombstones.npy").unlink()
    assert merge_segments(shelf.folder) is None
    assert_whole(shelf, shelf.publish())


def test_one_merge_at_a_time(shelf: Shelf) -> None:
    add_little(shelf, range(4))
    with (
        exclusive_lock(shelf.folder.merge_lock, "test"),
        pytest.raises(IndexBusyError, match="merge: another process"),
    ):
        merge_segments(shelf.folder)
    assert rows_of_segments(merged(shelf)) == [4]


def test_where_nothing_is_there_is_nothing_to_merge(tmp_path: Path) -> None:
    with pytest.raises(IndexMissingError):
        merge_segments(IndexFolder(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_what_a_killed_merge_left_is_removed(shelf: Shelf) -> None:
    add_little(shelf, range(4))
    (shelf.folder.merging / "segment" / "segments").mkdir(parents=True)
    (shelf.folder.merging / "segment" / "segments" / "rest").write_bytes(b"x")
    assert rows_of_segments(merged(shelf)) == [4]
    assert not shelf.folder.merging.exists()


def test_a_fault_at_any_step_leaves_what_was_there(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Shelf(memory / "base")
    add_little(base, range(4))
    vectors = base.oracle.vectors()
    base.library._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    places: set[str] = set()
    for at in range(1, 300):
        folder = IndexFolder(clone(base.folder.path, memory / f"at{at}"))
        before = files_below(folder.generation(4))
        with monkeypatch.context() as patch:
            fault = Fault(patch, at, lambda: OSError(5, "Input/output error"))
            with suppress(OSError, SemsearchError):
                merge_segments(folder)
        if not fault.tripped:
            break
        places.add(fault.tripped)
        if not folder.quarantine.exists():  # else it was the reading that failed
            assert_answers(open_current(folder), vectors)
            assert files_below(folder.generation(4)) == before
        assert_answers(publish_pending(folder, base.library, SPEC), vectors)
        merge_segments(folder)
        assert_answers(open_current(folder), vectors)
        assert list(folder.generations.glob("*.tmp")) == []
    base.library.close()
    assert not fault.tripped
    assert {"os.link", "os.fsync", "Path.rename", "CheckedWriter.write", "os.mkdir"} <= {
        name.removeprefix("semsearch.") for name in places
    }


# Growth


@pytest.mark.parametrize("seed", range(3))
def test_additions_that_merge_little_and_merges_beside_them_keep_segments_few(memory: Path, seed: int) -> None:
    shelf = Shelf(memory / "index")
    dice = random.Random(seed)
    for step in range(60):
        shelf.add([rich_paper(dice.randrange(150), dice.randrange(6)) for _ in range(dice.choice([1, 1, 2, 5]))])
        shelf.delete([f"p{dice.randrange(150)}" for _ in range(dice.choice([0, 1, 6]))])
        opened = publish_pending(shelf.folder, shelf.library, SPEC, most_merged=8)
        if step % 4 == 3:
            while due_merge(open_current(shelf.folder), 8):
                assert merge_segments(shelf.folder, 8) is not None
            opened = open_current(shelf.folder)
            large = [segment.rows for segment in opened.segments]
            while large and sum(large) and large[-1] <= 8:
                large.pop()
            assert len(large) <= 6, "twice each other's size"
    assert_whole(shelf, opened)
    assert_alike(opened, built_at_once(shelf.library, memory / "anew"))
    shelf.library.close()


def test_merges_and_additions_at_once(shelf: Shelf) -> None:
    failures: list[BaseException] = []
    done = threading.Event()
    merges = 0

    def merge() -> None:
        nonlocal merges
        try:
            while not done.is_set():
                merges += merge_segments(shelf.folder, 3) is not None
        except BaseException as error:
            failures.append(error)

    shelf.publish()
    merger = threading.Thread(target=merge)
    merger.start()
    for number in range(60):
        shelf.add([rich_paper(number, 0)])
        shelf.delete([f"p{number - 5}"] if number % 3 == 0 and number > 5 else [])
        opened = publish_pending(shelf.folder, shelf.library, SPEC, most_merged=3)
    done.set()
    merger.join(60)
    assert failures == []
    assert merges > 0
    assert opened.manifest.last_seq == len(shelf.oracle.changes)
    assert_whole(shelf, open_current(shelf.folder))


def test_a_merge_of_a_paper_that_is_purged_meanwhile_is_said(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    add_little(shelf, range(4))
    real = papers_at

    def purged_first(*arguments: Any) -> Any:
        monkeypatch.undo()
        shelf.delete(["p2"])
        shelf.library.purge(["p2"])
        return real(*arguments)

    monkeypatch.setattr(room, "papers_at", purged_first)
    with pytest.raises(SemsearchError):
        merge_segments(shelf.folder)
    assert not shelf.folder.merging.exists()
    assert_whole(shelf, shelf.publish())
