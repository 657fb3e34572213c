"""Do two writers get in each other's way, and does a clock that jumps?

Two writers work on one index at the same time, each on papers of its own, one of them killed half of the time: each
thing that either was told must be there, and no lock may stay. And a writer works while its clock jumps by up to a day
back and forth, also the one that the file system stamps folders with: the live generation and the one before it must
stay.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import kills
from children import Crashed, Hung, forked, in_child
from kills import everything_judged
from tallies import Tally
from writer import SMALL, Ledger, Writer

from semsearch import durable
from semsearch.errors import IndexBusyError
from semsearch.generation import IndexFolder, current_generation, open_current, writing

MUST_BE_ZERO = kills.MUST_BE_ZERO
_FIRST_OF_SECOND = 1_000_000
_WRITER_SECONDS = 120.0
_DAY = 86_400.0


class PatientWriter(Writer):
    """A writer that leaves a step out when another process is at it."""

    def do(self, names: Iterable[str]) -> None:
        """Do these steps, as far as another writer lets it."""
        self._steps = {name: partial(self._unless_busy, step) for name, step in self._steps.items()}
        super().do(names)

    def _unless_busy(self, step: Callable[[], None]) -> None:
        try:
            step()
        except IndexBusyError:
            self._tell("step", "busy")


def two_writers(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of so many meetings; with "locks off", nobody waits for anybody.

    For the null control, the second begins when the first is done.
    """
    tally, dice = Tally("two writers", control, seed, MUST_BE_ZERO), random.Random(seed)
    while tally.trials < trials:
        path = room / "index" / "index"
        path.parent.mkdir()
        ledgers = [room / "first", room / "second"]
        first = _started(path, 0, dice.randrange(1 << 30), ledgers[0], control)
        if control == "null":
            os.waitpid(first, 0)
        second = _started(path, _FIRST_OF_SECOND, dice.randrange(1 << 30), ledgers[1], control)
        killed = second if control != "null" and dice.random() < 0.5 else 0
        if killed:
            time.sleep(dice.uniform(0.2, 1.0))
            os.kill(killed, signal.SIGKILL)
        statuses = {each: _ended(each) for each in ([second] if control == "null" else [first, second])}
        when = "whole" if control == "null" else "one killed" if killed else "none killed"
        if bad := {each: status for each, status in statuses.items() if status and each != killed}:
            tally.note("hang" if -signal.SIGALRM in bad.values() else "crash", f"{when}: {bad}")
        _judge(path, _joined(ledgers), tally, when)
        shutil.rmtree(path.parent)
    return tally


def _started(path: Path, first: int, seed: int, said: Path, control: str) -> int:
    def work() -> None:
        signal.alarm(int(_WRITER_SECONDS))
        if control == "locks off":
            durable._locked = lambda descriptor: True
        telling = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        PatientWriter(path, first, seed, telling, "null", SMALL, first).work()

    return forked(work)


def _ended(writer: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1])


def _joined(said: Iterable[Path]) -> Ledger:
    """Return what several writers said; what one was told to be published, the other may have."""
    ledger = Ledger()
    for path in said:
        for line in path.read_text().splitlines():
            ledger.take(line)
    return ledger


def _judge(path: Path, ledger: Ledger, tally: Tally, when: str, more: Iterable[tuple[str, str]] = ()) -> None:
    try:
        judgement: dict[str, Any] = in_child(partial(everything_judged, path, ledger))
    except (Crashed, Hung) as error:
        tally.count("crash" if isinstance(error, Crashed) else "hang", f"{when}: {error}")
        return
    tally.count(when, "")
    tally.sums["acknowledged"] += ledger.count
    for name, what in (*judgement["wrong"], *more):
        tally.note(name, f"{when}: {what}")


# A clock that jumps


class JumpingClock:
    """Stands for the module `time`, of which the wall clock is off by up to a day, each time by another amount."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)

    def time(self) -> float:
        """Return seconds since 1970, more or less."""
        return time.time() + self._dice.uniform(-_DAY, _DAY)

    def __getattr__(self, name: str) -> Any:
        """Return what the real module has."""
        return getattr(time, name)


def jumping_clock(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of so many writers; with "live unguarded", age alone decides what is removed."""
    tally, dice = Tally("clock", control, seed, MUST_BE_ZERO), random.Random(seed)
    while tally.trials < trials:
        path, said, seen = room / "index" / "index", room / "said", room / "seen"
        path.parent.mkdir()
        seen.write_text("")
        writer = forked(partial(_timeless, path, dice.randrange(1 << 30), said, seen, control))
        status = os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1])
        wrong = [("torn", line) for line in seen.read_text().splitlines()]
        if status:
            wrong.append(("crash", f"the writer ended with status {status}"))
        _judge(path, _joined([said]), tally, "whole" if control == "null" else "jumped", wrong)
        shutil.rmtree(path.parent)
    return tally


def _timeless(path: Path, seed: int, said: Path, seen: Path, control: str) -> None:
    """Work with a clock that jumps, and note after each publish what is missing."""
    dice = random.Random(seed)
    remove_old = writing._remove_old
    if control != "null":
        writing.time = JumpingClock(seed + 1)  # type: ignore[assignment,attr-defined]
    if control == "live unguarded":
        writing.KEEP_AT_LEAST = 0
        remove_old = _unguarded

    def watched(folder: IndexFolder, live: int) -> None:
        for number in folder.published() if control != "null" else []:
            stamp = time.time() + dice.uniform(-_DAY, _DAY)
            os.utime(folder.generation(number), (stamp, stamp))
        newest = folder.published()[:2]
        remove_old(folder, live)
        named, kept = current_generation(folder), folder.published()
        if not named or not {named[0], *newest} <= set(kept):
            with seen.open("a") as file:
                file.write(f"of the live one, {named}, and the newest, {newest}, only {kept} are left\n")
            os._exit(0)
        open_current(folder)

    writing._remove_old = watched
    telling = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    Writer(path, 0, seed, telling, "null", SMALL).work()


_remove_old = writing._remove_old


def _unguarded(folder: IndexFolder, live: int) -> None:
    _remove_old(folder, -1)
