"""Does an index lose a paper that it acknowledged, or get one that nobody gave it, however often its writer is killed?

A writer is killed with SIGKILL at a random moment of a step that the dice choose, again and again over one index. After
each kill a new process opens what is there, compares all that was touched since the last kill with what was
acknowledged, brings the index up to date and compares again; after the last, everything.
"""

import os
import random
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from children import Crashed, Hung, forked, in_child
from storage import SPEC, vector_of
from tallies import Tally
from writer import GONE, LARGE, ORIGIN, Ledger, Writer, paper_of

from semsearch.errors import SemsearchError
from semsearch.generation import Generation, IndexFolder, open_current
from semsearch.library import Library, content_digest
from semsearch.publishing import publish_pending
from semsearch.verify import problems

MUST_BE_ZERO = ("lost", "phantom", "torn", "unloadable", "crash", "hang")
STEPS = {"import": 0.25, "publish": 0.06, "add": 0.06, "delete": 0.02, "merge": 0.1}
"""What a writer does, and within how many seconds of its beginning it is killed."""
_STEPS_BY_CONTROL = {"null": ["the end"], "acknowledged early": ["import"]}
_KILLS_PER_INDEX = 20
_SAMPLE = 50
_TOLERANCE = 1e-5


# The killer


def killed(
    path: Path,
    ledger: Ledger,
    dice: random.Random,
    control: str,
    sizes: tuple[int, int, int] = LARGE,
    starting: Callable[[], None] = lambda: None,
) -> str:
    """Let a writer work and kill it; return in which step. For the null control, let it come to its end."""
    reading, writing = os.pipe()
    known = max(ledger.acknowledged, default=-1) + 1
    writing_process = Writer(path, known, dice.randrange(1 << 30), writing, control, sizes)

    def work() -> None:
        starting()
        writing_process.work()

    writer = forked(work)
    os.close(writing)
    step, skipped = dice.choice(_STEPS_BY_CONTROL.get(control, [*STEPS])), dice.randrange(2)
    lines, deadline = Lines(reading), time.monotonic() + 120
    for line in lines.until(deadline):
        ledger.take(line)
        if line == f"step {step}":
            if not skipped:
                break
            skipped -= 1
    until = time.monotonic() + dice.uniform(0, STEPS.get(step, 0))
    for line in lines.until(until):  # or the writer would wait for somebody to read
        ledger.take(line)
    if control != "null":
        os.kill(writer, signal.SIGKILL)
    for line in lines.until(time.monotonic() + 60):
        ledger.take(line)
    os.close(reading)
    _, status = os.waitpid(writer, 0)
    if os.waitstatus_to_exitcode(status) != (0 if control == "null" else -signal.SIGKILL):
        raise Crashed(f"the writer ended by itself, with status {status}")
    return ledger.step


class Lines:
    """The lines that come through a pipe."""

    def __init__(self, reading: int) -> None:
        self._reading = reading
        self._rest = b""

    def until(self, deadline: float) -> Iterator[str]:
        """Yield whole lines until this moment, or until there are no more."""
        while select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            block = os.read(self._reading, 1 << 16)
            if not block:
                return
            *whole, self._rest = (self._rest + block).split(b"\n")
            for line in whole:
                yield line.decode()
            if time.monotonic() > deadline:
                return


# The judge, in a process of its own


def judged(path: Path, ledger: Ledger, numbers: Iterable[int], may_be_damaged: bool = False) -> dict[str, Any]:
    """Return everything that is wrong with the index, and which edition of these papers it holds.

    :param may_be_damaged: whether a generation may have been put aside as damaged.
    """
    folder = IndexFolder(path)
    if not folder.library.exists():
        return {"wrong": [["lost", "there is no library"]] if ledger.acknowledged else [], "found": {}}
    wrong: list[tuple[str, str]] = []
    try:
        with Library.open(folder.library) as library:
            found = dict(_editions(library, ledger, sorted(numbers), wrong))
            if folder.current.exists() or ledger.published:
                wrong += _torn(library, open_current(folder), 0 if may_be_damaged else ledger.published)
            if library.last_seq():
                replayed = publish_pending(folder, library, SPEC)
                wrong += _torn(library, replayed, library.last_seq())
                wrong += _not_first(replayed, found, min(_SAMPLE, len(found)))
            live = sum(edition != GONE for edition in (ledger.acknowledged | found).values())
            held = len(library.all_live_seqs(library.last_seq()))
            if held != live:
                wrong.append(("torn", f"{held} papers are live, {live} should be"))
    except SemsearchError as error:
        wrong.append(("unloadable", str(error)))
        found = {}
    if folder.quarantine.exists() and not may_be_damaged:
        wrong.append(("unloadable", f"in quarantine: {[each.name for each in folder.quarantine.iterdir()]}"))
    return {"wrong": wrong, "found": found}


def _editions(
    library: Library, ledger: Ledger, numbers: Sequence[int], wrong: list[tuple[str, str]]
) -> Iterator[tuple[int, int]]:
    """Yield the edition of each of these papers that the library holds, `GONE` for none."""
    contents = library.known_contents(ORIGIN, [f"k{number}" for number in numbers])
    for number in numbers:
        held, allowed = contents.get(f"k{number}"), ledger.allowed(number)
        digests = {_digest(number, edition): edition for edition in allowed}
        if held in digests:
            yield number, digests[held]
        else:
            kind = "lost" if allowed[0] != GONE else "phantom"  # an older edition of it is as good as none
            wrong.append((kind, f"paper {number}: {allowed} may be there"))


def _digest(number: int, edition: int) -> bytes | None:
    return None if edition == GONE else content_digest(paper_of(number, edition).to_json())


def _torn(library: Library, opened: Generation, at_least: int) -> Iterator[tuple[str, str]]:
    """Yield where a generation and the library disagree."""
    last_seq = opened.manifest.last_seq
    if last_seq < at_least:
        yield "lost", f"generation {opened.manifest.generation} ends at {last_seq}, published was {at_least}"
    if not np.array_equal(opened.live_seqs(), library.all_live_seqs(last_seq)):
        yield "torn", f"generation {opened.manifest.generation} holds other papers than the library at {last_seq}"
    rows = np.flatnonzero(opened.live)[:: max(1, opened.papers // _SAMPLE)]
    seqs = opened.seqs_at(rows).tolist()
    names = library.ids_at(seqs)
    if [names[seq] for seq in seqs] != opened.ids_at(rows):
        yield "torn", f"rows of generation {opened.manifest.generation} have other ids than the library"


def _not_first(opened: Generation, found: dict[int, int], sample: int) -> Iterator[tuple[str, str]]:
    """Yield which papers are not found first by their own text."""
    there = [each for each in found.items() if each[1] != GONE]
    for number, edition in there[:: max(1, len(there) // max(1, sample))]:
        vector = vector_of(paper_of(number, edition).text)
        scores, rows = opened.nearest(vector[None, :], 1)
        if not rows.size or scores[0, 0] < 1 - _TOLERANCE or opened.ids_at(rows[0]) != [f"k{number}"]:
            yield "lost", f"paper {number} is not found first by its own text"


def everything_judged(path: Path, ledger: Ledger) -> dict[str, Any]:
    """Return everything that is wrong after the last kill: each paper compared, found, and `verify` asked."""
    judgement = judged(path, ledger, {*ledger.acknowledged, *ledger.begun})
    folder = IndexFolder(path)
    if folder.current.exists() and not judgement["wrong"]:
        judgement["wrong"] += _not_first(open_current(folder), judgement["found"], len(judgement["found"]))
        judgement["wrong"] += [("torn", line) for line in problems(folder)]
    return judgement


# A batch


def run(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of so many kills; with the control "acknowledged early" the writer says so before it is true."""
    tally, dice = Tally("kills", control, seed, MUST_BE_ZERO), random.Random(seed)
    while tally.trials < trials:
        path, ledger = room / f"index{tally.trials}" / "index", Ledger()
        path.parent.mkdir()
        for _ in range(min(_KILLS_PER_INDEX, trials - tally.trials)):
            _one_kill(path, ledger, tally, dice, control)
        if ledger.acknowledged:
            _note(tally, in_child(partial(everything_judged, path, ledger), 300), "after the last kill")
        tally.sums["acknowledged"] += ledger.count
        in_child(partial(_removed, path.parent))
    return tally


def _one_kill(path: Path, ledger: Ledger, tally: Tally, dice: random.Random, control: str) -> None:
    try:
        step = killed(path, ledger, dice, control)
        judgement = in_child(partial(judged, path, ledger, set(ledger.touched)), 120)
    except (Crashed, Hung) as error:
        tally.count("crash" if isinstance(error, Crashed) else "hang", str(error))
        return
    tally.count("whole" if control == "null" else f"killed in {step}", "")
    _note(tally, judgement, f"killed in {step}")
    ledger.settle({int(number): edition for number, edition in judgement["found"].items()})


def _note(tally: Tally, judgement: dict[str, Any], when: str) -> None:
    for name, what in judgement["wrong"]:
        tally.note(name, f"{when}: {what}")


def _removed(path: Path) -> None:
    shutil.rmtree(path)
