import errno
import math
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_paper
from hypothesis import given, settings
from hypothesis import strategies as st
from storage import SPEC, Fault, Shelf, add, assert_answers, clone, embedding_of, files_below, hurry

from semsearch.durable import exclusive_lock
from semsearch.encoders import EncoderSpec
from semsearch.errors import IndexBusyError, LibraryDamageError, NotEncodedError, SemsearchError
from semsearch.generation import Generation, IndexFolder, open_current, open_generation
from semsearch.library import Library
from semsearch.publishing import check_made_from, publish_pending

ORIGINS = ("one", "two", "three")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path / "index")
    yield shelf
    shelf.library.close()


def rows_of_segments(generation: Generation) -> list[int]:
    return [segment.rows for segment in generation.segments]


# What is published


def test_nothing_new_publishes_nothing(shelf: Shelf) -> None:
    shelf.add([make_paper(1)])
    first = shelf.publish()
    before = files_below(shelf.folder.path)
    again = shelf.publish()
    assert again.manifest == first.manifest
    assert files_below(shelf.folder.path) == before


def test_what_is_kept_is_the_parents_own_file_and_the_parent_stays_as_it_was(shelf: Shelf) -> None:
    shelf.add([make_paper(number) for number in range(10)])
    shelf.publish()
    parent = shelf.folder.generation(1)
    before = files_below(parent)
    shelf.add([make_paper(20), make_paper(3, words="changed")])
    shelf.delete(["p5"])
    opened = shelf.publish()
    assert files_below(parent) == before
    assert rows_of_segments(opened) == [10, 2]
    assert opened.tombstones.tolist() == [3, 5]
    for name in ("vectors.faiss", "seqs.npy"):
        mine, theirs = (shelf.folder.generation(number) / "segments/000001" / name for number in (2, 1))
        assert mine.stat().st_ino == theirs.stat().st_ino
        assert not (parent / "segments/000002").exists()
    assert_answers(opened, shelf.oracle.vectors())
    assert_answers(open_generation(shelf.folder, 1), shelf.oracle.vectors(10))


def test_metadata_that_changed_moves_the_row_and_keeps_the_vector(shelf: Shelf) -> None:
    shelf.add([make_paper(number) for number in range(6)])
    first = shelf.publish()
    shelf.add([make_paper(2, venue="A Journal")])
    second = shelf.publish()
    assert (second.papers, second.tombstones.tolist()) == (6, [2])
    np.testing.assert_array_equal(second.vectors_at(np.array([6])), first.vectors_at(np.array([2])))
    assert second.seqs_at(np.array([6])).tolist() == [7]


def test_a_row_that_another_import_had_covered_comes_back_without_being_written_again(shelf: Shelf) -> None:
    shelf.add([make_paper(number) for number in range(10)], "one")
    shelf.publish()
    shelf.add([make_paper(4, words="of two")], "two")
    covered = shelf.publish()
    assert (rows_of_segments(covered), covered.tombstones.tolist()) == ([10, 1], [4])
    shelf.delete(["p4"], "two")
    revived = shelf.publish()
    assert (rows_of_segments(revived), revived.tombstones.tolist()) == ([10], []), "the segment of dead rows is dropped"
    assert_answers(revived, shelf.oracle.vectors())
    assert shelf.oracle.live()["p4"] == 5


def test_a_row_that_a_merge_had_dropped_is_written_again_when_it_comes_back(shelf: Shelf) -> None:
    shelf.add([make_paper(1)], "one")
    shelf.publish()
    shelf.add([make_paper(1, words="of two")], "two")
    assert rows_of_segments(shelf.publish()) == [1]
    shelf.delete(["p1"], "two")
    revived = shelf.publish()
    assert revived.live_seqs().tolist() == [1]
    assert_answers(revived, shelf.oracle.vectors())


def test_purged_papers_are_no_obstacle(shelf: Shelf) -> None:
    shelf.add([make_paper(number) for number in range(8)])
    shelf.publish()
    shelf.delete(["p2"])
    shelf.library.purge(["p2"])
    opened = shelf.publish()
    assert_answers(opened, shelf.oracle.vectors())
    shelf.folder.current.unlink()
    shutil.rmtree(shelf.folder.generations)
    assert_answers(shelf.publish(), shelf.oracle.vectors())


def test_another_encoder_makes_a_whole_generation_of_its_own(shelf: Shelf) -> None:
    shelf.add([make_paper(1), make_paper(2)])
    shelf.publish()
    other = EncoderSpec("other", "e" * 64, 8, 128)
    with pytest.raises(NotEncodedError, match=r"paper 'p1' \(seq 1\) has no embedding of this encoder"):
        publish_pending(shelf.folder, shelf.library, other)
    assert open_current(shelf.folder).manifest.encoder == SPEC
    number = shelf.library.encoder_number(other.fingerprint, other.name)
    shelf.library.add_embeddings([embedding_of(make_paper(each)) for each in (1, 2)], number)
    opened = publish_pending(shelf.folder, shelf.library, other)
    assert (opened.manifest.encoder, opened.manifest.parent, opened.papers) == (other, None, 2)
    assert open_current(shelf.folder).manifest.encoder == other


def test_a_damaged_row_that_is_needed_is_named_and_nothing_is_published(shelf: Shelf) -> None:
    shelf.add([make_paper(1), make_paper(2)])
    first = shelf.publish()
    shelf.add([make_paper(3), make_paper(4)])
    connection = sqlite3.connect(shelf.folder.library)
    connection.execute("UPDATE changes SET content = 'x' WHERE seq = 4")
    connection.commit()
    connection.close()
    with pytest.raises(LibraryDamageError, match=r"paper 'p4' \(seq 4\) fails its digest; .* under another --origin"):
        shelf.publish()
    assert open_current(shelf.folder).manifest == first.manifest
    add(shelf.library, [make_paper(4)], "another")
    assert shelf.publish().live_seqs().tolist() == [1, 2, 3, 5], "the way out that the message names is one"


# A library and generations that do not belong together


def _older_copy(shelf: Shelf, tmp_path: Path) -> Path:
    """Return a backup of the library that is older than what is published then."""
    shelf.add([make_paper(number) for number in range(5)])
    shelf.publish()
    shelf.library._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    backup = tmp_path / "backup.db"
    shutil.copy(shelf.folder.library, backup)
    shelf.add([make_paper(number) for number in range(5, 9)])
    shelf.publish()
    shelf.library.close()
    for file in shelf.folder.path.glob("library.db*"):
        file.unlink()
    shutil.copy(backup, shelf.folder.library)
    return backup


@pytest.mark.parametrize("added", [0, 2, 4, 7])
def test_an_older_copy_of_the_library_is_not_taken_for_the_one_that_was_published(
    shelf: Shelf, tmp_path: Path, added: int
) -> None:
    _older_copy(shelf, tmp_path)
    before = files_below(shelf.folder.generations)
    with Library.open(shelf.folder.library) as library:
        add(library, [make_paper(number) for number in range(100, 100 + added)])
        message = (
            "does not hold change 9 that generation 2 was made from.*Put the newer library back; or, .* remove CURRENT"
        )
        with pytest.raises(LibraryDamageError, match=message):
            publish_pending(shelf.folder, library, SPEC)
        assert files_below(shelf.folder.generations) == before
        shelf.folder.current.unlink()
        shutil.rmtree(shelf.folder.generations)
        opened = publish_pending(shelf.folder, library, SPEC)
        check_made_from(library, opened)
        assert opened.live_seqs().tolist() == list(range(1, 6 + added))


def test_a_log_that_lost_its_end_is_noticed(tmp_path: Path) -> None:
    """SQLite takes a damaged write-ahead log for one that ends there: what came after is gone, without a word."""
    source = Shelf(tmp_path / "source")
    source.add([make_paper(number) for number in range(5)])
    source.library._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    source.add([make_paper(9)])
    source.publish()
    target = IndexFolder(clone(source.folder.path, tmp_path / "target"))  # as a power cut would leave it
    source.library.close()
    log = target.path / "library.db-wal"
    data = bytearray(log.read_bytes())
    data[100] ^= 1
    log.write_bytes(data)
    (target.path / "library.db-shm").unlink()
    with Library.open(target.library) as library:
        assert library.last_seq() == 5
        with pytest.raises(LibraryDamageError, match="it has lost changes"):
            publish_pending(target, library, SPEC)


# One publisher


def test_a_second_publisher_is_turned_away(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semsearch.publishing._PUBLISH_WAIT_SECONDS", 0.05)
    shelf.add([make_paper(1)])
    with (
        exclusive_lock(shelf.folder.publish_lock, "test"),
        pytest.raises(IndexBusyError, match="publish: another process"),
    ):
        shelf.publish()
    assert shelf.publish().papers == 1


_PUBLISHER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from conftest import make_paper
from storage import SPEC, add
from semsearch.generation import IndexFolder
from semsearch.library import Library
from semsearch.publishing import publish_pending
folder = IndexFolder(Path(sys.argv[1]))
library = Library.create(folder.library)
print("ready", flush=True)
for _ in range(100_000):
    first = library.last_seq()
    add(library, [make_paper(number) for number in range(first, first + 2)])
    print(publish_pending(folder, library, SPEC).manifest.last_seq, flush=True)
"""


def test_a_kill_in_the_middle_of_publishes_leaves_a_sound_index(tmp_path: Path) -> None:
    seed = random.Random(3)
    folder = IndexFolder(tmp_path / "index")
    for _ in range(2):
        command = [sys.executable, "-c", _PUBLISHER, str(folder.path), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            for _ in range(seed.randrange(2, 6)):
                acknowledged = int(child.stdout.readline())
            child.kill()
            child.stdout.read()
        opened = open_current(folder)
        assert opened.manifest.last_seq >= acknowledged
        assert not folder.quarantine.exists()
        with Library.open(folder.library) as library:
            replayed = publish_pending(folder, library, SPEC)
            last = library.last_seq()
        assert replayed.live_seqs().tolist() == list(range(1, last + 1))
        assert list(folder.generations.glob("*.tmp")) == []


# The order of the steps


def test_every_step_follows_on_what_is_on_the_disk(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.add([make_paper(number) for number in range(10)])
    shelf.publish()
    shelf.add([make_paper(20)])
    shelf.delete(["p3"])
    events: list[tuple[str, object]] = []
    rename, link, mkdir, real_open = Path.rename, os.link, os.mkdir, open

    def inode(path: str | Path) -> int:
        return os.stat(path).st_ino

    def traced(name: str, call: Callable[..., Any], what: Callable[..., object]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            events.append((name, what(*args)))
            return result

        return run

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = real_open(path, mode, *args, **kwargs)
        if "x" in mode:
            events.append(("create", inode(path)))
            events.append(("entry", inode(Path(path).parent)))
        return file

    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(("sync", os.fstat(descriptor).st_ino)))
    monkeypatch.setattr(os, "link", traced("entry", link, lambda source, target: inode(Path(target).parent)))
    monkeypatch.setattr(os, "mkdir", traced("entry", mkdir, lambda path, *rest: inode(Path(path).parent)))
    monkeypatch.setattr(
        Path, "rename", traced("rename", rename, lambda source, target: f"{source.name} > {target.name}")
    )
    monkeypatch.setattr("semsearch.durable.open", opened, raising=False)
    shelf.publish()
    monkeypatch.undo()

    folder = shelf.folder
    made = events.index(("rename", "000002.tmp > 000002"))
    named = events.index(("rename", "CURRENT.tmp > CURRENT"))
    final = folder.generation(2)
    for path in final.rglob("*"):
        if path.is_file() and "segments/000001" not in path.as_posix():
            assert events.index(("create", inode(path))) < events.index(("sync", inode(path))) < made, path
    for path in [final, *(path for path in final.rglob("*") if path.is_dir())]:
        last_entry = max(place for place, event in enumerate(events) if event == ("entry", inode(path)))
        assert any(event == ("sync", inode(path)) for event in events[last_entry + 1 : made]), path
    manifest = events.index(("create", inode(final / "manifest.json")))
    others = [
        events.index(("sync", inode(path))) for path in (final / "tombstones.npy", final / "segments/000002/seqs.npy")
    ]
    assert max(others) < manifest, "the manifest comes last"
    assert ("sync", inode(folder.generations)) in events[made:named]
    assert ("sync", inode(folder.current)) in events[made:named]
    assert ("sync", inode(folder.path)) in events[named:]
    assert [event for event in events if event[0] == "rename"] == [events[made], events[named]]


# A fault at every step


@pytest.mark.parametrize(("existing", "code"), [(True, errno.EIO), (True, errno.EMFILE), (False, errno.ENOSPC)])
def test_a_fault_at_any_step_leaves_the_old_or_the_new_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, existing: bool
) -> None:
    base = Shelf(tmp_path / "base")
    base.add([make_paper(number) for number in range(6)])
    if existing:
        base.publish()
    first = base.oracle.vectors()
    if existing:
        base.add([make_paper(20), make_paper(2, words="changed")])
        base.delete(["p4"])
    new = base.oracle.vectors()
    library = base.library  # a publish only reads it
    places: dict[str, int] = {}
    for at in range(1, 200):
        folder = IndexFolder(clone(base.folder.path, tmp_path / f"at{at}"))
        before = files_below(folder.generation(1)) if existing else {}
        raised: Exception | None = None
        with monkeypatch.context() as patch:
            fault = Fault(patch, at, lambda: OSError(code, os.strerror(code)))
            try:
                published = publish_pending(folder, library, SPEC)
            except (OSError, SemsearchError) as error:
                raised = error
        if not fault.tripped:
            break
        places[fault.tripped] = places.get(fault.tripped, 0) + 1
        if raised is None:
            assert_answers(published, new)
        if existing or folder.current.exists():
            opened = open_current(folder)
            assert_answers(opened, new if opened.manifest.generation > 1 else first)
            quarantined = folder.quarantine.exists()
            assert not (quarantined and code == errno.EMFILE), "running out of files is not damage"
            if existing and not quarantined:
                assert files_below(folder.generation(1)) == before
        else:
            assert raised is not None
        assert_answers(publish_pending(folder, library, SPEC), new)
        assert_answers(open_current(folder), new)
        assert list(folder.generations.glob("*.tmp")) == []
        shutil.rmtree(folder.path)
    base.library.close()
    assert raised is None and not fault.tripped
    assert places["os.fsync"] >= 12
    assert places["Path.rename"] == 2
    assert {"faiss.write_index", "faiss.read_index", "numpy.load", "CheckedWriter.write", "os.mkdir"} <= set(
        name.removeprefix("semsearch.") for name in places
    )
    assert ("os.link" in places) == existing


# Growth


def test_one_paper_at_a_time_makes_few_segments_and_rewrites_little(shelf: Shelf) -> None:
    written = 0
    count = 70
    seen: set[str] = set()
    for number in range(1, count + 1):
        shelf.add([make_paper(number)])
        opened = shelf.publish()
        rows = rows_of_segments(opened)
        assert sum(rows) == number
        assert len(rows) <= math.log2(number) + 1
        assert all(one >= 2 * other for one, other in pairwise(rows))
        written += sum(segment.rows for segment in opened.segments if segment.name not in seen)
        seen |= {segment.name for segment in opened.segments}
    assert rows == [64, 4, 2], "the binary digits of 70"
    assert written <= count * (math.log2(count) + 1)
    assert_answers(opened, shelf.oracle.vectors())


def test_dead_rows_are_dropped_once_they_are_most_of_a_segment(shelf: Shelf) -> None:
    shelf.add([make_paper(number) for number in range(16)])
    shelf.publish()
    shelf.add([make_paper(number) for number in range(16, 24)])
    shelf.publish()
    shelf.add([make_paper(number) for number in range(24, 28)])
    assert rows_of_segments(shelf.publish()) == [16, 8, 4]
    shelf.delete([f"p{number}" for number in range(16, 20)])
    half = shelf.publish()
    assert (rows_of_segments(half), len(half.tombstones)) == ([16, 8, 4], 4)
    shelf.delete(["p20"])
    most = shelf.publish()
    assert (rows_of_segments(most), len(most.tombstones)) == ([16, 7], 0)
    assert_answers(most, shelf.oracle.vectors())
    shelf.delete([f"p{number}" for number in range(28)])
    assert rows_of_segments(shelf.publish()) == []


@pytest.mark.parametrize("seed", range(3))
def test_segments_stay_geometric_whatever_comes(tmp_path: Path, seed: int) -> None:
    shelf = Shelf(tmp_path / "index")
    dice = random.Random(seed)
    written = added = 0
    seen: set[str] = set()
    for _ in range(40):
        papers = [
            make_paper(dice.randrange(120), words=f"w{dice.randrange(10**6)}") for _ in range(dice.choice([0, 1, 2, 9]))
        ]
        shelf.add(papers)
        shelf.delete([f"p{dice.randrange(120)}" for _ in range(dice.choice([0, 1, 1, 12]))])
        opened = shelf.publish()
        rows = rows_of_segments(opened)
        assert all(one >= 2 * other for one, other in pairwise(rows)), rows
        assert len(rows) <= math.log2(max(1, sum(rows))) + 1
        for start, size in zip(opened.starts, rows, strict=False):
            dead = ((opened.tombstones >= start) & (opened.tombstones < start + size)).sum()
            assert 2 * dead <= size, "no segment is mostly dead"
        added += len(papers)
        written += sum(segment.rows for segment in opened.segments if segment.name not in seen)
        seen |= {segment.name for segment in opened.segments}
    assert written <= 2 * added * (math.log(added, 1.5) + 1)
    shelf.library.close()


_ids = st.lists(st.sampled_from([f"p{number}" for number in range(7)]), max_size=5, unique=True)
_step: st.SearchStrategy[tuple[str, list[str], Any, int]] = st.one_of(
    st.tuples(st.just("add"), _ids, st.sampled_from(ORIGINS), st.integers(0, 2)),
    st.tuples(st.just("delete"), _ids, st.sampled_from((*ORIGINS, None)), st.just(0)),
    st.tuples(st.sampled_from(["publish", "publish", "lose current", "purge"]), st.just([]), st.none(), st.just(0)),
)


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(_step, min_size=4, max_size=20))
def test_every_state_agrees_with_the_oracle(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    path = tmp_path_factory.mktemp("walk")
    shelf = Shelf(path / "index")
    reuse: Generation | None = None
    for kind, ids, origin, words in [*steps, ("publish", [], None, 0)]:
        if kind == "add":
            shelf.add([make_paper(int(each[1:]), words=f"words {each} {words}") for each in ids], origin)
        elif kind == "delete":
            shelf.delete(ids, origin)
        elif kind == "purge":
            every = {about for about, _, _ in shelf.oracle.changes}
            shelf.library.purge(sorted(every - set(shelf.oracle.live())))
        elif kind == "lose current":
            shelf.folder.current.unlink(missing_ok=True)
        else:
            opened = shelf.publish()
            vectors = shelf.oracle.vectors()
            assert opened.live_seqs().tolist() == shelf.library.all_live_seqs(shelf.library.last_seq()).tolist()
            assert_answers(opened, vectors)
            reuse = open_current(shelf.folder, reuse)
            assert_answers(reuse, vectors)
            assert opened.manifest.last_seq == len(shelf.oracle.changes)
    shelf.library.close()
    shutil.rmtree(path)
