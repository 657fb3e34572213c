"""Are the files that answers come from still what was written?

Opening a generation reads every file of it, but a service stays up for months. One thread goes on reading them, slowly,
the one first that was read longest ago: all of them within a minute for each GiB, once a minute at most. It reads
through the same cache of the system that mapped files are searched in, so it sees what searches see. What was made
worse on the disk beneath a page in that cache is seen when the page has gone and is read again.

A generation too large to be read before its first answer is read here first of all.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from semsearch.durable import FileRecord, digest_differs
from semsearch.errors import SemsearchError
from semsearch.generation import Generation, IndexFolder
from semsearch.generation.folder import MANIFEST, NOT_DAMAGE
from semsearch.manifest import Manifest

logger = logging.getLogger(__name__)

BYTES_PER_SECOND = (1 << 30) / 60
ROUND_SECONDS = 60.0
_IDLE_SECONDS = 0.5
_STOP_SECONDS = 1.0
_NEVER = float("-inf")

_File = tuple[str, FileRecord]


class _Stopped(Exception):
    """The service ends, or what is being read is served no more."""


class Scrub:
    """Reads the files of the generation that is served, and tells whoever serves it when one has changed."""

    def __init__(
        self,
        folder: IndexFolder,
        on_damage: Callable[[Generation], None],
        bytes_per_second: float = BYTES_PER_SECOND,
        round_seconds: float = ROUND_SECONDS,
    ) -> None:
        """Read nothing yet.

        :param on_damage: is told of a generation that is not what was written, from another thread.
        :param round_seconds: after which a file is read again, if there is time for it.
        """
        self._folder = folder
        self._on_damage = on_damage
        self._bytes_per_second = bytes_per_second
        self._round_seconds = round_seconds
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._generation: Generation | None = None
        self._read_at: dict[_File, float] = {}  # of the generation above; replaced together with it
        self._lock = threading.Lock()
        self.bytes_read = 0
        self.damaged = 0

    def follow(self, generation: Generation | None, *, anew: bool = False) -> None:
        """Read this generation's files from now on; of those that it shares with the one before, it is known when.

        :param anew: forget what is known; the generation's files have all been read just now.
        """
        unread = generation.unread if generation else frozenset()
        files = _files_of(generation) if generation else ()
        with self._lock:
            now, known = time.monotonic(), {} if anew else self._read_at
            self._read_at = {file: known.get(file, _NEVER if file[0] in unread else now) for file in files}
            self._generation = generation

    @property
    def unread_bytes(self) -> int:
        """How much of what is served was never read as a whole."""
        return sum(record.bytes for (_, record), at in list(self._read_at.items()) if at == _NEVER)

    def start(self) -> None:
        """Begin to read, in the background."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="semsearch-scrub", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading, within a second."""
        self._stopping.set()
        if self._thread:
            self._thread.join(_STOP_SECONDS)
        self.follow(None)

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                generation, read_at = self._generation, self._read_at
            due = min(read_at, key=lambda file: read_at[file], default=None)
            if generation is None or due is None or read_at[due] > time.monotonic() - self._round_seconds:
                self._stopping.wait(min(_IDLE_SECONDS, self._round_seconds))
                continue
            try:
                self._check(generation, due)
            except _Stopped:
                pass
            except Exception:  # a scrub that has ended would be missed by nobody
                logger.exception("generation %d could not be read once more", generation.manifest.generation)
                self._stopping.wait(_IDLE_SECONDS)

    def _check(self, generation: Generation, due: _File) -> None:
        name, record = due
        path = self._folder.generation(generation.manifest.generation)

        def pace(size: int) -> None:
            self.bytes_read += size
            if self._stopping.wait(size / self._bytes_per_second) or due not in self._read_at:
                raise _Stopped

        try:
            if name == MANIFEST:
                difference = _manifest_differs(path / name, record)
            else:
                difference = digest_differs(path / name, record, pace)
        except OSError as error:
            if error.errno in NOT_DAMAGE or not path.exists():  # it may have been removed for its age
                self._stopping.wait(_IDLE_SECONDS)
                return
            difference = f"cannot be read: {os.strerror(error.errno or 0)}"
        if difference and _is_another(path, generation):  # an index that was put in the place of the one served
            self._stopping.wait(_IDLE_SECONDS)
            return
        with self._lock:
            if due not in self._read_at:
                return
            self._read_at[due] = time.monotonic()
            if difference:
                self._generation, self._read_at = None, {}
        if difference:
            self.damaged += 1
            logger.error(
                "generation %d in %s is damaged while it is served: %s %s",
                *(generation.manifest.generation, self._folder.path, name, difference),
            )
            self._on_damage(generation)


def _is_another(path: Path, generation: Generation) -> bool:
    """Whether the folder holds a whole manifest, but not that of the generation which was opened there."""
    try:
        data = (path / MANIFEST).read_bytes()
        Manifest.from_bytes(data)
    except (OSError, SemsearchError):
        return False
    return hashlib.sha256(data).hexdigest() != generation.name[1]


def _files_of(generation: Generation) -> Iterator[_File]:
    yield from generation.manifest.files.items()
    yield MANIFEST, FileRecord(0, "", generation.name[1])  # which does not tell its own size


def _manifest_differs(path: Path, record: FileRecord) -> str | None:
    return None if hashlib.sha256(path.read_bytes()).hexdigest() == record.sha256 else "is not the one that was opened"
