import dataclasses
import errno
import gc
import json
import logging
import os
import random
import resource
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from conftest import make_paper
from numpy.typing import NDArray
from storage import (
    SPEC,
    Shelf,
    assert_answers,
    assert_words_and_columns,
    clone,
    files_below,
    hurry,
    memory_folder,
    name_as_current,
    rewrite_manifest,
    rich_paper,
    seqs_with,
    unit_rows,
    vector_of,
    works_of,
)

from semsearch.durable import FileRecord, digest_differs, exclusive_lock, sync_file
from semsearch.errors import (
    GenerationDamageError,
    IndexMissingError,
    NoGenerationError,
    OldFormatError,
    SemsearchError,
)
from semsearch.generation import (
    Draft,
    Generation,
    IndexFolder,
    SegmentDraft,
    current_generation,
    files,
    open_current,
    open_generation,
    opening,
    publish,
    writing,
)
from semsearch.generation.folder import NOT_DAMAGE
from semsearch.lexical import LexicalIndex, write_lexical
from semsearch.library import Library
from semsearch.manifest import FORMAT_VERSION, Manifest
from semsearch.papers import Paper
from semsearch.publishing import publish_pending

Vectors = dict[int, NDArray[np.float32]]


class Base:
    """An index of three generations, of which the third shares a segment's files with the second.

    The lexical index of the third has a part of each of the three.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        shelf = Shelf(path)
        self.states: dict[int, Vectors] = {}
        for papers, gone in ((range(20), []), (range(10, 40), ["p3"]), (range(40, 44), ["p1", "p12"])):
            shelf.add([rich_paper(number, len(papers)) for number in papers])
            shelf.delete(gone)
            opened = shelf.publish()
            self.states[opened.manifest.generation] = shelf.oracle.vectors()
        self.papers = shelf.oracle.papers()
        self.facets = opened.facets(opened.live, 100)
        self.library = shelf.library
        self.library._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.files = files_below(path)

    def generation(self, number: int) -> dict[str, bytes]:
        """Return the files of a generation as they were published."""
        start = f"generations/{number:06d}/"
        return {name.removeprefix(start): data for name, data in self.files.items() if name.startswith(start)}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def base(memory: Path) -> Iterator[Base]:
    base = Base(memory / "base")
    yield base
    base.library.close()


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    with memory_folder() as path:
        yield path


@pytest.fixture
def folder(base: Base, tmp_path: Path) -> IndexFolder:
    """Return a copy of the index to do anything with."""
    return IndexFolder(clone(base.path, tmp_path / "index"))


def part(folder: IndexFolder, name: str, number: int = 3) -> Path:
    return folder.generation(number) / name


def flip(path: Path, position: int = 200, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(data)


def unlink_first(path: Path) -> None:
    """Give the file an inode of its own, so that what follows damages it alone."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def healed(folder: IndexFolder) -> Generation:
    with Library.open(folder.library) as library:
        return publish_pending(folder, library, SPEC)


# What stands where


def test_the_base_is_what_the_tests_take_it_for(base: Base) -> None:
    names = {name.split("/", 2)[-1] for name in base.files if name.startswith("generations/000003/")}
    written = {"vectors.faiss", "seqs.npy", "columns.npy", "traits.npy"}
    assert {name for name in names if not name.startswith("lexical/")} == {
        *("manifest.json", "tombstones.npy", "works.npy"),
        *(f"segments/{segment}/{file}" for segment in ("000002", "000003") for file in written),
    }
    kinds = Counter(Path(name).suffix for name in names if name.startswith("lexical/"))
    whole = dict.fromkeys((".idx", ".pos", ".term", ".store", ".fast", ".fieldnorm"), 3)
    assert kinds == whole | {".del": 2, ".json": 2}
    for number, vectors in base.states.items():
        assert_answers(open_generation(IndexFolder(base.path), number), vectors)


def test_the_newest_is_served_with_all_it_knows(folder: IndexFolder, base: Base) -> None:
    opened = open_current(folder)
    assert_answers(opened, base.states[3], depth=1_000)
    assert_words_and_columns(opened, base.papers)
    assert 2 < len(works_of(opened)) < opened.papers
    manifest = opened.manifest
    assert (manifest.generation, manifest.parent, manifest.last_seq) == (3, 2, 57)
    assert (manifest.papers, manifest.rows) == (len(base.states[3]), manifest.papers + len(opened.tombstones))
    assert (manifest.encoder, manifest.approximate, manifest.recall_at_10) == (SPEC, False, 1.0)
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert len(manifest.canaries) == 4


def test_rows_join_to_seqs_whether_live_or_dead(folder: IndexFolder) -> None:
    opened = open_current(folder)
    rows = np.arange(opened.manifest.rows)
    seqs = opened.seqs_at(rows)
    np.testing.assert_array_equal(opened.rows_of(seqs), rows)
    np.testing.assert_array_equal(opened.rows_of(np.array([0, 9_999])), [-1, -1])
    assert opened.rows_of(np.empty(0, dtype=np.int64)).tolist() == []
    live = opened.is_live(rows)
    assert sorted(seqs[live].tolist()) == opened.live_seqs().tolist()
    assert rows[~live].tolist() == opened.tombstones.tolist()
    assert opened.is_live(np.array([-1])).tolist() == [False]
    assert opened.tombstones.size == 2


def test_dead_rows_are_never_answers(folder: IndexFolder) -> None:
    opened = open_current(folder)
    for vector in opened.vectors_at(opened.tombstones):
        _, rows = opened.nearest(vector[None, :], opened.papers + 10)
        assert rows.shape == (1, opened.papers)
        assert not np.isin(rows, opened.tombstones).any()


def test_an_index_of_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "index")
    opened = shelf.publish()
    assert_answers(opened, {})
    assert_answers(open_current(shelf.folder), {})
    shelf.add([make_paper(1)])
    shelf.publish()
    shelf.delete(["p1"])
    assert_answers(shelf.publish(), {})
    assert_answers(open_current(shelf.folder), {})
    shelf.library.close()


def test_missing_things_are_told_apart(tmp_path: Path, folder: IndexFolder) -> None:
    with pytest.raises(IndexMissingError, match=r"there is no index in .*create one with: semsearch index"):
        open_current(IndexFolder(tmp_path / "none"))
    shelf = Shelf(tmp_path / "new")
    with pytest.raises(NoGenerationError, match=r"nothing is published in .* yet"):
        open_current(shelf.folder)
    shelf.library.close()
    folder.library.unlink()
    with pytest.raises(IndexMissingError, match=r"library\.db is missing although its index is there; restore it"):
        open_current(folder)


def test_an_index_behind_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    shelf = Shelf(tmp_path / "link" / "index")
    shelf.add([make_paper(1)])
    shelf.publish()
    shelf.library.close()
    assert_answers(open_current(IndexFolder(tmp_path / "real" / "index")), shelf.oracle.vectors())


# A damaged index


Mutation = Callable[[Path, random.Random], object]


def _become_a_folder(path: Path, seed: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _flip_somewhere(path: Path, seed: random.Random) -> None:
    flip(path, seed.randrange(1 << 30), seed.randrange(8))


def _zero_tail(path: Path, seed: random.Random) -> None:
    data = path.read_bytes()
    count = min(len(data), seed.choice([1, 8, 64]))
    path.write_bytes(data[:-count] + bytes(count))


def _zero_some(path: Path, seed: random.Random) -> None:
    data = path.read_bytes()
    start = seed.randrange(len(data))
    path.write_bytes(data[:start] + bytes(len(data[start : start + 16])) + data[start + 16 :])


def _swap(path: Path, seed: random.Random) -> None:
    others = [file for file in path.parent.iterdir() if file.is_file() and file.read_bytes() != path.read_bytes()]
    other = seed.choice(sorted(others))
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


MUTATIONS: dict[str, Mutation] = {
    "flip": _flip_somewhere,
    "flip again": _flip_somewhere,
    "flip a third time": _flip_somewhere,
    "first byte": lambda path, seed: flip(path, 0, seed.randrange(8)),
    "last byte": lambda path, seed: flip(path, -1, seed.randrange(8)),
    "cut to half": lambda path, seed: os.truncate(path, path.stat().st_size // 2),
    "cut to nothing": lambda path, seed: os.truncate(path, 0),
    "one byte less": lambda path, seed: os.truncate(path, path.stat().st_size - 1),
    "one byte more": lambda path, seed: path.write_bytes(path.read_bytes() + b"\0"),
    "all zeros": lambda path, seed: path.write_bytes(bytes(path.stat().st_size)),
    "zero tail": _zero_tail,
    "some zeros": _zero_some,
    "deleted": lambda path, seed: path.unlink(),
    "a folder": _become_a_folder,
    "extra file": lambda path, seed: (path.parent / "extra").write_bytes(b"x"),
    "swapped": _swap,
}

FEW = ("flip", "cut to half", "cut to nothing", "one byte more", "deleted", "swapped")
"""The kinds that files get of which there are many alike."""

SEGMENT_FILES = ("vectors.faiss", "seqs.npy", "columns.npy", "traits.npy")
FILES = (
    "generations/000003/manifest.json",
    "generations/000003/tombstones.npy",
    "generations/000003/works.npy",
    "generations/000003/lexical/meta.json",
    "generations/000003/lexical/.managed.json",
    *(f"generations/000003/segments/{name}/{file}" for name in ("000002", "000003") for file in SEGMENT_FILES),
    "CURRENT",
)


@pytest.mark.parametrize(
    ("name", "alone"),
    [*((name, False) for name in FILES), *((name, True) for name in FILES if "segments/000002" in name)],
)
def test_no_damage_is_served_and_every_damage_is_healed(
    base: Base, memory: Path, name: str, alone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in MUTATIONS:
        if name != "CURRENT" or kind not in ("a folder", "swapped"):
            assert_healed(base, memory, name, kind, caplog, alone=alone)


def test_damage_of_any_lexical_file_is_healed(base: Base, memory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each file, whether all three generations have it or fewer, and whether by link or by a copy of their own."""
    lexical = base.path / "generations/000003/lexical"
    links = Counter(path.stat().st_nlink for path in lexical.iterdir())
    assert set(links) == {1, 2, 3}, "of the third alone, since the second, since the first"
    dice = random.Random(1)
    for path in sorted(lexical.iterdir()):
        name = path.relative_to(base.path).as_posix()
        assert_healed(base, memory, name, dice.choice(FEW), caplog)
        if path.stat().st_nlink > 1:
            assert_healed(base, memory, name, dice.choice(FEW), caplog, alone=True)


def assert_healed(
    base: Base, memory: Path, name: str, kind: str, caplog: pytest.LogCaptureFixture, alone: bool = False
) -> None:
    """Damage this file of a copy, `alone` if no other generation shall have it; check what is served, and healed."""
    caplog.clear()
    folder = IndexFolder(clone(base.path, memory / "damaged"))
    if alone:
        unlink_first(folder.path / name)
    MUTATIONS[kind](folder.path / name, random.Random(f"{name} {kind}"))
    damaged = {number for number in base.states if files_below(folder.generation(number)) != base.generation(number)}
    assert damaged or name == "CURRENT" or kind in ("zero tail", "some zeros"), "zeros may have been there before"
    if alone:
        assert damaged <= {3} or kind == "swapped"
    sound = set(base.states) - damaged
    for _ in range(2):
        if not sound:
            with pytest.raises(NoGenerationError, match="can serve"):
                open_current(folder)
            continue
        opened = open_current(folder)
        assert opened.manifest.generation == max(sound), kind
        assert_answers(opened, base.states[max(sound)])
    if sound and max(sound) < 3:
        assert sorted(path.name[:6] for path in folder.quarantine.iterdir()) == ["000002", "000003"][max(sound) - 1 :]
        assert f"serving generation {max(sound)} instead" in caplog.messages
    rebuilt = publish_pending(folder, base.library, SPEC)
    served = open_current(folder)
    assert served.manifest.generation == rebuilt.manifest.generation
    for opened in (rebuilt, served):
        assert_answers(opened, base.states[3])
        assert seqs_with(opened, "paper") == list(base.papers)
        assert opened.facets(opened.live, 100) == base.facets
    named = current_generation(folder)
    assert named is not None and named[0] == rebuilt.manifest.generation
    shutil.rmtree(folder.path)


def test_shared_damage_is_rebuilt_from_the_library_alone(folder: IndexFolder, base: Base) -> None:
    flip(part(folder, "segments/000002/vectors.faiss"))
    flip(part(folder, "tombstones.npy", 1))
    with pytest.raises(
        NoGenerationError,
        match=r"000002/vectors\.faiss fails its digest.*make it anew, without encoding, with: semsearch",
    ):
        open_current(folder)
    rebuilt = healed(folder)
    assert (rebuilt.manifest.generation, rebuilt.manifest.parent, len(rebuilt.segments)) == (4, None, 1)
    assert_answers(rebuilt, base.states[3])
    assert folder.published() == [4]
    assert sorted(path.name[:6] for path in folder.quarantine.iterdir()) == ["000001", "000002", "000003"]


def test_everything_wrong_is_named_at_once(folder: IndexFolder) -> None:
    flip(part(folder, "tombstones.npy"))
    part(folder, "segments/000003/seqs.npy").unlink()
    part(folder, "stray").write_bytes(b"")
    part(folder, "lexical/.tantivy-meta.lock").write_bytes(b"")
    flip(part(folder, "lexical/meta.json"))
    with pytest.raises(GenerationDamageError) as caught:
        open_generation(folder, 3)
    for line in (
        "tombstones.npy fails its digest",
        "segments/000003/seqs.npy is missing",
        "stray does not belong there",
        "lexical/.tantivy-meta.lock does not belong there",
        "lexical/meta.json fails its digest",
    ):
        assert line in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{}", b"[" * 100_000, b'{"manifest":' * 50_000, b"\xff", b"1" * 9_000]
)
def test_what_is_no_manifest_is_damage(content: bytes) -> None:
    with pytest.raises(GenerationDamageError, match="its manifest cannot be read"):
        Manifest.from_bytes(content)


def test_a_manifest_of_another_generation_is_refused(folder: IndexFolder) -> None:
    shutil.copy(part(folder, "manifest.json", 2), part(folder, "manifest.json"))
    with pytest.raises(GenerationDamageError, match="its manifest is that of generation 2"):
        open_generation(folder, 3)
    with pytest.raises(GenerationDamageError, match="its manifest is not the one that CURRENT names"):
        open_generation(folder, 3, "0" * 64)


def test_a_newer_format_is_refused_and_not_called_damage(folder: IndexFolder) -> None:
    rewrite_manifest(folder, 3, format_version=FORMAT_VERSION + 1, something_new=1)
    folder.current.unlink()
    told = f"has format {FORMAT_VERSION + 1}, this semsearch reads {FORMAT_VERSION}; use the semsearch that wrote it"
    with pytest.raises(SemsearchError, match=told) as caught:
        open_current(folder)
    assert not isinstance(caught.value, GenerationDamageError)
    assert not folder.quarantine.exists()


def _make_old(folder: IndexFolder, number: int) -> None:
    """Make it look like one of format 1, which said less of itself."""
    rewrite_manifest(folder, number, format_version=1)
    for name in ("works.npy", "segments/000002/traits.npy"):
        part(folder, name, number).unlink(missing_ok=True)


def test_an_older_format_is_made_anew_and_not_called_damage(
    folder: IndexFolder, base: Base, caplog: pytest.LogCaptureFixture
) -> None:
    for number in base.states:
        _make_old(folder, number)
    name_as_current(folder, 3)
    before = files_below(folder.generations)
    with pytest.raises(OldFormatError, match=f"it has format 1, this semsearch reads {FORMAT_VERSION}"):
        open_generation(folder, 3)
    with pytest.raises(
        NoGenerationError,
        match=r"generation 3: it has format 1.* make it anew, without encoding, with: semsearch index",
    ):
        open_current(folder)
    rebuilt = healed(folder)
    assert (rebuilt.manifest.generation, rebuilt.manifest.parent) == (4, None)
    assert_answers(open_current(folder), base.states[3])
    assert files_below(folder.generations).items() >= before.items(), "they go when they are old enough"
    assert not folder.quarantine.exists()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    flip(part(folder, "tombstones.npy", 4))
    with pytest.raises(NoGenerationError, match=r"generation 4: tombstones.* generation 3: it has format 1"):
        open_current(folder)
    assert_answers(healed(folder), base.states[3])


def test_of_many_generations_in_quick_succession_one_a_minute_is_kept(folder: IndexFolder, base: Base) -> None:
    now = time.time()
    this_minute = now - now % 60
    ages = {
        4: this_minute - 20 * 60,  # older than a quarter of an hour
        5: this_minute - 5 * 60 + 10,
        6: this_minute - 5 * 60 + 50,  # the last of its minute
        7: this_minute - 3 * 60 + 1,
        8: now - 30,
        9: now - 29,
        10: now - 2,
        11: now - 1,
    }
    for number in (1, 2):
        shutil.rmtree(folder.generation(number))
    folder.generation(3).rename(folder.generation(4))
    for number in range(5, 12):
        clone(folder.generation(4), folder.generation(number))
    for number, published in ages.items():
        os.utime(folder.generation(number), (published, published))
    writing._remove_old(folder, 11)
    assert folder.published() == [11, 10, 9, 8, 7, 6]


def test_old_formats_are_removed_like_all_that_is_old(folder: IndexFolder) -> None:
    for number in (1, 2):
        _make_old(folder, number)
        os.utime(folder.generation(number), (0, 0))
    with Library.open(folder.library) as library:
        library.delete(["p30"])
        publish_pending(folder, library, SPEC)
    assert folder.published() == [4, 3]


@pytest.mark.parametrize("recipe", ["text_recipe", "index_recipe", "lexical_recipe", "traits_recipe", "works_recipe"])
def test_what_other_rules_made_is_not_extended_but_made_anew(folder: IndexFolder, base: Base, recipe: str) -> None:
    rewrite_manifest(folder, 3, **{recipe: "another"})
    name_as_current(folder, 3)
    rebuilt = healed(folder)
    assert (rebuilt.manifest.generation, rebuilt.manifest.parent) == (4, None)
    assert_words_and_columns(rebuilt, base.papers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"papers": 7}, "its manifest counts"),
        ({"rows": 1}, "its manifest counts"),
        ({"works_recipe": 1, "format_version": "2"}, "its manifest cannot be read"),
        ({"segments": [{"name": "000002", "rows": 47}]}, "not 47 of each"),
        ({"surprise": 1}, "its manifest cannot be read"),
        ({"canaries": [{"vector": "AAAA", "seqs": [1], "scores": [1.0]}]}, "buffer size"),
    ],
)
def test_a_manifest_that_disagrees_with_its_files_is_refused(
    folder: IndexFolder, changes: dict[str, object], message: str
) -> None:
    rewrite_manifest(folder, 3, **changes)
    with pytest.raises(GenerationDamageError, match=message):
        open_generation(folder, 3)


def _with_digests(folder: IndexFolder, number: int, **changes: object) -> None:
    """Let the manifest name the files as they are now."""
    path = folder.generation(number)
    files = json.loads((path / "manifest.json").read_bytes())["manifest"]["files"]
    records = {name: dataclasses.asdict(sync_file(path / name)) for name in files}
    rewrite_manifest(folder, number, files=records, **changes)
    name_as_current(folder, number)


@pytest.mark.parametrize("name", ["tombstones.npy", "works.npy"])
def test_rows_that_there_are_not_are_damage(folder: IndexFolder, base: Base, name: str) -> None:
    path = part(folder, name)
    rows = np.load(path) + 1_000
    path.unlink()
    np.save(path, rows)
    _with_digests(folder, 3)
    assert_answers(open_current(folder), base.states[2])


def test_seqs_that_do_not_ascend_are_damage(folder: IndexFolder, base: Base) -> None:
    path = part(folder, "segments/000003/seqs.npy")
    seqs = np.load(path)
    path.unlink()
    np.save(path, np.concatenate([seqs[:-2], seqs[:-3:-1]]))
    _with_digests(folder, 3)
    with pytest.raises(GenerationDamageError, match="the seqs of segment 000003 do not ascend"):
        open_generation(folder, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 0.4])
def test_a_vector_that_is_no_unit_vector_is_damage(folder: IndexFolder, value: float) -> None:
    path = part(folder, "segments/000003/vectors.faiss")
    data = bytearray(path.read_bytes())
    data[-4 * SPEC.dimension :] = np.full(SPEC.dimension, value, dtype="<f4").tobytes()
    path.unlink()
    path.write_bytes(data)
    _with_digests(folder, 3, canaries=[])
    with pytest.raises(GenerationDamageError, match="segment 000003 has vectors that are no unit vectors"):
        open_generation(folder, 3)


def test_another_dimension_than_the_manifests_is_damage(folder: IndexFolder) -> None:
    encoder = dataclasses.asdict(SPEC) | {"dimension": 16}
    _with_digests(folder, 3, encoder=encoder)
    with pytest.raises(GenerationDamageError, match="has vectors of dimension 8, its manifest says 16"):
        open_generation(folder, 3)


def test_a_canary_of_nothing_is_damage(folder: IndexFolder) -> None:
    _with_digests(folder, 3, canaries=[{"vector": "", "seqs": [], "scores": []}])
    with pytest.raises(GenerationDamageError, match="000003"):
        open_generation(folder, 3)


def test_a_canary_that_gets_another_answer_is_refused(folder: IndexFolder) -> None:
    canaries = json.loads(part(folder, "manifest.json").read_bytes())["manifest"]["canaries"]
    canaries[1]["seqs"][0] += 1
    rewrite_manifest(folder, 3, canaries=canaries)
    with pytest.raises(GenerationDamageError, match="a canary query gets other papers"):
        open_generation(folder, 3)
    canaries[1]["scores"][0] -= 0.001
    rewrite_manifest(folder, 3, canaries=canaries)
    with pytest.raises(GenerationDamageError, match="a canary query gets other scores"):
        open_generation(folder, 3)


def test_lost_current_serves_the_newest_loudly_and_is_written_again(
    folder: IndexFolder, base: Base, caplog: pytest.LogCaptureFixture
) -> None:
    folder.current.unlink()
    assert_answers(open_current(folder), base.states[3])
    assert "serving generation 3 instead" in caplog.messages
    assert healed(folder).manifest.generation == 4
    named = current_generation(folder)
    assert named is not None and named[0] == 4


def _failing_to_read(monkeypatch: pytest.MonkeyPatch, path: Path, code: int) -> None:
    read_bytes = Path.read_bytes

    def fail(asked: Path) -> bytes:
        if asked == path:
            raise OSError(code, os.strerror(code), str(path))
        return read_bytes(asked)

    monkeypatch.setattr(Path, "read_bytes", fail)


def test_current_that_the_disk_no_longer_gives_back_is_as_good_as_lost(
    folder: IndexFolder, base: Base, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        _failing_to_read(patch, folder.current, errno.EIO)
        assert_answers(open_current(folder), base.states[3])
        assert "serving generation 3 instead" in caplog.messages
        assert healed(folder).manifest.generation == 4
    assert_answers(open_current(folder), base.states[3])


def test_current_that_cannot_be_read_for_want_of_something_is_not_called_lost(
    folder: IndexFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _failing_to_read(monkeypatch, folder.current, errno.EMFILE)
    with pytest.raises(SemsearchError, match=r"CURRENT cannot be read now: .*Too many open files"):
        open_current(folder)


def test_generations_that_may_not_be_listed_are_not_taken_for_none(
    folder: IndexFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: object) -> None:
        raise PermissionError(f"{path} may not be read")

    monkeypatch.setattr(os, "scandir", refused)
    monkeypatch.setattr(os, "listdir", refused)
    with pytest.raises(PermissionError):
        folder.published()


def test_a_generation_that_current_does_not_name_yet_is_not_served(folder: IndexFolder, base: Base) -> None:
    shutil.copytree(folder.generation(3), folder.generation(4))
    assert open_current(folder).manifest.generation == 3
    with Library.open(folder.library) as library:
        library.delete(["p2"])
        opened = publish_pending(folder, library, SPEC)
    assert opened.manifest.generation == 5
    assert opened.papers == len(base.states[3]) - 1


def test_a_fallback_is_made_the_named_one_again(tmp_path: Path) -> None:
    """After a change of encoder and back two generations hold the same changes; a fallback has nothing to replay."""
    shelf = Shelf(tmp_path / "index")
    shelf.add([make_paper(1), make_paper(2)])
    shelf.publish()
    shelf.folder.current.unlink()
    assert shelf.publish().manifest.generation == 2
    flip(part(shelf.folder, "tombstones.npy", 2))
    assert open_current(shelf.folder).manifest.generation == 1
    published = shelf.publish()
    assert published.manifest.generation == 3
    assert current_generation(shelf.folder) == (3, _sha256_of(part(shelf.folder, "manifest.json", 3)))
    assert_answers(open_current(shelf.folder), shelf.oracle.vectors())
    shelf.library.close()


def _sha256_of(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_nothing_is_moved_while_another_publishes(folder: IndexFolder, caplog: pytest.LogCaptureFixture) -> None:
    flip(part(folder, "tombstones.npy"))
    with exclusive_lock(folder.publish_lock, "publish"):
        assert open_current(folder).manifest.generation == 2
    assert folder.generation(3).exists()
    assert not folder.quarantine.exists()
    assert any("stay where they are while another process publishes" in message for message in caplog.messages)
    assert open_current(folder).manifest.generation == 2
    assert not folder.generation(3).exists()


def test_a_generation_removed_while_it_is_opened_is_not_called_damaged(
    folder: IndexFolder, base: Base, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = digest_differs
    published: list[Generation] = []

    def meanwhile(*args: Any) -> str | None:
        if not published:
            monkeypatch.setattr(opening, "digest_differs", real)
            with Library.open(folder.library) as library:
                library.delete(["p2"])
                published.append(publish_pending(folder, library, SPEC))
            shutil.rmtree(folder.generation(3))
        return real(*args)

    monkeypatch.setattr(opening, "digest_differs", meanwhile)
    assert open_current(folder).manifest.generation == 4
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# What is not damage


@pytest.mark.parametrize("code", sorted({*NOT_DAMAGE, errno.EMFILE, errno.ENOMEM, errno.ENOSPC, errno.EROFS}))
@pytest.mark.parametrize(
    "place",
    [
        (Path, "read_bytes"),
        (opening, "digest_differs"),
        (np, "load"),
        (faiss, "read_index"),
        (tempfile, "mkdtemp"),
        (os, "symlink"),
    ],
)
def test_running_out_of_something_is_not_damage(
    folder: IndexFolder, base: Base, monkeypatch: pytest.MonkeyPatch, code: int, place: tuple[Any, str]
) -> None:
    current = folder.current.read_bytes()
    with monkeypatch.context() as patch:

        def fail(path: object = None, *args: object, **kwargs: object) -> Any:
            if path == folder.current:
                return current
            if place[0] is faiss:
                raise RuntimeError(f"Error: 'f' failed: could not open {path} for reading: {os.strerror(code)}")
            raise OSError(code, os.strerror(code))

        patch.setattr(*place, fail)
        with pytest.raises(SemsearchError, match="cannot be opened now") as caught:
            open_current(folder)
        assert not isinstance(caught.value, GenerationDamageError)
    assert not folder.quarantine.exists()
    assert_answers(open_current(folder), base.states[3])


def test_running_out_of_memory_is_not_damage(folder: IndexFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(faiss, "read_index", fail)
    with pytest.raises(MemoryError):
        open_current(folder)
    assert not folder.quarantine.exists()


def test_really_running_out_of_files(folder: IndexFolder, base: Base) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # what earlier tests had open
    held = [os.open(os.devnull, os.O_RDONLY)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 30, hard))
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for free in range(3):
            try:
                open_current(folder)
            except (SemsearchError, OSError) as error:
                assert "Too many open files" in str(error)
                assert not isinstance(error, GenerationDamageError | NoGenerationError)
            else:
                assert free > 0
            os.close(held.pop())
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not folder.quarantine.exists()
    assert_answers(open_current(folder), base.states[3])


def test_opening_and_letting_go_leaks_no_file(folder: IndexFolder) -> None:
    open_current(folder)
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    kept = [open_current(folder) for _ in range(5)]
    held = 4 * len(kept[0].segments)
    assert len(os.listdir("/dev/fd")) <= before + 5 * held, "one for each file of vectors, seqs, columns and traits"
    del kept
    flip(part(folder, "tombstones.npy"))
    with pytest.raises(GenerationDamageError):
        open_generation(folder, 3)
    gc.collect()
    assert len(os.listdir("/dev/fd")) == before


# Readers


def test_a_reader_keeps_its_generation_when_the_folder_goes(folder: IndexFolder, base: Base) -> None:
    opened = open_current(folder)
    moved = folder.path / "moved"
    folder.generation(3).rename(moved)
    assert_answers(opened, base.states[3])
    shutil.rmtree(moved)
    shutil.rmtree(folder.generations)
    assert_answers(opened, base.states[3])
    assert_words_and_columns(opened, base.papers)


def test_readers_get_the_old_or_the_new_state_while_generations_are_published(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "index")
    shelf.add([rich_paper(0, 0)])
    states: dict[int, Vectors] = {shelf.publish().manifest.generation: shelf.oracle.vectors()}
    failures: list[BaseException] = []
    seen: set[int] = set()
    done = threading.Event()

    def read() -> None:
        reuse: Generation | None = None
        try:
            while not done.is_set():
                reuse = open_current(shelf.folder, reuse)
                if vectors := states.get(reuse.manifest.generation):
                    seen.add(reuse.manifest.generation)
                    assert_answers(reuse, vectors)
                    assert seqs_with(reuse, "paper") == list(vectors)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 25):
        shelf.add([rich_paper(number, 0)])
        shelf.delete([f"p{number - 3}"] if number > 3 else [])
        states[shelf.publish().manifest.generation] = shelf.oracle.vectors()
    done.set()
    for thread in threads:
        thread.join(120)
    shelf.library.close()
    assert failures == []
    assert len(seen) > 1
    assert not shelf.folder.quarantine.exists()


# Sharing what is open already


def test_the_same_segment_is_shared_and_not_read_again(
    folder: IndexFolder, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, third = open_generation(folder, 2), open_generation(folder, 3)
    assert third.segments[0] is not second.segments[0]
    read: list[str] = []
    real = digest_differs

    def noted(path: Path, record: FileRecord) -> str | None:
        read.append(path.name)
        return real(path, record)

    monkeypatch.setattr(opening, "digest_differs", noted)
    opened = open_current(folder, reuse=second)
    assert opened.segments[0] is second.segments[0]
    assert opened.segments[1] is not third.segments[1]
    lexical = [path.name for path in part(folder, "lexical").iterdir()]
    assert sorted(read) == sorted([*SEGMENT_FILES, "tombstones.npy", "works.npy", *lexical])
    assert_answers(opened, base.states[3])
    read.clear()
    again = open_current(folder, reuse=opened)
    assert again.lexical is opened.lexical
    assert read == ["tombstones.npy", "works.npy"]


def test_a_lexical_index_with_one_other_file_is_read_as_a_whole(folder: IndexFolder, base: Base) -> None:
    """A copied file may be damaged where the one that is open already is not."""
    second = open_generation(folder, 2)
    shared = next(path for path in sorted(part(folder, "lexical").iterdir()) if path.stat().st_nlink == 3)
    unlink_first(shared)
    flip(shared)
    assert open_current(folder, reuse=second).manifest.generation == 2


def test_a_segment_of_the_same_name_and_other_content_is_not_shared(
    folder: IndexFolder, base: Base, tmp_path: Path
) -> None:
    other = Shelf(tmp_path / "other")
    for first in (500, 600, 700):
        other.add([make_paper(number) for number in range(first, first + 40 // (first // 100 - 4))])
        foreign = other.publish()
    other.library.close()
    assert {segment.name for segment in foreign.segments} & {"000002", "000003"}
    opened = open_current(folder, reuse=foreign)
    assert not set(map(id, opened.segments)) & set(map(id, foreign.segments))
    assert opened.manifest.generation == 3
    assert_answers(opened, base.states[3])


# Writing


def papers_of(count: int, first: int = 1) -> Iterator[tuple[int, Paper]]:
    return ((seq, rich_paper(seq, 0)) for seq in range(first, first + count))


def draft(count: int, **changes: Any) -> Draft:
    """Return a draft that adds so many rows; changes are of the draft, or of its new segment."""
    segment: dict[str, Any] = {
        "vectors": [(np.arange(1, count + 1, dtype=np.int64), unit_rows(np.random.default_rng(1), count))],
        "rows": count,
        "papers": lambda: papers_of(count),
        "dimension": SPEC.dimension,
    }
    added = SegmentDraft(**{name: changes.pop(name, value) for name, value in segment.items()})
    values: dict[str, Any] = {
        "parent": None,
        "kept": (),
        "added": added,
        "unfound": (),
        "newly_found": added.papers,
        "tombstones": np.empty(0, dtype=np.int64),
        "last_seq": count,
        "last_change": "",
        "encoder": SPEC,
    }
    return Draft(**values | changes)


@pytest.fixture
def empty(tmp_path: Path) -> IndexFolder:
    (tmp_path / "index").mkdir()
    return IndexFolder(tmp_path / "index")


def test_vectors_and_seqs_that_do_not_match_are_not_published(empty: IndexFolder) -> None:
    rows = unit_rows(np.random.default_rng(1), 4)
    for seqs, added_rows in (([1, 2, 3, 4], 5), ([1, 2, 3], 4), ([1, 3, 2, 4], 4), ([1, 2, 2, 3], 4)):
        wrong = draft(4, vectors=[(np.array(seqs), rows)], rows=added_rows)
        with pytest.raises(SemsearchError, match="the new segment got 4 rows"):
            publish(empty, wrong)
    assert empty.published() == []
    assert list(empty.generations.iterdir()) == []


def test_a_vector_that_is_not_a_number_is_not_published(empty: IndexFolder) -> None:
    rows = unit_rows(np.random.default_rng(1), 4)
    rows[0, 0] = np.nan
    with pytest.raises(SemsearchError, match="a vector that is not all numbers"):
        publish(empty, draft(4, vectors=[(np.arange(1, 5), rows)]))
    assert empty.published() == []


def test_words_and_columns_of_other_papers_than_vectors_are_not_published(empty: IndexFolder) -> None:
    with pytest.raises(SemsearchError, match="columns of 3 papers, planned were 4"):
        publish(empty, draft(4, papers=lambda: papers_of(3)))
    first = publish(empty, draft(4))
    before = files_below(empty.path)
    for unfound in ([], [1, 2]):
        wrong = draft(0, parent=first, kept=first.segments, unfound=unfound, tombstones=np.array([0]))
        with pytest.raises(GenerationDamageError, match=rf"3 papers and the words of {4 - len(unfound)}"):
            publish(empty, wrong)
    assert files_below(empty.path) == before
    assert [path.name for path in empty.generations.iterdir()] == ["000001"]


def test_a_generation_can_be_extended_as_it_was_returned(empty: IndexFolder) -> None:
    """And after its parent is gone: what it was written from may have another name by now."""
    first = publish(empty, draft(9))
    assert works_of(first) == {frozenset(group) for group in ((1, 4, 7), (2, 5, 8), (3, 6, 9))}
    rows = unit_rows(np.random.default_rng(2), 3)
    added = {"vectors": [(np.arange(10, 13), rows)], "papers": lambda: papers_of(3, 10)}
    second = publish(empty, draft(3, parent=first, kept=first.segments, last_seq=12, **added))
    assert works_of(second) == {frozenset(range(start, 13, 3)) for start in (1, 2, 3)}
    shutil.rmtree(empty.generation(1))
    third = publish(
        empty,
        draft(0, parent=second, kept=second.segments, unfound=[4], tombstones=np.array([3]), last_seq=12),
    )
    assert works_of(third) == {frozenset((1, 7, 10)), frozenset((2, 5, 8, 11)), frozenset((3, 6, 9, 12))}
    assert_words_and_columns(open_generation(empty, 3), {seq: paper for seq, paper in papers_of(12) if seq != 4})


def test_a_lock_that_tantivy_leaves_behind_is_not_published(
    empty: IndexFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def late(folder: Path, *rest: Any) -> LexicalIndex:
        index = write_lexical(folder, *rest)
        (folder / ".tantivy-meta.lock").touch()
        written.append(folder)
        return index

    monkeypatch.setattr(files, "write_lexical", late)
    publish(empty, draft(4))
    assert not written[0].exists(), "nor can one come later"
    assert not [path for path in empty.path.rglob("*") if "lock" in path.name or path.suffix == ".tmp"]
    assert open_generation(empty, 1).papers == 4


@pytest.mark.parametrize("length", [0.9991, 1.0009])
def test_vectors_as_long_as_an_encoder_may_give_are_published(empty: IndexFolder, length: float) -> None:
    rows = unit_rows(np.random.default_rng(1), 40) * np.float32(length)
    opened = publish(empty, draft(40, vectors=[(np.arange(1, 41), rows)]))
    np.testing.assert_array_equal(opened.vectors_at(np.arange(40)), rows)
    open_generation(empty, 1)


def test_equal_vectors_make_no_canary_fail(empty: IndexFolder) -> None:
    rows = np.repeat(vector_of("same")[None, :], 50, axis=0)
    publish(empty, draft(50, vectors=[(np.arange(1, 51), rows)]))
    assert open_generation(empty, 1).papers == 50


def test_what_does_not_read_back_is_not_published(empty: IndexFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "digest_differs", lambda path, record: "fails its digest")
    with pytest.raises(
        SemsearchError, match=r"vectors\.faiss fails its digest right after it was written; check the disk"
    ):
        publish(empty, draft(4))
    assert list(empty.generations.iterdir()) == []


def test_too_little_space_is_said_before_anything_is_written(
    empty: IndexFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(empty, draft(3))
    before = files_below(empty.path)
    usage = shutil.disk_usage(empty.path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000_000))
    with pytest.raises(
        SemsearchError, match=r"has 50 MB free, the new generation needs 15,481 MB; .* run the same command again"
    ):
        publish(empty, draft(4, rows=10_000_000))
    assert files_below(empty.path) == before


def test_where_there_are_no_hard_links_files_are_copied_and_checked(
    folder: IndexFolder, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Library.open(folder.library) as library:
        library.delete(["p30"])
        opened = publish_pending(folder, library, SPEC)
        assert opened.manifest.generation == 4
        assert_answers(open_current(folder), {s: v for s, v in base.states[3].items() if s in set(opened.live_seqs())})
        copied = [name for name in opened.manifest.files if name in base.generation(3)]
        assert {Path(name).name for name in copied} >= set(SEGMENT_FILES)
        assert {Path(name).suffix for name in copied if "lexical" in name} >= {".idx", ".store", ".del", ".json"}
        for name in copied:
            copy, original = (part(folder, name, number) for number in (4, 3))
            assert copy.stat().st_ino != original.stat().st_ino
            if not name.endswith((".json", ".npy")) or "segments" in name:
                assert copy.read_bytes() == original.read_bytes()
                assert opened.manifest.files[name] == open_generation(folder, 3).manifest.files[name]
        parent = open_current(folder)
        same = draft(0, parent=parent, kept=parent.segments, tombstones=parent.tombstones)
        lexical = next(name for name in copied if name.endswith(".pos"))
        for name in (*(f"segments/000002/{file}" for file in SEGMENT_FILES), lexical):
            flip(part(folder, name, 4), 0)
            with pytest.raises(GenerationDamageError, match=rf"{Path(name).name}.* is not what was written"):
                publish(folder, same)
            flip(part(folder, name, 4), 0)
        assert publish(folder, same).manifest.generation == 5
    assert folder.published()[:3] == [5, 4, 3]
    assert_answers(open_current(folder), {s: v for s, v in base.states[3].items() if s in set(opened.live_seqs())})


def test_old_generations_go_when_there_are_two_newer_and_fifteen_minutes_passed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "index")

    def publish_one(number: int) -> None:
        shelf.add([make_paper(number)])
        shelf.publish()

    def age(number: int, seconds: float) -> None:
        path = shelf.folder.generation(number)
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))

    for number in range(1, 5):
        publish_one(number)
    assert shelf.folder.published() == [4, 3, 2, 1], "all of them are young"
    age(1, 14 * 60)
    age(2, 16 * 60)
    age(4, 16 * 60)
    publish_one(5)
    assert shelf.folder.published() == [5, 4, 3, 1], "the two newest stay, however old"
    age(1, 2 * 60)
    age(3, 16 * 60)
    reader = open_generation(shelf.folder, 3)
    publish_one(6)
    assert shelf.folder.published() == [6, 5]
    assert reader.nearest(vector_of("x")[None, :], 3)[1].shape == (1, 3)
    assert sorted(path.name for path in shelf.folder.generations.iterdir()) == ["000005", "000006"]
    assert_answers(open_current(shelf.folder), shelf.oracle.vectors())
    shelf.library.close()


def test_an_old_generation_that_cannot_be_removed_does_not_fail_the_publish(
    folder: IndexFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    os.utime(folder.generation(1), (0, 0))

    real = shutil.rmtree

    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if path.is_relative_to(folder.generations):
            raise OSError(errno.EBUSY, "Device or resource busy")
        real(path, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with Library.open(folder.library) as library:
        library.delete(["p30"])
        assert publish_pending(folder, library, SPEC).manifest.generation == 4
    assert open_current(folder).manifest.generation == 4
    assert any("generation 1 could not be removed" in message for message in caplog.messages)
    assert folder.published() == [4, 3, 2]


def test_numbers_of_quarantined_generations_are_not_given_again(folder: IndexFolder) -> None:
    flip(part(folder, "tombstones.npy"))
    open_current(folder)
    assert healed(folder).manifest.generation == 4
    (folder.quarantine / "1000000-20260101T000000000000").mkdir()
    with Library.open(folder.library) as library:
        library.delete(["p30"])
        assert publish_pending(folder, library, SPEC).manifest.generation == 1_000_001
    assert open_current(folder).manifest.generation == 1_000_001


def test_a_system_that_gives_no_thread_says_nothing_of_the_files(
    folder: IndexFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(opening, "_WORTH_THREADS", 0)
    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(SemsearchError, match="cannot be opened now: can't start new thread") as caught:
        open_current(folder, publishing=True)
    assert not isinstance(caught.value, GenerationDamageError)
    assert not folder.quarantine.exists()
