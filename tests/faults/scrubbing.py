"""Does a service notice what becomes of a file while it answers from it, and what does it do then?

Each trial serves a copy of the index as the service does, changes one file of the generation that is served, in place
and beneath its mapping, and waits: within one round of the scrub that must be noticed and said, nothing of that
generation may answer any more, and what answers next must answer as before. Files are neither cut nor lengthened in
place: whoever reads a mapping beyond the end of its file is killed, and started again.
"""

import logging
import random
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from children import Crashed, Hung, in_child
from damage import Base, Heard
from mutations import KINDS
from tallies import Tally
from truth import UNPUBLISHED, StubEncoder, essence

from semsearch.encoders import Encoder, ModelFolder
from semsearch.generation import IndexFolder
from semsearch.generation.folder import MANIFEST
from semsearch.search import Searcher
from semsearch.service.live import LiveSearcher, State
from semsearch.service.models import Models
from semsearch.service.scrub import Scrub

MUST_BE_ZERO = ("unnoticed", "silent", "unsaid", "not healed", "slow to stop", "crash", "hang")
IN_PLACE = ("one bit", "eight bits", "zero tail", "zero page", "all zero", "misplaced write", "deleted")
_ROUND_SECONDS = 0.5
_SLACK_SECONDS = 2.0  # for a machine with other work
_HEALED_WITHIN_SECONDS = 20.0
_STOPPED_WITHIN_SECONDS = 1.0
_POLL_SECONDS = 0.02


def changed_while_served(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of so many changes; with "scrub off" nobody looks, for the null control nothing is changed."""
    base, dice = Base(room), random.Random(seed)
    tally = Tally("changed while served", control, seed, MUST_BE_ZERO)
    names = tuple(path.relative_to(base.path).as_posix() for path in base.path.glob("generations/**/*.*"))
    if control == "scrub off":
        Scrub.start = lambda self: None  # type: ignore[method-assign]
    while tally.trials < trials:
        path, kind, own = base.copied(names), dice.choice(IN_PLACE), dice.random() < 0.5
        kind = "none" if control == "null" else kind
        what = kind
        try:
            found = in_child(partial(_served, path, kind, own, dice.randrange(1 << 30)))
            what = f"{kind}, {found['name']}{'' if own else ', shared'}"
            tally.count(_verdict(base, tally, found, kind), f"{what}: {found['log']}")
        except (Crashed, Hung) as error:
            tally.count("crash" if isinstance(error, Crashed) else "hang", f"{what}: {error}")
    return tally


def _served(path: Path, kind: str, own: bool, seed: int) -> dict[str, Any]:
    """Serve this index, change a file, and return what came of it."""
    dice, heard, folder = random.Random(seed), Heard(), IndexFolder(path)
    logging.getLogger("semsearch").addHandler(heard)
    if own:
        for file in [file for file in folder.generations.rglob("*.*") if file.is_file()]:
            _given_its_own(file)
    live = LiveSearcher(folder, _models(folder), poll_seconds=_POLL_SECONDS, scrub_seconds=_ROUND_SECONDS)
    live.start()
    served = _within(_HEALED_WITHIN_SECONDS, lambda: live.state == State("ready", "none") and live.searcher)
    generation = served.generation.manifest
    essence(served)  # so that every file is in use
    before = _asked(served)
    name = dice.choice(sorted([*generation.files, MANIFEST]))
    file = folder.generation(generation.generation) / name
    if kind != "none":
        _change(file, kind, dice)
    changed_at, other_answers = time.monotonic(), 0
    while not live.scrub.damaged and time.monotonic() - changed_at < _ROUND_SECONDS + _SLACK_SECONDS:
        other_answers += live.searcher is served and _asked(served) != before
        time.sleep(0.01)
    found: dict[str, Any] = {
        "name": name,
        "noticed": bool(live.scrub.damaged),
        "seconds": time.monotonic() - changed_at,
        "other answers": other_answers,
        "before": generation.generation,
        "read again": live.scrub.bytes_read > sum(record.bytes for record in generation.files.values()),
    }
    if found["noticed"] or kind == "none":
        healed = _within(_HEALED_WITHIN_SECONDS, lambda: live.state == State("ready", "none") and live.searcher)
        found["seconds to replace"] = time.monotonic() - changed_at - found["seconds"]
        found["generation"] = healed.generation.manifest.generation
        found["essence"] = essence(healed)
    found["in quarantine"] = [each.name for each in folder.quarantine.glob("*")]
    stopping_at = time.monotonic()
    live.scrub.stop()
    found["seconds to stop"] = time.monotonic() - stopping_at
    live.stop()
    return found | {"log": heard.messages}


def _models(folder: IndexFolder) -> Models:
    stub = cast(Encoder, StubEncoder())
    return Models(folder, None, lambda name, networks: cast(ModelFolder, stub), lambda model, device: stub)


def _within(seconds: float, look: Callable[[], Any]) -> Searcher:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"that did not come to pass within {seconds:g} seconds")
        time.sleep(0.005)
    return cast(Searcher, found)


def _given_its_own(file: Path) -> None:
    copy = file.with_name(f"{file.name}.own")
    shutil.copyfile(file, copy)
    copy.rename(file)


def _change(file: Path, kind: str, dice: random.Random) -> None:
    """Do this to the file, whose mapped pages see it; what would be left as it was gets another bit."""
    if kind == "deleted":
        file.unlink()
        return
    before, scratch = file.read_bytes(), file.parents[2] / "scratch"
    scratch.write_bytes(before)
    KINDS[kind](scratch, dice)
    if scratch.read_bytes() == before:
        KINDS["one bit"](scratch, dice)
    after = scratch.read_bytes()
    scratch.unlink()
    with file.open("r+b", buffering=0) as opened:
        opened.write(after)


def _asked(served: Searcher) -> list[str]:
    """Return what is found, in words the reason why nothing is."""
    try:
        return [hit.paper.paper_id for hit in served.search("weighted grammars").hits]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def _verdict(base: Base, tally: Tally, found: dict[str, Any], kind: str) -> str:
    tally.at_most("seconds to stop the scrub", found["seconds to stop"])
    if found["seconds to stop"] > _STOPPED_WITHIN_SECONDS:
        return "slow to stop"
    if kind == "none":
        return "whole" if not found["noticed"] and found["read again"] else "silent"
    if not found["noticed"]:
        return "unnoticed"
    tally.at_most(f"seconds to notice, with a round of {_ROUND_SECONDS:g} s", found["seconds"])
    tally.at_most("seconds from then to the next sound answer", found["seconds to replace"])
    if found["other answers"]:
        tally.note("gave another answer before it was noticed", "")
    if found["essence"] != base.healed[UNPUBLISHED]:
        return "silent"
    if not any("is damaged while it is served" in line and found["name"] in line for line in found["log"]):
        return "unsaid"
    aside = any(name.startswith(f"{found['before']:06d}-") for name in found["in quarantine"])
    return "replaced" if aside and found["generation"] > found["before"] else "not healed"
