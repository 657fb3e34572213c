import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import xxhash

from semsearch import durable
from semsearch.durable import (
    CheckedWriter,
    FileRecord,
    digest_differs,
    exclusive_lock,
    make_folder,
    replace_file,
    sync_tree,
    write_file,
)
from semsearch.errors import IndexBusyError

DATA = bytes(range(256)) * 41 + b"tail"


class _Raw:
    """A raw file that takes only some of the bytes at a time, and after `room` bytes fails as a full disk does."""

    def __init__(self, file: Any, at_once: int, room: int = 1 << 30) -> None:
        self._file, self._at_once, self._room = file, at_once, room

    def write(self, data: memoryview) -> int:
        if self._room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = int(self._file.write(data[: min(self._at_once, self._room)]))
        self._room -= taken
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def record_of(data: bytes) -> FileRecord:
    return FileRecord(len(data), xxhash.xxh3_128(data).hexdigest(), hashlib.sha256(data).hexdigest())


def test_the_record_is_what_stands_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with CheckedWriter(path) as writer:
        assert writer.write(DATA[:100]) == 100
        assert writer.write(bytearray(DATA[100:200])) == 100
        assert writer.write(memoryview(DATA)[200:]) == len(DATA) - 200
        assert writer.write(b"") == 0
    assert path.read_bytes() == DATA
    assert writer.record == record_of(DATA)
    assert digest_differs(path, writer.record) is None


def test_items_wider_than_a_byte_are_counted_in_bytes(tmp_path: Path) -> None:
    import array

    numbers = array.array("q", [1, 2, 3])
    with CheckedWriter(tmp_path / "file") as writer:
        assert writer.write(memoryview(numbers)) == 24
    assert (tmp_path / "file").read_bytes() == numbers.tobytes()


def test_short_writes_are_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with CheckedWriter(path) as writer:
        writer._file = _Raw(writer._file, at_once=7)  # type: ignore[assignment]
        assert writer.write(DATA) == len(DATA)
    assert path.read_bytes() == DATA
    assert writer.record == record_of(DATA)


def test_a_full_disk_is_an_error_and_nothing_is_brought_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    writer = CheckedWriter(tmp_path / "file")
    raw = writer._file
    with pytest.raises(OSError, match="No space left"), writer:
        writer._file = _Raw(raw, at_once=1000, room=5_000)  # type: ignore[assignment]
        writer.write(DATA)
    assert raw.closed
    assert synced == []


def test_a_file_that_takes_nothing_does_not_hang(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="takes no more bytes"), CheckedWriter(tmp_path / "file") as writer:
        writer._file = _Raw(writer._file, at_once=0)  # type: ignore[assignment]
        writer.write(DATA)


def test_a_failed_fsync_is_raised_and_never_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fail(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_file(tmp_path / "file", DATA)
    assert len(calls) == 1
    with pytest.raises(OSError, match="Input/output error"):
        sync_tree(tmp_path)
    assert len(calls) == 2


def test_nothing_is_written_over_a_file_that_exists(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"first")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"sound bytez", "fails its digest"),
        (b"sound byte", "has 10 bytes instead of 11"),
        (b"", "has 0 bytes instead of 11"),
    ],
)
def test_what_differs_is_said(tmp_path: Path, damaged: bytes, message: str) -> None:
    record = write_file(tmp_path / "file", b"sound bytes")
    (tmp_path / "file").write_bytes(damaged)
    assert digest_differs(tmp_path / "file", record) == message


def test_a_difference_past_the_first_block_is_found(tmp_path: Path) -> None:
    data = bytearray(os.urandom(3 * (1 << 20) + 5))
    record = write_file(tmp_path / "file", bytes(data))
    assert digest_differs(tmp_path / "file", record) is None
    data[-1] ^= 1
    (tmp_path / "file").write_bytes(data)
    assert digest_differs(tmp_path / "file", record) == "fails its digest"


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Path, "unlink"), (durable, "write_file"), (os, "fsync"), (Path, "rename"), (durable, "sync_folder")],
)
def test_replacing_leaves_the_old_or_the_new_content_at_every_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    path = tmp_path / "CURRENT"
    replace_file(path, b"old")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(OSError, match="Input/output error"):
            replace_file(path, b"new")
    expected = b"new" if name == "sync_folder" else b"old"
    assert path.read_bytes() == expected
    replace_file(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert [file.name for file in tmp_path.iterdir()] == ["CURRENT"]


def test_replacing_brings_content_then_name_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_fsync(descriptor: int) -> None:
        events.append("folder" if os.fstat(descriptor).st_ino == tmp_path.stat().st_ino else "file")
        fsync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        events.append(f"{path.name} -> {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    replace_file(tmp_path / "CURRENT", b"new")
    assert events == ["file", "CURRENT.tmp -> CURRENT", "folder"]


def test_a_name_is_given_once_and_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    (tmp_path / "first").write_bytes(b"first")
    (tmp_path / "second").write_bytes(b"second")
    durable.name_file(tmp_path / "first", tmp_path / "name")
    assert synced == [tmp_path.stat().st_ino]
    durable.name_file(tmp_path / "second", tmp_path / "name")
    assert (tmp_path / "name").read_bytes() == b"first"


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EIO])
def test_without_hard_links_a_file_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", fail)
    (tmp_path / "made").write_bytes(b"made")
    if code == errno.EIO:
        with pytest.raises(OSError, match="Input/output error"):
            durable.name_file(tmp_path / "made", tmp_path / "name")
        return
    durable.name_file(tmp_path / "made", tmp_path / "name")
    assert (tmp_path / "name").read_bytes() == b"made"


def test_a_new_folder_is_on_the_disk_with_all_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path.stat().st_ino, (tmp_path / "a").stat().st_ino]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_the_tree_is_brought_to_the_disk_deepest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    sync_tree(tmp_path)
    inode = {name: (tmp_path / name).stat().st_ino for name in ("a", "a/b", "c", ".")}
    assert sorted(synced) == sorted(inode.values())
    assert synced.index(inode["a/b"]) < synced.index(inode["a"])
    assert synced[-1] == inode["."]


_HOLDER = """
import sys
from pathlib import Path
from semsearch.durable import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), "hold"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_other_processes_out_until_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "LOCK"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(IndexBusyError, match=r"publish: another process holds .*LOCK"),
            exclusive_lock(path, "publish"),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        assert holder.wait() == -signal.SIGKILL
        with exclusive_lock(path, "publish"):
            pass


def test_a_lock_keeps_other_threads_out_and_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "LOCK"
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive_lock(path, "hold"):
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    with pytest.raises(IndexBusyError), exclusive_lock(path, "publish", wait_seconds=0.1):
        pass
    threading.Timer(0.1, release.set).start()
    with exclusive_lock(path, "publish", wait_seconds=30):
        pass
    thread.join(30)
    assert not thread.is_alive()


def test_a_lock_is_freed_when_its_holder_raises(tmp_path: Path) -> None:
    path = tmp_path / "LOCK"
    with pytest.raises(KeyError), exclusive_lock(path, "publish"):
        raise KeyError
    with exclusive_lock(path, "publish"):
        pass
