import base64
import errno
import math
import os
import random
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_paper
from hypothesis import given, settings
from hypothesis import strategies as st
from storage import (
    SPEC,
    Fault,
    Shelf,
    add,
    assert_alike,
    assert_answers,
    assert_words_and_columns,
    built_at_once,
    clone,
    embedding_of,
    files_below,
    hurry,
    memory_folder,
    name_as_current,
    rewrite_manifest,
    rich_paper,
    works_of,
)

from semsearch import durable
from semsearch.durable import exclusive_lock
from semsearch.encoders import EncoderSpec
from semsearch.errors import (
    GenerationDamageError,
    IndexBusyError,
    LibraryDamageError,
    NoGenerationError,
    NotEncodedError,
    SemsearchError,
)
from semsearch.generation import Generation, IndexFolder, files, open_current, open_generation
from semsearch.library import Library
from semsearch.publishing import check_made_from, publish_pending
from semsearch.queries import parse_query
from semsearch.vectors import Vectors

ORIGINS = ("one", "two", "three")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def memory() -> Iterator[Path]:
    with memory_folder() as path:
        yield path


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
    shelf.add([rich_paper(number, 0) for number in range(10)])
    shelf.publish()
    parent, child = (shelf.folder.generation(number) for number in (1, 2))
    before = files_below(parent)
    shelf.add([rich_paper(20, 0), rich_paper(3, 1)])
    shelf.delete(["p5"])
    opened = shelf.publish()
    assert files_below(parent) == before
    assert rows_of_segments(opened) == [10, 2]
    assert opened.tombstones.tolist() == [3, 5]
    kept = [name for name in before if name.startswith(("segments", "lexical")) and not name.endswith(".json")]
    assert len(kept) == 4 + 6, "a segment, and a part of the lexical index"
    for name in kept:
        assert (child / name).stat().st_ino == (parent / name).stat().st_ino
    after = files_below(child)
    own = {name for name in after if (child / name).stat().st_nlink == 1}
    assert {name for name in own if "lexical" not in name} == {
        *("manifest.json", "tombstones.npy", "works.npy"),
        *(f"segments/000002/{name}" for name in ("vectors.faiss", "seqs.npy", "columns.npy", "traits.npy")),
    }
    assert own | set(kept) == set(after)
    assert_answers(opened, shelf.oracle.vectors())
    assert_answers(open_generation(shelf.folder, 1), shelf.oracle.vectors(10))
    shutil.rmtree(child)
    assert files_below(parent) == before
    assert_answers(open_generation(shelf.folder, 1), shelf.oracle.vectors(10))


def test_a_parent_that_is_open_is_not_read_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.add([rich_paper(number, 0) for number in range(100)])
    first = shelf.publish()
    shelf.add([rich_paper(200, 0)])
    read: list[str] = []
    scanned: list[int] = []
    real_digest, real_nearest = durable.digest_differs, Vectors.nearest

    def digest_differs(path: Path, record: Any) -> str | None:
        read.append(path.relative_to(shelf.folder.generations).as_posix())
        return real_digest(path, record)

    def nearest(vectors: Vectors, *rest: Any) -> Any:
        scanned.append(vectors.rows)
        return real_nearest(vectors, *rest)

    monkeypatch.setattr(files, "digest_differs", digest_differs)
    monkeypatch.setattr(Vectors, "nearest", nearest)
    second = publish_pending(shelf.folder, shelf.library, SPEC, first)
    assert second.segments[0] is first.segments[0]
    assert sorted(read) == [
        *(f"000002.tmp/segments/000002/{name}" for name in ("columns.npy", "seqs.npy", "traits.npy", "vectors.faiss")),
        *(f"000002.tmp/{name}" for name in ("tombstones.npy", "works.npy")),
    ]
    assert set(scanned) == {1}, "the parent's rows have been asked before"
    monkeypatch.undo()
    for opened in (second, open_current(shelf.folder)):
        assert_answers(opened, shelf.oracle.vectors())
        assert_words_and_columns(opened, shelf.oracle.papers())
    stale = publish_pending(shelf.folder, shelf.library, SPEC, first)
    assert stale.name == second.name, "it was not the live one any more"
    assert stale.segments[0] is first.segments[0]


def test_canaries_are_taken_over_as_long_as_they_know_the_answers(shelf: Shelf) -> None:
    def canaries() -> tuple[list[str], list[int]]:
        opened = shelf.publish()
        for canary in opened.manifest.canaries:
            vector = np.frombuffer(base64.b64decode(canary.vector), dtype="<f4")
            scores, rows = opened.nearest(vector[None, :], 10)
            np.testing.assert_allclose(canary.scores, scores[0], atol=1e-6)
            assert set(canary.seqs) == set(opened.seqs_at(rows[0]).tolist())
        vectors = [canary.vector for canary in opened.manifest.canaries]
        return vectors, sorted({seq for canary in opened.manifest.canaries for seq in canary.seqs})

    shelf.add([make_paper(number) for number in range(100)])
    chosen, answers = canaries()
    assert len(chosen) == 4
    shelf.add([make_paper(number) for number in range(100, 130)])
    taken_over, more_answers = canaries()
    assert taken_over == chosen
    assert set(more_answers) - set(answers) & set(range(101, 131)), "the new ones are among the nearest of some"
    silent = next(number for number in range(100) if number + 1 not in more_answers)
    shelf.delete([f"p{silent}"])
    assert canaries()[0] == chosen
    told = next(number for number in range(100) if number + 1 in more_answers)
    shelf.delete([f"p{told}"])
    made_anew, _ = canaries()
    assert made_anew != chosen
    shelf.add([make_paper(number) for number in range(200, 500)])
    assert canaries()[0] != made_anew, "most is new"
    assert_answers(open_current(shelf.folder), shelf.oracle.vectors())


def test_canaries_are_asked_anew_when_a_row_comes_back(shelf: Shelf) -> None:
    shelf.add([make_paper(number) for number in range(30)], "one")
    shelf.publish()
    shelf.add([make_paper(4, words="of two")], "two")
    shelf.publish()
    shelf.delete(["p4"], "two")
    revived = shelf.publish()
    for canary in revived.manifest.canaries:
        vector = np.frombuffer(base64.b64decode(canary.vector), dtype="<f4")
        np.testing.assert_allclose(canary.scores, revived.nearest(vector[None, :], 10)[0][0], atol=1e-6)
    assert_answers(open_current(shelf.folder), shelf.oracle.vectors())


@pytest.mark.parametrize("name", ["segments/000001/vectors.faiss", "lexical/*.idx"])
def test_an_open_parent_whose_file_was_cut_is_not_extended(shelf: Shelf, name: str) -> None:
    shelf.add([rich_paper(number, 0) for number in range(10)])
    first = shelf.publish()
    (cut,) = shelf.folder.generation(1).glob(name)
    shelf.add([rich_paper(20, 0)])
    os.truncate(cut, cut.stat().st_size - 1)
    with pytest.raises((GenerationDamageError, OSError)):
        publish_pending(shelf.folder, shelf.library, SPEC, first)
    assert shelf.folder.published() == [1]
    healed = shelf.publish()
    assert healed.manifest.parent is None
    assert_answers(healed, shelf.oracle.vectors())


def test_a_generation_outlives_its_parent(shelf: Shelf) -> None:
    shelf.add([rich_paper(number, 0) for number in range(10)])
    shelf.publish()
    shelf.add([rich_paper(20, 0)])
    shelf.delete(["p5"])
    opened = shelf.publish()
    before = files_below(shelf.folder.generation(2))
    shutil.rmtree(shelf.folder.generation(1))
    assert files_below(shelf.folder.generation(2)) == before
    for each in (opened, open_current(shelf.folder)):
        assert_answers(each, shelf.oracle.vectors())
        assert_words_and_columns(each, shelf.oracle.papers())


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
    assert_words_and_columns(revived, shelf.oracle.papers())
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
    assert_words_and_columns(revived, shelf.oracle.papers())


def test_a_work_falls_apart_when_the_paper_that_held_it_together_goes_and_comes_back_with_it(shelf: Shelf) -> None:
    ada, blaise, both = (rich_paper(number, 0) for number in (0, 3, 6))
    shelf.add([ada, blaise, *(rich_paper(number, 0) for number in (1, 2))])
    assert works_of(shelf.publish()) == {frozenset({seq}) for seq in (1, 2, 3, 4)}
    shelf.add([both])
    assert works_of(shelf.publish()) == {frozenset({1, 2, 5}), frozenset({3}), frozenset({4})}
    shelf.add([rich_paper(number, 0) for number in (7, 8, 10, 11)])  # so that the bridge is only marked as dead
    shelf.publish()
    shelf.add([make_paper(6, words="of two")], "two")
    apart = shelf.publish()
    assert apart.tombstones.tolist() == apart.rows_of(np.array([5])).tolist()
    assert {frozenset({1}), frozenset({2})} <= works_of(apart)
    shelf.delete(["p6"], "two")
    assert frozenset({1, 2, 5}) in works_of(shelf.publish())


def test_without_a_space_that_of_the_live_generation_is_meant(shelf: Shelf) -> None:
    shelf.add([make_paper(1)])
    with pytest.raises(NoGenerationError, match=r"no generation in .* can be extended; make one with: semsearch index"):
        publish_pending(shelf.folder, shelf.library, None)
    shelf.publish()
    shelf.add([make_paper(2)])
    assert publish_pending(shelf.folder, shelf.library, None).manifest.encoder == SPEC
    assert_answers(open_current(shelf.folder), shelf.oracle.vectors())


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


def test_a_paper_purged_while_it_is_published_is_said(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.add([make_paper(1), make_paper(2)])
    real = shelf.library.versions_at

    def purged_first(seqs: Sequence[int]) -> Any:
        monkeypatch.undo()
        shelf.delete(["p1"])
        shelf.library.purge(["p1"])
        return real(seqs)

    monkeypatch.setattr(shelf.library, "versions_at", purged_first)
    with pytest.raises(SemsearchError, match="the paper of seq 1 was purged meanwhile; run the same command again"):
        shelf.publish()
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
    monkeypatch.setattr("semsearch.publishing.PUBLISH_WAIT_SECONDS", 0.05)
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
    states: dict[int, object] = {}
    """Of each file and folder, by its inode: how it was when it was last brought to the disk."""
    rename, link, mkdir, real_open = Path.rename, os.link, os.mkdir, open

    def inode(path: str | Path) -> int:
        return os.stat(path).st_ino

    def state(path: Path | int) -> object:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        return sorted(os.listdir(path)) if is_folder else (os.stat(path).st_size, os.stat(path).st_mtime_ns)

    def synced(descriptor: int) -> None:
        events.append(("sync", os.fstat(descriptor).st_ino))
        states[os.fstat(descriptor).st_ino] = state(descriptor)

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

    monkeypatch.setattr(os, "fsync", synced)
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
    files = [path for path in final.rglob("*") if path.is_file() and path.stat().st_nlink == 1]
    assert {path.suffix for path in files} >= {".npy", ".faiss", ".json", ".idx", ".store", ".del"}
    by_tantivy = [path for path in files if path.parent.name == "lexical" and path.suffix != ".json"]
    for path in set(files) - set(by_tantivy):
        assert events.index(("create", inode(path))) < events.index(("sync", inode(path))) < made, path
    for path in by_tantivy:
        assert events.index(("sync", inode(path))) < made, path
    folders = [final, *(path for path in final.rglob("*") if path.is_dir())]
    for path in folders:
        last_entry = max(place for place, event in enumerate(events) if event == ("entry", inode(path)))
        assert any(event == ("sync", inode(path)) for event in events[last_entry + 1 : made]), path
    for path in (*files, *folders):
        assert states[inode(path)] == state(path), f"{path} changed after it was brought to the disk"
    manifest = events.index(("create", inode(final / "manifest.json")))
    others = [events.index(("sync", inode(path))) for path in files if path.name != "manifest.json"]
    assert max(others) < manifest, "the manifest comes last"
    assert ("sync", inode(folder.generations)) in events[made:named]
    assert ("sync", inode(folder.current)) in events[made:named]
    assert ("sync", inode(folder.path)) in events[named:]
    renames = [event for event in events if event[0] == "rename"]
    assert renames == [("rename", "lexical.tmp > lexical"), events[made], events[named]]


def test_an_fsync_that_fails_for_any_lexical_file_abandons_the_publish(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of those that tantivy wrote and believes to be on the disk."""
    shelf.add([rich_paper(number, 0) for number in range(10)])
    shelf.publish()
    shelf.add([rich_paper(20, 0)])
    shelf.delete(["p3"])
    before = files_below(shelf.folder.generations)
    current = shelf.folder.current.read_bytes()
    failing = 0
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        if inode in {path.stat().st_ino for path in shelf.folder.generations.glob("*.tmp/lexical/*")}:
            assert inode not in synced, "never tried again"
            synced.append(inode)
            if len(synced) == failing:
                raise OSError(errno.EIO, "Input/output error")

    while len(synced) == failing:
        failing += 1
        synced.clear()
        with monkeypatch.context() as patch, suppress(OSError):
            patch.setattr(os, "fsync", fsync)
            shelf.publish()
        if len(synced) == failing:
            assert files_below(shelf.folder.generations) == before
            assert [path.name for path in shelf.folder.generations.iterdir()] == ["000001"]
            assert shelf.folder.current.read_bytes() == current
    assert failing == 6 + 1 + 2 + 1, "the new part's files, the old one's deletions, two lists; and then none is left"
    assert_words_and_columns(open_current(shelf.folder), shelf.oracle.papers())


def test_a_file_that_takes_no_more_wherever_it_is_written_abandons_the_publish(shelf: Shelf) -> None:
    """A real limit, which tantivy's own files meet as well."""
    shelf.add([rich_paper(number, 0) for number in range(30)])
    shelf.publish()
    shelf.add([rich_paper(number, 1) for number in range(20, 50)])
    shelf.delete(["p3"])
    generations = files_below(shelf.folder.generations)
    current = shelf.folder.current.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    failures = set()
    for limit in (0, 50, 100, 200, 400, 800, 1_600, 3_200, 6_400):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            shelf.publish()
        except (OSError, SemsearchError, RuntimeError) as error:
            failures.add(type(error).__name__)
        else:
            raise AssertionError(f"no file had more than {limit} bytes")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert files_below(shelf.folder.generations) == generations
        assert shelf.folder.current.read_bytes() == current
        assert not shelf.folder.quarantine.exists()
    assert_words_and_columns(shelf.publish(), shelf.oracle.papers())
    assert failures == {"OSError"}


# A fault at every step


@pytest.mark.parametrize(("existing", "code"), [(True, errno.EIO), (True, errno.EMFILE), (False, errno.ENOSPC)])
def test_a_fault_at_any_step_leaves_the_old_or_the_new_state(
    memory: Path, monkeypatch: pytest.MonkeyPatch, code: int, existing: bool
) -> None:
    base = Shelf(memory / "base")
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
    for at in range(1, 400):
        folder = IndexFolder(clone(base.folder.path, memory / f"at{at}"))
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
    assert places["os.fsync"] >= 20
    assert places["Path.rename"] == 3
    assert {"faiss.write_index", "faiss.read_index", "numpy.load", "CheckedWriter.write", "os.mkdir"} <= set(
        name.removeprefix("semsearch.") for name in places
    )
    assert {"semsearch.generation.files.write_lexical", "semsearch.durable.open"} <= set(places)
    assert ("os.link" in places) == ("tempfile.mkdtemp" in places) == existing, "the parent is opened, and linked"


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
    assert len(list((shelf.folder.generation(count) / "lexical").glob("*.idx"))) < 16, "tantivy merges too"


def test_a_publish_rewrites_no_more_rows_than_it_may(shelf: Shelf) -> None:
    shelf.add([make_paper(number) for number in range(100)])
    shelf.publish()
    sizes = []
    for number in range(100, 120):
        shelf.add([make_paper(number)])
        opened = publish_pending(shelf.folder, shelf.library, SPEC, most_merged=5)
        sizes.append(rows_of_segments(opened))
    assert sizes[4:8] == [[100, 4, 1], [100, 4, 2], [100, 4, 2, 1], [100, 4, 4]]
    assert sizes[-1] == [100, 4, 4, 4, 4, 4]
    assert_answers(opened, shelf.oracle.vectors())
    assert rows_of_segments(shelf.publish()) == sizes[-1], "nothing is new"
    shelf.add([make_paper(number) for number in range(120, 123)])
    assert rows_of_segments(shelf.publish()) == [100, 23]


def test_what_comes_behind_a_seq_is_left_for_later(shelf: Shelf) -> None:
    shelf.add([make_paper(number) for number in range(4)])
    shelf.publish()
    shelf.add([make_paper(4), make_paper(1, words="changed")])
    seen = shelf.oracle.vectors()
    up_to = shelf.library.last_seq()
    shelf.add([make_paper(5), make_paper(1, words="changed again"), make_paper(2, words="changed")])
    shelf.delete(["p4"])
    opened = publish_pending(shelf.folder, shelf.library, SPEC, up_to=up_to)
    assert opened.manifest.last_seq == up_to
    assert_answers(opened, seen)
    assert publish_pending(shelf.folder, shelf.library, SPEC, up_to=up_to - 1).name == opened.name
    assert_answers(shelf.publish(), shelf.oracle.vectors())


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
def test_segments_stay_geometric_whatever_comes(memory: Path, seed: int) -> None:
    shelf = Shelf(memory / "index")
    dice = random.Random(seed)
    written = added = 0
    seen: set[str] = set()
    for _ in range(40):
        papers = [rich_paper(dice.randrange(120), dice.randrange(6)) for _ in range(dice.choice([0, 1, 2, 9]))]
        shelf.add(papers)
        shelf.delete([f"p{dice.randrange(120)}" for _ in range(dice.choice([0, 1, 1, 12]))])
        opened = shelf.publish()
        rows = rows_of_segments(opened)
        assert all(one >= 2 * other for one, other in pairwise(rows)), rows
        assert len(rows) <= math.log2(max(1, sum(rows))) + 1
        for start, size in zip(opened.starts, rows, strict=False):
            dead = ((opened.tombstones >= start) & (opened.tombstones < start + size)).sum()
            assert 2 * dead <= size, "no segment is mostly dead"
        assert opened.lexical.papers == opened.papers == len(shelf.oracle.live())
        added += len(papers)
        written += sum(segment.rows for segment in opened.segments if segment.name not in seen)
        seen |= {segment.name for segment in opened.segments}
    assert written <= 2 * added * (math.log(added, 1.5) + 1)
    assert_words_and_columns(opened, shelf.oracle.papers())
    anew = built_at_once(shelf.library, memory / "anew")
    assert_alike(opened, anew)
    assert max(map(len, works_of(anew))) > 4
    shelf.library.close()


_ids = st.lists(st.sampled_from([f"p{number}" for number in range(7)]), max_size=5, unique=True)
_step: st.SearchStrategy[tuple[str, list[str], Any, int]] = st.one_of(
    st.tuples(st.just("add"), _ids, st.sampled_from(ORIGINS), st.integers(0, 2)),
    st.tuples(st.just("delete"), _ids, st.sampled_from((*ORIGINS, None)), st.just(0)),
    st.tuples(st.sampled_from(["publish", "publish", "lose current", "purge"]), st.just([]), st.none(), st.just(0)),
)


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(_step, min_size=4, max_size=20))
def test_every_state_agrees_with_the_oracle_and_with_a_rebuild(steps: list[Any]) -> None:
    with memory_folder() as memory:
        shelf = Shelf(memory / "index")
        reuse: Generation | None = None
        for kind, ids, origin, edition in [*steps, ("publish", [], None, 0)]:
            if kind == "add":
                shelf.add([rich_paper(int(each[1:]), edition) for each in ids], origin)
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
                reuse = open_current(shelf.folder, reuse)
                for each in (opened, reuse):
                    assert_answers(each, vectors)
                    assert_words_and_columns(each, shelf.oracle.papers())
                assert opened.manifest.last_seq == len(shelf.oracle.changes)
        assert_alike(opened, built_at_once(shelf.library, memory / "anew"))
        shelf.library.close()


def test_scores_after_a_rebuild_are_those_of_an_index_built_at_once(shelf: Shelf) -> None:
    """Before it they need not be: tantivy counts the words of dead papers until it merges their part."""
    for edition in range(4):
        shelf.add([rich_paper(number, edition) for number in range(edition, 20, edition + 1)])
        shelf.delete([f"p{edition}"])
        grown = shelf.publish()
    anew = built_at_once(shelf.library, shelf.folder.path / "anew")
    rewrite_manifest(shelf.folder, 4, lexical_recipe="another")
    name_as_current(shelf.folder, 4)
    rebuilt = shelf.publish()
    assert rebuilt.manifest.parent is None
    differing = 0
    for typed in ("paper", "weighted grammars", "edition2", "author:byron finding7", '"retinal images" kind1', "p4"):
        query = parse_query(typed)
        scores, seqs = grown.lexical.search(query, 100)
        for each in (rebuilt, anew):
            found = each.lexical.search(query, 100)
            np.testing.assert_array_equal(found, anew.lexical.search(query, 100))
            assert sorted(found[1]) == sorted(seqs)
            assert len(seqs) > 0
        differing += not np.array_equal(scores, found[0])
    assert differing, "or this would have been no test"
