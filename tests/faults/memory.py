"""What if memory runs out, at any moment of opening, searching or publishing?

A process may take so much address space, up to 1.2 times what it would take, and does one thing: answer from the index,
or a step of a writer. It must answer rightly, or say why not, or end; and the index must be as whole as after a kill.
What the system refuses is no damage: no generation may be put aside for it.
"""

import ctypes
import errno
import os
import random
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import kills
from calls import STEPS, Stage
from children import Crashed, Hung, in_child
from damage import Base, served
from kills import judged
from tallies import Tally
from truth import LIVE
from writer import SMALL, Writer

from semsearch.errors import SemsearchError
from semsearch.generation import opening
from semsearch.generation.folder import NOT_DAMAGE

MUST_BE_ZERO = (*kills.MUST_BE_ZERO, "silent", "called damage")
"""A process that ends for want of memory is no crash; a judge that does, is."""
_SHARES = (0.02, 1.2)
_ARENAS = -8  # glibc sets 64 MiB of address space aside for each thread that allocates, and can do without


def out_of_memory(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of so many limits of memory, on answering and on each step of a writer in turn.

    For the null control there is no limit; with "taken for damage", the system's refusal counts as damage to what
    answers, of which half as much memory is enough to be refused at times.
    """
    tally, dice = Tally("out of memory", control, seed, MUST_BE_ZERO), random.Random(seed)
    ctypes.CDLL(None).mallopt(_ARENAS, 1)
    if control == "taken for damage":
        NOT_DAMAGE.discard(errno.ENOMEM)
        opening._NOT_AS_IT_SHOULD_BE = (*opening._NOT_AS_IT_SHOULD_BE, MemoryError)  # type: ignore[assignment]
    (room / "stage").mkdir()
    base, stage = Base(room), Stage(room / "stage")
    works: dict[str, Callable[[], Any]] = {"answer": partial(served, room / "copy")}
    works |= {step: partial(_step, stage, step) for step in STEPS}
    needs = {}
    for name, work in works.items():
        _begin(base, stage, name)
        needs[name] = in_child(partial(_needed, work))
        tally.at_most(f"MB to {name}", needs[name] / 1e6)
    while tally.trials < trials:
        name = "answer" if control == "taken for damage" else [*works][tally.trials % len(works)]
        share = dice.uniform(*_SHARES) / (2 if control == "taken for damage" else 1)
        limit = 0 if control == "null" else round(share * needs[name])
        _begin(base, stage, name)
        when = f"{name}, {share:.2f} of its memory" if limit else f"unlimited {name}"
        _one_limit(base, stage, tally, name, partial(_limited, works[name], limit), when)
    return tally


def _begin(base: Base, stage: Stage, name: str) -> None:
    if name == "answer":
        base.copied()
    else:
        stage.copy()
        stage.said.write_text("")


def _step(stage: Stage, step: str) -> dict[str, Any]:
    telling = os.open(stage.said, os.O_WRONLY | os.O_APPEND)
    Writer(stage.path, stage.known, 2, telling, "null", SMALL).do([step])
    return {}


def _needed(work: Callable[[], Any]) -> int:
    """Return how many bytes of address space this takes beyond what the process has."""
    before = _address_space("VmSize")
    work()
    return _address_space("VmPeak") - before


def _address_space(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _limited(work: Callable[[], Any], limit: int) -> dict[str, Any]:
    """Return what this does with so many bytes more address space, 0 for any number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (_address_space("VmSize") + limit, hard))
    try:
        found: dict[str, Any] = work()
    except (MemoryError, SemsearchError, OSError) as error:
        found = {"refused": f"{type(error).__name__}: {error}"}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return found


def _one_limit(
    base: Base, stage: Stage, tally: Tally, name: str, work: Callable[[], dict[str, Any]], when: str
) -> None:
    """Do it and judge what it left, without a limit."""
    path = base.room / "copy" if name == "answer" else stage.path
    try:
        found = in_child(work)
    except Crashed as error:
        found = {"refused": f"ended, {error}"}
    except Hung as error:
        tally.count("hang", f"{when}: {error}")
        return
    ending = "whole" if when.startswith("unlimited") else "answered" if name == "answer" else "done"
    tally.count("ended" if "ended" in found.get("refused", "") else "refused" if "refused" in found else ending, when)
    in_quarantine = (path / "quarantine").exists()
    if in_quarantine or found.get("generation", LIVE) != LIVE or "can serve" in found.get("refused", ""):
        tally.note("called damage", f"{when}: {found.get('refused') or found.get('log')}")
    try:
        if name == "answer":
            if "answers" in found and found["answers"] != base.truths[str(found["generation"])]:
                tally.note("silent", f"{when}: other answers")
            after = in_child(partial(served, path))
            if after.get("answers") != base.truths[str(LIVE)] and not in_quarantine:
                tally.note("torn", f"{when}: {after.get('refused', 'other answers')} afterwards")
        else:
            ledger = stage.ledger(stage.said.read_text().splitlines())
            judgement = in_child(partial(judged, path, ledger, set(ledger.touched), in_quarantine))
            for kind, what in judgement["wrong"]:
                tally.note(kind, f"{when}: {what}")
    except (Crashed, Hung) as error:
        tally.note("crash" if isinstance(error, Crashed) else "hang", f"{when}, afterwards: {error}")
