"""How does a file reach the disk, whole or not at all?

Every file of an index apart from the library is written through here: checked writes, one fsync that is never retried
(a failed fsync may have dropped the data, and a second one would report success), then the folder's fsync.
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import xxhash

from semsearch.errors import IndexBusyError

_READ_BYTES = 1 << 20
_LOCK_POLL_SECONDS = 0.05
_SWAP = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_HERE = -100  # AT_FDCWD of Linux: paths are as they are
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file must be: its size in bytes, a fast digest that finds damage, a strong one that identifies."""

    bytes: int
    xxh3: str
    sha256: str


class CheckedWriter:
    """A new file that is being written; `record` says what was written once it is closed and on the disk."""

    def __init__(self, path: Path) -> None:
        """Create the file.

        :raises FileExistsError: if there is one already; nothing is ever written in place.
        """
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115  # closed by __exit__
        self._size = 0
        self._xxh3 = xxhash.xxh3_128()
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of `data` and return its size in bytes.

        :raises OSError: if the disk takes less, whatever the reason.
        """
        rest = memoryview(data).cast("B")
        size = len(rest)
        self._xxh3.update(rest)
        self._sha256.update(rest)
        while rest:
            taken = self._file.write(rest)
            if not taken:
                raise OSError(errno.EIO, "the file takes no more bytes", self._file.name)
            rest = rest[taken:]
        self._size += size
        return size

    @property
    def record(self) -> FileRecord:
        """What was written so far."""
        return FileRecord(self._size, self._xxh3.hexdigest(), self._sha256.hexdigest())

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Bring the file to the disk, unless writing it failed, and close it."""
        try:
            if error is None:
                _sync(self._file.fileno())
        finally:
            self._file.close()


def write_file(path: Path, data: bytes) -> FileRecord:
    """Write a new file, bring it to the disk and return what it must be from now on."""
    with CheckedWriter(path) as writer:
        writer.write(data)
    return writer.record


def sync_file(path: Path) -> FileRecord:
    """Bring a file that somebody else wrote to the disk, and return what it must be from now on."""
    xxh3, sha256, size = xxhash.xxh3_128(), hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        _sync(file.fileno())
        while block := file.read(_READ_BYTES):
            xxh3.update(block)
            sha256.update(block)
            size += len(block)
    return FileRecord(size, xxh3.hexdigest(), sha256.hexdigest())


def replace_file(path: Path, data: bytes) -> None:
    """Give the file this content in one step: readers see the old or the new one, also after a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    write_file(temporary, data)
    temporary.rename(path)
    sync_folder(path.parent)


def name_file(made: Path, path: Path) -> None:
    """Give a file that is on the disk its name, unless another process has given it to another file meanwhile."""
    try:
        os.link(made, path)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        made.rename(path)
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make this folder and those above it, where they are missing, so that a power cut does not take them back."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def exchange_folders(one: Path, other: Path) -> None:
    """Let the two folders, on one file system, have each other's name, in one step; the caller syncs their parents.

    :raises OSError: if the system cannot do that; then nothing has changed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        failed = libc.renamex_np(os.fsencode(one), os.fsencode(other), _SWAP)
    else:
        failed = libc.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _SWAP)
    if failed:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(one), None, str(other))


def sync_folder(path: Path) -> None:
    """Bring the names in this folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Bring the names in this folder and all folders below it to the disk, the deepest first."""
    for folder, _, _ in os.walk(path, topdown=False):
        sync_folder(Path(folder))


def digest_differs(path: Path, record: FileRecord, on_read: Callable[[int], None] = lambda size: None) -> str | None:
    """Return how the file differs from what it must be, or None if it does not.

    :param on_read: told the size in bytes of every piece as it is read.
    """
    digest = xxhash.xxh3_128()
    if difference := size_differs(path, record):
        return difference
    block = memoryview(bytearray(_READ_BYTES))  # one, which stays in the processor's cache
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
            on_read(size)
    return None if digest.hexdigest() == record.xxh3 else "fails its digest"


def size_differs(path: Path, record: FileRecord) -> str | None:
    """Return how the file's size differs from what it must be, or None if it does not."""
    size = path.stat().st_size
    return None if size == record.bytes else f"has {size:,} bytes instead of {record.bytes:,}"


@contextmanager
def exclusive_lock(path: Path, purpose: str, wait_seconds: float = 0) -> Iterator[None]:
    """Hold the lock file at `path`; the system frees it when the process ends, however it ends.

    :raises IndexBusyError: if another process or thread still holds it after `wait_seconds`.
    """
    make_folder(path.parent)
    deadline = time.monotonic() + wait_seconds
    while True:
        with open(path, "ab") as file:
            while not _locked(file.fileno()):
                if time.monotonic() >= deadline:
                    raise IndexBusyError(f"{purpose}: another process holds {path}; wait for it to finish")
                time.sleep(_LOCK_POLL_SECONDS)
            if _is_at(file.fileno(), path):  # and not in a folder that another took the place of meanwhile
                yield
                return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":  # its fsync stops at the drive's own cache
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)
