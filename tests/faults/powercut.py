"""Does an index survive a power cut, whatever had not reached the disk?

Once as a model: every call of a writer that concerns its index is recorded, the power is cut between any two of them,
and the dice say what came through (see `disks`). And once for real: the writer works on an ext4 file system in a file,
which is copied at a random moment after the writer was killed: the copy holds only what the system had pushed to the
device. Then the index is judged as after a kill, except that everything is.
"""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import kills
from children import Crashed, Hung, in_child
from disks import Disk, write_out
from kills import everything_judged, killed
from tallies import Tally
from tracing import Action, Call, traced
from writer import SMALL, Ledger, Writer

from semsearch import durable
from semsearch.library import Library

MUST_BE_ZERO = kills.MUST_BE_ZERO
_TRIALS_PER_RECORDING = 250
_DISK_BYTES = 96 << 20
_CUTS_PER_DISK = 15


# By a model


def modelled(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of so many power cuts; with the control "fsync off" no fsync reaches the disk."""
    tally, dice = Tally("power cuts", control, seed, MUST_BE_ZERO), random.Random(seed)
    while tally.trials < trials:
        calls, said = recorded(room / "recorded", dice.randrange(1 << 30))
        if control == "fsync off":
            calls = [(at, call) for at, call in calls if call.name not in ("fsync", "fdatasync")]
        for _ in range(min(_TRIALS_PER_RECORDING, trials - tally.trials)):
            moment = len(calls) if control == "null" else dice.randrange(len(calls) + 1)
            _one_cut(room, calls[:moment], said, tally, dice, whole=control == "null")
        shutil.rmtree(room / "recorded")
    return tally


def recorded(room: Path, seed: int) -> tuple[list[tuple[int, Call]], list[tuple[int, str]]]:
    """Return all that a writer did to a new index, and all that it said; both with what counts both together."""
    room.mkdir()
    telling = os.open(os.devnull, os.O_WRONLY)
    calls: list[tuple[int, Call]] = []
    said: list[tuple[int, str]] = []

    def before(call: Call) -> Action:
        return "go on"

    def after(call: Call) -> None:
        now = len(calls) + len(said)
        if call.name == "write" and call.descriptor == telling:
            said.append((now, call.data.decode().rstrip("\n")))
        elif any(path.is_relative_to(room) for path in call.paths):
            calls.append((now, call))

    status = traced(Writer(room / "index", 0, seed, telling, "null", SMALL).work, before, after)
    os.close(telling)
    if status:
        raise Crashed(f"the writer ended with status {status}")
    return calls, said


def _one_cut(
    room: Path,
    calls: list[tuple[int, Call]],
    said: list[tuple[int, str]],
    tally: Tally,
    dice: random.Random,
    whole: bool,
) -> None:
    disk, ledger = Disk(room / "recorded"), Ledger()
    for _, call in calls:
        disk.do(call)
    moment = calls[-1][0] + 1 if calls else 0
    for at, line in said:
        if at < moment:
            ledger.take(line)
    target = room / "after"
    if whole:
        shutil.copytree(room / "recorded", target)
    else:
        write_out(disk.after_power_cut(dice), target)
    _judge(target / "index", ledger, tally, f"cut after call {len(calls)}, {calls[-1][1].name if calls else ''}")
    shutil.rmtree(target)


def _judge(path: Path, ledger: Ledger, tally: Tally, when: str) -> None:
    try:
        judgement = in_child(partial(everything_judged, path, ledger))
    except Crashed as error:
        tally.count("crash", f"{when}: {error}")
    except Hung as error:
        tally.count("hang", f"{when}: {error}")
    else:
        tally.count("damaged" if judgement["wrong"] else "whole", "")
        for name, what in judgement["wrong"]:
            tally.note(name, f"{when}: {what}")
        tally.sums["acknowledged"] += len(ledger.acknowledged)
        ledger.settle({int(number): edition for number, edition in judgement["found"].items()})


# For real


def why_not() -> str | None:
    """Return why no disk can be made here, None if one can."""
    if os.geteuid():
        return "only root may mount a file system"
    missing = [name for name in ("mkfs.ext4", "mount", "umount") if not shutil.which(name, path=_PATHS)]
    if missing:
        return f"there is no {', '.join(missing)}"
    return None


_PATHS = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def real(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of so many power cuts of a real file system; each disk goes on from what was left on it."""
    tally, dice = Tally("real power cuts", control, seed, MUST_BE_ZERO), random.Random(seed)
    while tally.trials < trials:
        image, ledger = room / "disk", Ledger()
        with image.open("wb") as file:
            file.truncate(_DISK_BYTES)
        system("mkfs.ext4", "-q", "-F", str(image))
        for _ in range(min(_CUTS_PER_DISK, trials - tally.trials)):
            with mounted(image, room / "mounted") as folder:
                _worked(folder / "index", ledger, dice, control)
                system("cp", "--sparse=always", str(image), str(room / "copy"))
            os.replace(room / "copy", image)
            with mounted(image, room / "mounted") as folder:
                _judge(folder / "index", ledger, tally, "cut for real")
            if any(tally.failures.values()):
                break  # nobody can go on from what is left
    return tally


def _worked(path: Path, ledger: Ledger, dice: random.Random, control: str) -> None:
    starting = _without_fsync if control == "fsync off" else lambda: None
    killed(path, ledger, dice, "null" if control == "null" else "none", SMALL, starting)
    if control == "null":
        system("sync")


def _without_fsync() -> None:
    durable._sync = lambda descriptor: None
    connected = Library._connected.__func__  # type: ignore[attr-defined]

    def careless(cls: type[Library], path: Path, *, may_create: bool) -> Library:
        library: Library = connected(cls, path, may_create=may_create)
        library._connection.execute("PRAGMA synchronous = OFF")
        return library

    Library._connected = classmethod(careless)  # type: ignore[assignment,method-assign]


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """Give the file system in this file, as it is after a power cut: its journal is replayed."""
    folder.mkdir(exist_ok=True)
    system("mount", "-o", "loop", str(image), str(folder))
    try:
        yield folder
    finally:
        for _ in range(100):
            if not subprocess.run(["umount", str(folder)], check=False, capture_output=True).returncode:
                break
            time.sleep(0.05)


def system(*command: str) -> None:
    """Run a command of the system's, which must succeed."""
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PATH": _PATHS})
