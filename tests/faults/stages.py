"""What if a change of model, a backup, a restore or a repair were killed at any of its system calls?

Each begins from a copy of the same place: an index that was live for one model and is staged for another, its backup,
and damage where there is something to repair. It is killed before a call that changes the disk. Then the index must be
as it was or as it should have become, hold all of its papers, and come through the same step when that is done again.
"""

import logging
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from calls import _changes
from children import Crashed, Hung, in_child
from storage import SPEC, Shelf, clone, rich_paper, vector_of
from tallies import Tally
from tracing import Action, Call, traced
from truth import StubEncoder

from semsearch import copying
from semsearch.copying import backup, restore
from semsearch.encoders import EncoderSpec
from semsearch.generation import IndexFolder, current_generation, open_current
from semsearch.library import Embedding, Library, text_digest
from semsearch.publishing import publish_pending, stage_pending
from semsearch.repair import repair
from semsearch.verify import problems

OTHER = EncoderSpec("other-model", "a" * 64, 8, 256)
MUST_BE_ZERO = ("lost", "between", "unsound", "stuck", "crash", "hang")
"""`between`: neither as before nor as it should be; `stuck`: the same step, done again, does not come through."""
_PAPERS = [rich_paper(number, 0) for number in range(14)]


def _index(room: Path) -> Path:
    return room / "index"


def _copy(room: Path) -> Path:
    return room / "copy"


# What is killed


def _stage(room: Path) -> None:
    folder = IndexFolder(_index(room))
    with Library.open(folder.library) as library:
        stage_pending(folder, library, OTHER, library.last_seq())


def _publish(spec: EncoderSpec, room: Path) -> None:
    folder = IndexFolder(_index(room))
    with Library.open(folder.library) as library:
        publish_pending(folder, library, spec)


def _back_up(room: Path) -> None:
    backup(IndexFolder(_index(room)), room / "new-copy")


def _restore(room: Path) -> None:
    restore(IndexFolder(_copy(room)), _index(room), aside=True)


def _repair(room: Path) -> None:
    left = repair(IndexFolder(_index(room)), lambda spec: StubEncoder()).left
    assert not left, left


def _damage(room: Path) -> None:
    """Spoil a generation and an embedding, and leave what a killed process leaves."""
    folder = IndexFolder(_index(room))
    (folder.generation(2) / "works.npy").unlink()
    with Library.open(folder.library) as library:
        library._run("UPDATE embeddings SET tokens = 77 WHERE embedding = 3")
    folder.staging.mkdir()
    folder.current.with_name("CURRENT.tmp").touch()


def _nothing(room: Path) -> None:
    pass


def _changed_since(room: Path) -> None:
    """Let the index hold more than its backup."""
    folder = IndexFolder(_index(room))
    with Library.open(folder.library) as library:
        library.delete(["p2"])
        publish_pending(folder, library, SPEC)


@dataclass(frozen=True)
class Step:
    """What is done before, what is killed, and whether what it leaves must be sound before it is done again."""

    prepare: Callable[[Path], None]
    do: Callable[[Path], None]
    is_sound_between: bool = True


STEPS = {
    "stage": Step(_nothing, _stage),
    "switch": Step(_nothing, partial(_publish, OTHER)),
    "rollback": Step(partial(_publish, OTHER), partial(_publish, SPEC)),
    "backup": Step(_nothing, _back_up),
    "restore": Step(_changed_since, _restore),
    "repair": Step(_damage, _repair, is_sound_between=False),
}


def make_room(room: Path) -> None:
    """Make the index, live for one model and staged for another, and its backup."""
    shelf = Shelf(_index(room))
    shelf.add(_PAPERS[:10])
    shelf.publish()
    shelf.add(_PAPERS[10:])
    shelf.delete(["p1"])
    shelf.publish()
    embeddings = [Embedding(text_digest(paper.text), -vector_of(paper.text), 9) for paper in _PAPERS]
    shelf.library.add_embeddings(embeddings, shelf.library.encoder_number(OTHER.fingerprint, OTHER.name))
    stage_pending(shelf.folder, shelf.library, OTHER, shelf.library.last_seq())
    shelf.library.close()
    backup(shelf.folder, _copy(room))


def state_of(path: Path) -> list[Any]:
    """Return what is live: the model, what can be found, and the library's last change; nothing without an index."""
    folder = IndexFolder(path)
    if not folder.library.exists() or current_generation(folder) is None:
        return []
    with Library.open(folder.library) as library:
        live = open_current(folder)
        return [live.manifest.encoder.name, live.live_seqs().tolist(), library.last_seq()]


def _stopped(room: Path, step: Step, at: int, what: Action) -> dict[str, Any]:
    """Do the step, and `what` at call `at` of those that change the disk, from 1; 0 for none."""
    seen: list[str] = []

    def before(call: Call) -> Action:
        if any(path.is_relative_to(room) for path in call.paths) and _changes(call):
            seen.append(f"{call.name} {call.paths[-1].relative_to(room)}")
            if len(seen) == at:
                return what
        return "go on"

    status = traced(lambda: step.do(room), before, lambda call: None)
    return {"status": status, "calls": seen}


def _judged(room: Path, name: str, before: list[Any], after: list[Any]) -> list[tuple[str, str]]:
    """Return what is wrong with what a kill left, and with what doing the step again makes of it."""
    logging.disable(logging.CRITICAL)  # a repair is loud about what it finds
    step, wrong = STEPS[name], []
    found = state_of(_index(room)) if step.is_sound_between else before
    if found not in (before, after):
        return [("between", f"{found}, neither {before} nor {after}")]
    wrong += [("unsound", line) for line in (problems(IndexFolder(_index(room))) if step.is_sound_between else ())]
    wrong += [("lost", line) for line in problems(IndexFolder(_copy(room)))]
    if name == "restore" and found == after and before not in map(state_of, room.glob("index?*")):
        wrong.append(("lost", "the old index, which should stand beside the new one"))
    made = room / "new-copy"
    if made.exists():
        wrong += [("unsound", line) for line in problems(IndexFolder(made))]
        shutil.rmtree(made)
    try:
        if found != after or name != "restore":
            step.do(room)
        if state_of(_index(room)) != after:
            wrong.append(("stuck", f"{state_of(_index(room))} instead of {after}"))
        wrong += [("unsound", f"in the end: {line}") for line in problems(IndexFolder(_index(room)))]
    except Exception as error:
        wrong.append(("stuck", f"{type(error).__name__}: {error}"))
    return wrong


def killed(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of a kill before each call of each step that changes the disk, so many of them by the seed.

    The null control kills no restore; with "two renames", one moves the old index away and then the new one into its
    place, instead of exchanging them, and is killed at these.
    """
    tally, dice = Tally("steps", control, seed, MUST_BE_ZERO), random.Random(0)
    if control == "two renames":
        copying.exchange_folders = _two_renames  # type: ignore[attr-defined]
    base, place = room / "base", room / "place"
    base.mkdir()
    in_child(lambda: make_room(base))
    points, states = [], {}
    for name in STEPS if control == "none" else ["restore"]:
        _prepare(base, place, name)
        before = in_child(partial(state_of, _index(place)))
        calls = in_child(partial(_stopped, place, STEPS[name], 0, "go on"))["calls"]
        states[name] = before if name != "repair" else [], in_child(partial(state_of, _index(place)))
        tally.at_most(f"calls of {name}", len(calls))
        points += [
            (name, at) for at, call in enumerate(calls, 1) if control != "two renames" or call.startswith("rename ")
        ]
    tally.at_most("points", len(points))
    dice.shuffle(points)
    for name, at in points[seed * trials : (seed + 1) * trials]:
        _prepare(base, place, name)
        what: Action = "go on" if control == "null" else "kill"
        try:
            outcome = in_child(partial(_stopped, place, STEPS[name], at, what))
            wrong = in_child(partial(_judged, place, name, *states[name]))
        except (Crashed, Hung) as error:
            tally.count("crash" if isinstance(error, Crashed) else "hang", f"{name}, call {at}: {error}")
            continue
        tally.count(f"{name} killed" if outcome["status"] == -9 else "whole", "")
        for failure, line in wrong:
            tally.note(failure, f"{name} killed at call {at}, {outcome['calls'][-1]}: {line}")
    return tally


def _prepare(base: Path, place: Path, name: str) -> None:
    shutil.rmtree(place, ignore_errors=True)
    clone(base, place)
    in_child(partial(STEPS[name].prepare, place))


def _two_renames(one: Path, other: Path) -> None:
    aside = other.with_name(f"{other.name}.aside")
    os.rename(other, aside)
    os.rename(one, other)
    os.rename(aside, one)
