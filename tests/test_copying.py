"""Backups made while others write and serve, and put back in one step."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import make_paper
from storage import Shelf, add, files_below, rich_paper

from semsearch import copying, durable
from semsearch.copying import backup, restore
from semsearch.durable import exclusive_lock
from semsearch.errors import DamageError, IndexBusyError, IndexMissingError, SemsearchError
from semsearch.generation import IndexFolder, current_generation, open_current
from semsearch.library import Library
from semsearch.verify import problems


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path / "index")
    shelf.add([rich_paper(number, 0) for number in range(12)])
    shelf.publish()
    shelf.add([rich_paper(20, 0), rich_paper(3, 1)])
    shelf.delete(["p4"])
    shelf.publish()
    yield shelf
    shelf.library.close()


def held(path: Path) -> tuple[int, list[int]]:
    """Return the library's last seq and what can be found."""
    with Library.open(path / "library.db") as library:
        return library.last_seq(), open_current(IndexFolder(path)).live_seqs().tolist()


def beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


def test_a_copy_is_an_index_that_holds_the_same(shelf: Shelf, tmp_path: Path) -> None:
    networks = shelf.folder.networks / "some-network"
    networks.mkdir(parents=True)
    (networks / "network.bin").write_bytes(b"weights")
    shelf.add([make_paper(30)])  # not yet published
    backup(shelf.folder, tmp_path / "copy")
    copy = IndexFolder(tmp_path / "copy")
    assert list(problems(copy)) == []
    assert held(copy.path) == held(shelf.folder.path)
    assert shelf.library.last_seq() == 16
    assert copy.published() == [2], "older generations are left out"
    assert (copy.networks / "some-network" / "network.bin").read_bytes() == b"weights"
    assert beside(copy.path) == ["copy", "index"]
    inodes = {path.stat().st_ino for path in shelf.folder.path.rglob("*")}
    assert not inodes & {path.stat().st_ino for path in copy.path.rglob("*")}, "damage of one must not reach the other"


def test_a_library_without_a_generation_can_be_copied(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "index")
    shelf.add([make_paper(1)])
    backup(shelf.folder, tmp_path / "copy")
    shelf.library.close()
    with Library.open(tmp_path / "copy" / "library.db") as library:
        assert library.last_seq() == 1


def test_a_backup_never_goes_over_anything(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for place in ("index", "empty", "dangling"):
        with pytest.raises(SemsearchError, match=rf"{place} exists already, and a backup never goes over anything"):
            backup(shelf.folder, tmp_path / place)
    with pytest.raises(IndexMissingError):
        backup(IndexFolder(tmp_path / "nothing"), tmp_path / "copy")
    assert beside(tmp_path / "copy") == ["dangling", "empty", "index"]


def test_a_copy_of_what_is_damaged_is_not_kept(shelf: Shelf, tmp_path: Path) -> None:
    shelf.library._run("UPDATE changes SET content = 'x' WHERE seq = 2")
    with pytest.raises(DamageError, match=r"is not sound.* paper 'p1' \(seq 2\) fails its digest.*semsearch repair"):
        backup(shelf.folder, tmp_path / "copy")
    assert beside(tmp_path / "copy") == ["index"]


def test_a_file_that_is_damaged_while_it_is_copied_is_noticed(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_current(shelf.folder)
    monkeypatch.setattr(copying, "open_generation", lambda *_: opened)
    works = shelf.folder.generation(2) / "works.npy"
    works.write_bytes(works.read_bytes()[:-1] + b"x")
    with pytest.raises(DamageError, match=r"damaged \(works\.npy is not what was written\).*semsearch repair"):
        backup(shelf.folder, tmp_path / "copy")
    assert beside(tmp_path / "copy") == ["index"]


def test_a_generation_that_is_removed_for_its_age_meanwhile_is_no_obstacle(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = [current_generation(shelf.folder)]
    shelf.add([make_paper(30)])
    shelf.publish()
    shutil.rmtree(shelf.folder.generation(2))

    def look(folder: IndexFolder) -> tuple[int, str] | None:
        return looks.pop() if looks else current_generation(folder)

    monkeypatch.setattr(copying, "current_generation", look)
    backup(shelf.folder, tmp_path / "copy")
    assert held(tmp_path / "copy") == held(shelf.folder.path)


def test_a_backup_is_one_state_while_a_writer_writes(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each commit holds two versions: a state with one of them would be torn."""
    monkeypatch.setattr("semsearch.library.library._PAGES_PER_STEP", 2)
    done, writes = threading.Event(), [0]

    def write() -> None:
        with Library.open(shelf.folder.library) as library:
            while not done.is_set():
                number = 100 + 2 * writes[0]
                add(library, [make_paper(number), make_paper(number + 1)])
                writes[0] += 1

    thread = threading.Thread(target=write)
    thread.start()
    steps: list[tuple[int, int]] = []
    during = []
    try:
        for number in range(3):
            steps.clear()
            before = writes[0]
            backup(shelf.folder, tmp_path / f"copy{number}", lambda *each: steps.append(each))
            during.append(writes[0] - before)
    finally:
        done.set()
        thread.join()
    assert min(during) > 0, "nothing kept the writer from writing"
    assert steps[-1][0] == steps[-1][1] > 2
    assert len(steps) > 3
    for number in range(3):
        assert list(problems(IndexFolder(tmp_path / f"copy{number}"))) == []
        assert (held(tmp_path / f"copy{number}")[0] - 15) % 2 == 0


# Back again


def test_what_is_restored_is_what_was_backed_up(shelf: Shelf, tmp_path: Path) -> None:
    backup(shelf.folder, tmp_path / "copy")
    before = held(tmp_path / "copy")
    assert restore(IndexFolder(tmp_path / "copy"), tmp_path / "new" / "place") is None
    (tmp_path / "empty").mkdir()
    assert restore(IndexFolder(tmp_path / "copy"), tmp_path / "empty") is None
    for place in ("copy", "new/place", "empty"):
        assert held(tmp_path / place) == before
        assert list(problems(IndexFolder(tmp_path / place))) == []


def test_what_stands_there_is_refused_or_moved_aside_whole(shelf: Shelf, tmp_path: Path) -> None:
    backup(shelf.folder, tmp_path / "copy")
    shelf.add([make_paper(30)])
    shelf.publish()
    old = held(shelf.folder.path)
    with pytest.raises(SemsearchError, match=r"is not empty, and nothing is written over.*--aside"):
        restore(IndexFolder(tmp_path / "copy"), shelf.folder.path)
    moved = restore(IndexFolder(tmp_path / "copy"), shelf.folder.path, aside=True)
    assert moved is not None
    assert held(moved) == old
    assert held(shelf.folder.path) == held(tmp_path / "copy")
    assert beside(moved) == sorted(["copy", "index", moved.name])
    with pytest.raises(IndexBusyError, match="another library was put into the place"):
        shelf.publish()  # who has the old one open shall not publish from it into the new one


def test_nobody_is_written_away_under_the_hands(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_LOCK_WAIT_SECONDS", 0.01)
    backup(shelf.folder, tmp_path / "copy")
    before = files_below(shelf.folder.path)
    for lock in (shelf.folder.reindex_lock, shelf.folder.merge_lock, shelf.folder.publish_lock):
        with exclusive_lock(lock, "test"), pytest.raises(IndexBusyError, match=f"restore: .*{lock.name}"):
            restore(IndexFolder(tmp_path / "copy"), shelf.folder.path, aside=True)
    assert {name: data for name, data in files_below(shelf.folder.path).items() if name in before} == before
    assert beside(tmp_path / "copy") == ["copy", "index"]


def test_a_damaged_backup_is_not_put_back(shelf: Shelf, tmp_path: Path) -> None:
    backup(shelf.folder, tmp_path / "copy")
    path = tmp_path / "copy" / "generations" / "000002" / "works.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    before = files_below(shelf.folder.path)
    with pytest.raises(DamageError, match=r"generation 2 of .*copy is damaged .*semsearch repair --index .*copy"):
        restore(IndexFolder(tmp_path / "copy"), shelf.folder.path, aside=True)
    assert files_below(shelf.folder.path) == before
    (tmp_path / "copy" / "CURRENT").unlink()
    with pytest.raises(DamageError, match="CURRENT is missing or unreadable"):
        restore(IndexFolder(tmp_path / "copy"), tmp_path / "elsewhere")


def test_where_folders_cannot_be_exchanged_nothing_is_done(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(one: Path, other: Path) -> None:
        raise OSError(22, "Invalid argument")

    backup(shelf.folder, tmp_path / "copy")
    monkeypatch.setattr(copying, "exchange_folders", unable)
    before = held(shelf.folder.path)
    with pytest.raises(SemsearchError, match=r"cannot be exchanged in one step.*move it away by hand"):
        restore(IndexFolder(tmp_path / "copy"), shelf.folder.path, aside=True)
    assert held(shelf.folder.path) == before
    assert beside(tmp_path / "copy") == ["copy", "index"]


def test_the_old_index_is_never_removed_whatever_fails_after_the_exchange(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(one: Path, other: Path) -> None:
        durable.exchange_folders(one, other)
        raise KeyboardInterrupt

    backup(shelf.folder, tmp_path / "copy")
    shelf.add([make_paper(30)])
    shelf.publish()
    old = held(shelf.folder.path)
    monkeypatch.setattr(copying, "exchange_folders", interrupted)
    with pytest.raises(KeyboardInterrupt):
        restore(IndexFolder(tmp_path / "copy"), shelf.folder.path, aside=True)
    (aside,) = tmp_path.glob("index.partial-*")
    assert held(aside) == old
    assert held(shelf.folder.path) == held(tmp_path / "copy")


def test_folders_are_exchanged_or_nothing_is(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    durable.exchange_folders(tmp_path / "one", tmp_path / "two")
    assert (os.listdir(tmp_path / "one"), os.listdir(tmp_path / "two")) == (["two"], ["one"])
    with pytest.raises(FileNotFoundError):
        durable.exchange_folders(tmp_path / "one", tmp_path / "three")


def test_a_lock_in_a_folder_that_was_replaced_is_taken_in_the_new_one(tmp_path: Path) -> None:
    """Who waited for a lock while another index took this one's place must not go on under the old one's."""
    (tmp_path / "new").mkdir()
    taken = []

    def wait() -> None:
        with exclusive_lock(tmp_path / "index" / "LOCK", "second", 20):
            taken.append(json.dumps([(tmp_path / "index" / "LOCK").exists(), (tmp_path / "old").exists()]))

    with exclusive_lock(tmp_path / "index" / "LOCK", "first"):
        thread = threading.Thread(target=wait)
        thread.start()
        (tmp_path / "index").rename(tmp_path / "old")
        (tmp_path / "new").rename(tmp_path / "index")
    thread.join()
    assert taken == ["[true, true]"]
