"""What if any one system call of a writer were its last, or failed?

Each step of a writer (an import, additions, a deletion, a merge, each with its publish) begins from a copy of the same
index. At one of its calls, in whatever thread and whether ours, SQLite's or tantivy's, it is killed, or the call fails
as a disk, a quota or the system's limits let it fail. Then the index is judged, and brought up to date without a fault.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import kills
from children import Crashed, Hung, in_child
from kills import judged
from powercut import system
from storage import files_below
from tallies import Tally
from tracing import Action, Call, traced
from truth import linked_copy
from writer import SMALL, Ledger, Writer

from semsearch import durable
from semsearch.errors import SemsearchError
from semsearch.generation import IndexFolder, drafts, files

STEPS = ("import", "add", "delete", "merge")
KILLS_MUST_BE_ZERO = (*kills.MUST_BE_ZERO, "changed in place")
FAILURES_MUST_BE_ZERO = (*KILLS_MUST_BE_ZERO, "unnamed", "called damage", "swallowed")
_CHANGING = {"write", "pwrite64", "writev", "fsync", "fdatasync", "ftruncate", "fallocate"} | {
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "creat")
}
_OPENING = ("open", "openat", "creat")
_WRITING = ("write", "pwrite64", "writev")
_NAMING = ("mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat")
_REMOVING = ("unlink", "unlinkat", "rmdir")
_SYNCING = ("fsync", "fdatasync")
FITTING: dict[int | str, tuple[str, ...]] = {
    errno.EIO: (*_WRITING, *_SYNCING, *_OPENING, *_NAMING, "read", "pread64", "ftruncate"),
    errno.ENOSPC: (*_WRITING, *_SYNCING, *_NAMING, "ftruncate", "fallocate"),
    errno.EDQUOT: (*_WRITING, *_SYNCING, *_NAMING, "ftruncate", "fallocate"),
    errno.EMFILE: _OPENING,
    errno.EACCES: (*_OPENING, *_NAMING, *_REMOVING),
    errno.EINTR: (*_WRITING, *_SYNCING, *_OPENING, "read"),  # no flock waits here, so none is interrupted
    "shorten": _WRITING,
}
"""Which calls may fail with which error; "shorten" lets a write take half of what it was given."""
_NAMED = ("disk I/O error", "unable to open database", "disk is full", "readonly database", "free some space")
_UNREADABLE = "database disk image is malformed"  # so SQLite calls what the disk does not give back
_PAGE = 4_096
_LARGER = (300, 60, 30)  # so that there are more than a few pages to fill


@dataclass
class Outcome:
    """What became of one step: how it ended, what it said, and at how many calls it was stopped before."""

    status: int = 0
    calls: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    error: str = ""
    is_ours: bool = True
    hit: str = ""
    harmless: bool = False
    """Whether nothing hangs on a sync that failed.

    Nothing was written to its file, or named in its folder, since the last one; or the file is removed afterwards; or a
    later one succeeds, of a folder, or of the library, whose log stays until then and whose pages are written again.
    """


class Stage:
    """The index that all steps begin from, and what its writer acknowledged."""

    def __init__(self, room: Path, sizes: tuple[int, int, int] = SMALL) -> None:
        """Make it in `room`."""
        self.room = room
        self._sizes = sizes
        self.base = room / "base" / "index"
        self.path = room / "copy" / "index"
        self.base.parent.mkdir()
        self.said = room / "said"
        in_child(partial(self._do, self.base, ["import", "add", "delete", "add"], 0))
        self.lines = self.said.read_text().splitlines()
        self.known = max(self.ledger().acknowledged) + 1
        self.files = files_below(self.base / "generations")

    def ledger(self, more: list[str] | None = None) -> Ledger:
        """Return what was acknowledged, with these lines after it."""
        ledger = Ledger()
        for line in self.lines:
            ledger.take(line)
        ledger.settle({})
        for line in more or []:
            ledger.take(line)
        return ledger

    def copy(self) -> None:
        """Make the copy anew."""
        if self.path.parent.exists():
            shutil.rmtree(self.path.parent)
        self.path.parent.mkdir()
        linked_copy(self.base, self.path)

    def _do(self, path: Path, steps: list[str], known: int) -> None:
        telling = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        Writer(path, known, 1, telling, "null", self._sizes).do(steps)

    def stopped(self, step: str, at: int, what: Action, counted: Callable[[Call], bool]) -> dict[str, Any]:
        """Do a step on the copy, and do `what` at call `at` of those that are counted, from 1; 0 for none."""
        outcome = Outcome()
        report = self.room / "error"
        report.unlink(missing_ok=True)
        telling = os.open(os.devnull, os.O_WRONLY)
        hit: list[Path] = []
        hit_inodes: list[int | None] = []
        library = IndexFolder(self.path).library
        unsynced: set[Path] = set()  # files and folders with content or names since they were brought to the disk

        def before(call: Call) -> Action:
            outcome.harmless |= call.name in _REMOVING and call.paths[-1] in hit and _is_last_name(call.paths[-1])
            if any(path.is_relative_to(self.path) for path in call.paths) and counted(call):
                outcome.calls.append(call.name)
                if len(outcome.calls) == at and call.name in FITTING.get(what, (call.name,)):  # threads change places
                    outcome.hit = f"{call.name} {call.paths[-1].relative_to(self.path.parent)}"
                    hit.append(call.paths[-1])
                    hit_inodes.append(_inode(call.paths[-1]))  # a folder may be renamed before it is synced again
                    outcome.harmless = call.paths[-1] not in unsynced
                    return what
            return "go on"

        def after(call: Call) -> None:
            if call.name == "write" and call.descriptor == telling:
                outcome.said.append(call.data.decode().rstrip("\n"))
            if call.result >= 0 and call.name in _SYNCING and call.paths:
                outcome.harmless |= (library in hit or call.paths[-1].is_dir()) and _inode(call.paths[-1]) in hit_inodes
                unsynced.discard(call.paths[-1])
            elif call.result >= 0 and call.name in (*_WRITING, "ftruncate"):
                unsynced.update(call.paths[-1:])
            elif call.result >= 0 and _gives_name(call):
                unsynced.add(call.paths[-1].parent)

        def work() -> None:
            try:
                Writer(self.path, self.known, 2, telling, "null", self._sizes).do([step])
            except BaseException as error:
                report.write_text(json.dumps([str(error), isinstance(error, SemsearchError | OSError)]))
                os._exit(1)

        outcome.status = traced(work, before, after)
        outcome.harmless |= library in hit and library.with_name(f"{library.name}-wal").exists()
        if report.exists():
            outcome.error, outcome.is_ours = json.loads(report.read_text())
        return asdict(outcome)


def _changes(call: Call) -> bool:
    """Return whether a call changes anything on the disk; SQLite's -shm counts for nothing."""
    if call.paths[-1].name.endswith("-shm"):
        return False
    return call.name in _CHANGING or (call.name in ("open", "openat") and bool(call.flags & 0o1100))


def _in_disorder(point: object) -> str:
    """Return what to sort by: one call more or less leaves all others in their order, unlike a shuffle."""
    return hashlib.sha256(repr(point).encode()).hexdigest()


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def _is_last_name(path: Path) -> bool:
    return path.is_dir() or path.stat().st_nlink == 1


def _gives_name(call: Call) -> bool:
    """Return whether a name comes into a folder by this call; that of SQLite's -shm counts for nothing."""
    is_new = call.name in ("open", "openat") and bool(call.flags & os.O_CREAT) and not call.existed
    return (is_new or call.name in _NAMING) and not call.paths[-1].name.endswith("-shm")


def _can_fail(call: Call) -> bool:
    return any(call.name in names for names in FITTING.values())


# Killed at every call


def killed_at_every_call(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of a kill before each call of each step that changes the disk.

    They are in disorder, always alike, and the seed says which so many of them: the first for 0, the next for 1.
    The null control is not killed; with "acknowledged early", a step says what it does before it begins, and is killed
    as it begins.
    """
    stage, tally = Stage(room), Tally("last calls", control, seed, KILLS_MUST_BE_ZERO)
    points = []
    for step in STEPS:
        stage.copy()
        calls = in_child(partial(stage.stopped, step, 0, "go on", _changes))["calls"]
        tally.at_most(f"calls of {step}", len(calls))
        points += [(step, at) for at in range(1, len(calls) + 1 if control != "acknowledged early" else 4)]
    tally.at_most("points", len(points))
    points.sort(key=_in_disorder)
    for step, at in points[seed * trials : (seed + 1) * trials]:
        stage.copy()
        what: Action = "go on" if control == "null" else "kill"
        try:
            outcome = Outcome(**in_child(partial(stage.stopped, step, at, what, _changes)))
            if control == "acknowledged early":
                outcome.said += [line.replace("begun", "acknowledged") for line in outcome.said if "begun" in line]
            ledger = stage.ledger(outcome.said)
            judgement = in_child(partial(judged, stage.path, ledger, set(ledger.touched)))
        except (Crashed, Hung) as error:
            tally.count("crash" if isinstance(error, Crashed) else "hang", f"{step}, call {at}: {error}")
            continue
        tally.count(f"killed at {outcome.hit.split()[0]}" if outcome.status == -9 else "whole", "")
        _note(tally, stage, judgement["wrong"], f"{step} killed at call {at}, {outcome.hit}")
    return tally


def _note(tally: Tally, stage: Stage, wrong: list[tuple[str, str]], when: str) -> None:
    for name, what in wrong:
        tally.note(name, f"{when}: {what}")
    now = files_below(stage.path / "generations")
    if changed := [name for name, data in stage.files.items() if now.get(name, data) != data]:
        tally.note("changed in place", f"{when}: {changed[:3]}")


# Every call fails


def every_call_fails(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of each error at each call of each step that may fail with it, so many of them by seed.

    The null control lets no call fail; with "fsync ignored", a failed fsync is not heard of.
    """
    stage, tally = Stage(room), Tally("failing calls", control, seed, FAILURES_MUST_BE_ZERO)
    if control == "fsync ignored":
        durable._sync = lambda descriptor: _ignored(partial(os.fsync, descriptor))
    points: list[tuple[str, int, Action]] = []
    for step in STEPS:
        stage.copy()
        calls = in_child(partial(stage.stopped, step, 0, "go on", _can_fail))["calls"]
        tally.at_most(f"calls of {step}", len(calls))
        points += [
            (step, at, error)
            for at, error in _errors(calls)
            if control != "fsync ignored" or _fails_late(calls, at, error)
        ]
    tally.at_most("points", len(points))
    points.sort(key=_in_disorder)
    for step, at, error in points[seed * trials : (seed + 1) * trials]:
        stage.copy()
        _one_failure(stage, tally, step, at, "go on" if control == "null" else error)
    return tally


def _ignored(work: Callable[[], None]) -> None:
    with suppress(OSError):
        work()


def _errors(calls: list[str]) -> Iterator[tuple[int, Action]]:
    for at, name in enumerate(calls, 1):
        yield from ((at, error) for error, names in FITTING.items() if name in names)  # type: ignore[misc]


def _fails_late(calls: list[str], at: int, error: Action) -> bool:
    return calls[at - 1] == "fsync" and error == errno.EIO


def _one_failure(stage: Stage, tally: Tally, step: str, at: int, error: Action) -> None:
    name = errno.errorcode[error] if isinstance(error, int) else error
    when = f"{step}, {name} at call {at}"
    try:
        outcome = Outcome(**in_child(partial(stage.stopped, step, at, error, _can_fail)))
        when += f", {outcome.hit}"
        ledger = stage.ledger(outcome.said)
        in_quarantine = (stage.path / "quarantine").exists()
        unreadable = error == errno.EIO and outcome.hit.startswith(("read ", "pread64 ", "openat "))
        judgement = in_child(partial(judged, stage.path, ledger, set(ledger.touched), unreadable))
    except (Crashed, Hung) as problem:
        tally.count("crash" if isinstance(problem, Crashed) else "hang", f"{when}: {problem}")
        return
    tally.count(_verdict(outcome, error, in_quarantine and not unreadable), f"{when}: {outcome.error}")
    _note(tally, stage, judgement["wrong"], when)


def _verdict(outcome: Outcome, error: Action, called_damage: bool) -> str:
    if outcome.status < 0:
        return "crash"
    if called_damage:
        return "called damage"
    if outcome.status:
        return "refused" if _is_named(outcome, error) else "unnamed"
    if not outcome.hit or error in ("go on", "shorten", errno.EINTR):
        return "whole"
    return "swallowed" if outcome.hit.startswith(_SYNCING) and not outcome.harmless else "done without"


def _is_named(outcome: Outcome, error: Action) -> bool:
    texts = (*_NAMED, os.strerror(error)) if isinstance(error, int) else _NAMED
    if error == errno.EIO and outcome.hit.startswith(("read ", "pread64 ")):
        texts = (*texts, _UNREADABLE)
    return outcome.is_ours and any(text in outcome.error for text in texts)


# The disk is full


def full_disk(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of each step on a file system that is full after so many pages, one more each time.

    Seed 0 takes all steps, another one of them.

    Free space is not looked at beforehand, which would spare it most of this. The null control has room enough; with
    "writes unchecked" nobody hears that a file takes no more, nor reads it back.
    """
    stage, tally = Stage(room, _LARGER), Tally("full disk", control, seed, FAILURES_MUST_BE_ZERO)
    drafts._SPARE_BYTES = drafts._BYTES_PER_PAPER = 0
    if control == "writes unchecked":
        write = durable.CheckedWriter.write
        durable.CheckedWriter.write = _unchecked(write)  # type: ignore[method-assign]
        files.check_written = lambda *_: None
    small = room / "small"
    small.mkdir()
    stage.path = small / "index"
    system("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small))
    try:
        steps = STEPS if not seed else [STEPS[seed % len(STEPS)]]
        if control == "writes unchecked":
            steps = ["merge"]  # which writes no library: SQLite would hear of the full disk first
        for step in steps:
            pages = 8_192 if control == "null" else 0
            while tally.trials < trials:
                outcome = _one_full_disk(stage, small, tally, step, pages)
                if outcome is None or not outcome.status:
                    break
                pages += 1
    finally:
        system("umount", str(small))
    return tally


def _unchecked(write: Callable[..., int]) -> Callable[..., int]:
    def pretending(writer: durable.CheckedWriter, data: bytes) -> int:
        with suppress(OSError):
            return write(writer, data)
        return len(data)

    return pretending


def _one_full_disk(stage: Stage, small: Path, tally: Tally, step: str, pages: int) -> Outcome | None:
    for left in small.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    system("mount", "-o", "remount,size=64m", str(small))
    system("cp", "-a", str(stage.base), str(stage.path))
    used = shutil.disk_usage(small).used
    system("mount", "-o", f"remount,size={used + pages * _PAGE}", str(small))
    when = f"{step} with {pages} pages free"
    try:
        outcome = Outcome(**in_child(partial(stage.stopped, step, 0, "go on", _can_fail)))
        system("mount", "-o", "remount,size=64m", str(small))
        ledger = stage.ledger(outcome.said)
        judgement = in_child(partial(judged, stage.path, ledger, set(ledger.touched)))
    except (Crashed, Hung) as problem:
        tally.count("crash" if isinstance(problem, Crashed) else "hang", f"{when}: {problem}")
        return None
    tally.count(_verdict(outcome, errno.ENOSPC, False), f"{when}: {outcome.error}")
    _note(tally, stage, judgement["wrong"], when)
    return outcome
