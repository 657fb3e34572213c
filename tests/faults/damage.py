"""Does an index notice whatever becomes of any of its files, before it answers from them?

Each trial damages one file of a copy of the index, in one way, and asks what came of it: an older generation answers,
loudly, or none does, and says why. Then the index is brought up to date, as the next `semsearch index` would, and must
be what it was.
"""

import hashlib
import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from children import Crashed, Hung, in_child
from mutations import KINDS
from storage import SPEC, rich_paper
from storage import add as add_papers
from tallies import Tally
from truth import (
    LIVE,
    PAPERS,
    UNPUBLISHED,
    answers,
    essence,
    files_digest,
    linked_copy,
    make_index,
    older_library,
    searcher_of,
)

from semsearch.errors import SemsearchError
from semsearch.generation import IndexFolder, open_current, open_generation, opening
from semsearch.generation.folder import current_line
from semsearch.library import Library, rows
from semsearch.publishing import publish_pending
from semsearch.verify import problems

FALLBACK_SECONDS = 5.0
MUST_BE_ZERO = ("silent", "crash", "hang", "unexplained", "unsaid", "slow", "not healed", "changed in place")
_LIVE_FOLDER = f"generations/{LIVE:06d}"
_DATABASE, _LOG = "library.db", "library.db-wal"
_HEALED_SHARE = 0.25

_OF_ANOTHER = ("of an older generation", "of another index")
_OF_CURRENT = (*KINDS, *_OF_ANOTHER)
_OF_DATABASES = tuple(kind for kind in KINDS if kind not in ("swapped", "a folder", "extra file"))


class Base:
    """The index that is damaged, another of the same form, and what each generation answers."""

    def __init__(self, room: Path) -> None:
        """Make all of it in `room`."""
        self.room = room
        self.path, self.other = room / "base", room / "other"
        for path, first in ((self.path, 0), (self.other, 1_000)):
            in_child(partial(make_index, path, first))
        self.digest = files_digest(self.path / "generations")
        self.truths: dict[str, dict[str, Any]] = {}
        for number in range(1, LIVE + 1):
            self.truths[str(number)] = in_child(partial(self._answers_of, number))
        self.healed: list[dict[str, Any]] = [in_child(partial(self._healed, k)) for k in range(UNPUBLISHED + 1)]
        manifest = json.loads((self.path / _LIVE_FOLDER / "manifest.json").read_bytes())["manifest"]
        self.files = [f"{_LIVE_FOLDER}/{name}" for name in sorted(manifest["files"])] + [
            f"{_LIVE_FOLDER}/manifest.json"
        ]

    def copied(self, own: tuple[str, ...] = ()) -> Path:
        """Return a copy to do anything with."""
        target = self.room / "copy"
        remove(target)
        return linked_copy(self.path, target, own)

    def _answers_of(self, number: int) -> dict[str, Any]:
        folder = IndexFolder(self.copied())
        return answers(searcher_of(folder, open_generation(folder, number)))

    def _healed(self, unpublished: int) -> dict[str, Any]:
        """Return the essence of an index that holds so many of the papers that are not published yet."""
        folder = IndexFolder(self.copied())
        with Library.open(folder.library) as opened:
            published = publish_pending(folder, opened, SPEC, up_to=opened.last_seq() - UNPUBLISHED + unpublished)
        return essence(searcher_of(folder, published))

    def generation_pairs(self) -> Iterator[tuple[str, str, bool]]:
        """Yield every file with everything that may become of it, and whether other generations' links see it."""
        for name in self.files:
            links = (self.path / name).stat().st_nlink
            kinds = (*KINDS, "of another index") if (self.other / name).exists() else (*KINDS,)
            if self._older(name):
                kinds = (*kinds, "of an older generation")
            for kind in kinds:
                yield from ((name, kind, shared) for shared in ((False, True) if links > 1 else (False,)))
        yield from (("CURRENT", kind, False) for kind in _OF_CURRENT)

    def library_pairs(self) -> Iterator[tuple[str, str, bool]]:
        """Yield the library's two files with everything that may become of them.

        Where the third is true, all of the log is in the file before, so that no damage of the file is covered by it.
        """
        yield from ((_DATABASE, kind, False) for kind in ("an older copy", "an older copy alone"))
        for kind in (*_OF_DATABASES, *("one bit", "eight bits", "zero page", "misplaced write") * 2):
            yield _DATABASE, kind, True
        for name in (_DATABASE, _LOG):
            yield from ((name, kind, False) for kind in (*_OF_DATABASES, "of another index"))
            yield from [(name, kind, False) for kind in ("one bit", "eight bits", "zero page", "misplaced write")] * 2

    def _older(self, name: str) -> Path | None:
        path = self.path / name.replace(_LIVE_FOLDER, f"generations/{LIVE - 1:06d}")
        mine = self.path / name
        return path if path != mine and path.exists() and not path.samefile(mine) else None

    def apply(self, path: Path, name: str, kind: str, dice: random.Random) -> None:
        """Damage this file of a copy."""
        if kind == "of another index":
            (path / name).write_bytes((self.other / name).read_bytes())
        elif kind.startswith("an older copy"):
            (path / name).write_bytes(older_library(self.path).read_bytes())
            if kind.endswith("alone"):
                (path / _LOG).unlink()
        elif kind == "of an older generation":
            older = self._older(name)
            (path / name).write_bytes(older.read_bytes() if older else self._current_of(LIVE - 1))
        else:
            KINDS[kind](path / name, dice)

    def _current_of(self, number: int) -> bytes:
        manifest = self.path / f"generations/{number:06d}/manifest.json"
        return current_line(number, hashlib.sha256(manifest.read_bytes()).hexdigest(), None)


def remove(path: Path) -> None:
    """Remove a folder if it is there."""
    if path.exists():
        shutil.rmtree(path)


# One trial


class Heard(logging.Handler):
    """What was logged, all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.messages.append(record.getMessage())


def served(path: Path) -> dict[str, Any]:
    """Return what a reader gets: the generation, all answers and the seconds to the first; or why it gets none."""
    heard = Heard()
    logging.getLogger("semsearch").addHandler(heard)
    folder = IndexFolder(path)
    started = time.monotonic()
    try:
        opened = open_current(folder)
        searcher = searcher_of(folder, opened)
        searcher.search("weighted grammars")
        seconds = time.monotonic() - started
        found: dict[str, Any] = {"generation": opened.manifest.generation, "answers": answers(searcher)}
        searcher.close()
    except SemsearchError as error:
        return {"refused": str(error), "log": heard.messages}
    return found | {"seconds": seconds, "log": heard.messages}


def brought_up_to_date(path: Path) -> dict[str, Any]:
    """Return what the index answers when it was brought up to date, and what `verify` finds; or why it cannot be."""
    folder = IndexFolder(path)
    try:
        with Library.open(folder.library) as opened:
            publish_pending(folder, opened, SPEC)
        searcher = searcher_of(folder, open_current(folder))
        found = essence(searcher)
        searcher.close()
    except (SemsearchError, OSError) as error:
        return {"refused": str(error), "problems": _found_by_verify(folder)}
    return {"essence": found, "problems": _found_by_verify(folder)}


def _found_by_verify(folder: IndexFolder) -> list[str]:
    try:
        return list(problems(folder))
    except SemsearchError as error:
        return [str(error)]


def gone_on(path: Path) -> dict[str, Any]:
    """Return what the index answers after one more paper; or why it takes none."""
    folder = IndexFolder(path)
    try:
        with Library.open(folder.library) as opened:
            add_papers(opened, [rich_paper(PAPERS + UNPUBLISHED + 1, 0)])
            publish_pending(folder, opened, SPEC)
        searcher = searcher_of(folder, open_current(folder))
        found = essence(searcher)["papers"]
        searcher.paper(f"p{PAPERS + UNPUBLISHED + 1}")
        searcher.close()
    except SemsearchError as error:
        return {"refused": str(error)}
    return {"papers": found}


def trial(base: Base, tally: Tally, name: str, kind: str, shared: bool, dice: random.Random) -> None:
    """Damage this file of a copy and count what came of it; one in four generations is brought up to date as well."""
    what = f"{kind}, {name}{', shared' if shared else ''}"
    path = base.copied((name,) if name in base.files else ())
    if shared and name == _DATABASE:
        in_child(partial(_without_log, path))
    if not shared and name in base.files:
        data = (path / name).read_bytes()
        (path / name).unlink()
        (path / name).write_bytes(data)
    before = _content(path / name)
    if kind != "none":
        base.apply(path, name, kind, dice)
        if _content(path / name) == before and kind not in ("extra file",):
            tally.outcomes["left as it was"] += 1  # zeros on zeros
            return
    try:
        found = in_child(partial(served, path))
        tally.count(_verdict(base, tally, found, name, kind), what)
        if name in (_DATABASE, _LOG) or dice.random() < _HEALED_SHARE:
            _go_on(base, tally, path, name, what)
    except Crashed as error:
        tally.count("unexplained" if "status" in str(error) else "crash", f"{what}: {error}")
    except Hung as error:
        tally.count("hang", f"{what}: {error}")


def _without_log(path: Path) -> None:
    with Library.open(path / _DATABASE):  # whoever closes it last brings the log into the file
        pass


def _go_on(base: Base, tally: Tally, path: Path, name: str, what: str) -> None:
    healed = in_child(partial(brought_up_to_date, path))
    tally.note(_healing(base, healed, name), f"{what}: {healed.get('refused', '')} {healed['problems'][:2]}")
    if name in (_DATABASE, _LOG):
        after = in_child(partial(gone_on, path))
        tally.note(_going_on(base, after, healed), f"{what}, after one more paper")


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _verdict(base: Base, tally: Tally, found: dict[str, Any], name: str, kind: str) -> str:
    if "refused" in found:
        message = found["refused"]
        return "refused" if "semsearch " in message or "backup" in message else "unexplained"
    number = found["generation"]
    if found["answers"] != base.truths[str(number)]:
        return "silent"
    if number < LIVE:
        tally.at_most("seconds to fall back", found["seconds"])
        if found["seconds"] > FALLBACK_SECONDS:
            return "slow"
        if name == "CURRENT" and kind == "of an older generation":
            return "older"  # nothing is damaged: somebody put an older pointer back
        return "older" if f"serving generation {number} instead" in found["log"] else "unsaid"
    if kind == "none":
        return "whole"
    if name in base.files or (name.startswith("generations") and kind != "none"):
        return "silent"  # right or not: a damaged generation answered
    if name == "CURRENT" and kind not in ("swapped", "extra file"):
        return "whole" if f"serving generation {number} instead" in found["log"] else "unsaid"
    return "whole"


def _healing(base: Base, healed: dict[str, Any], name: str) -> str:
    if "refused" in healed:
        by_hand = name in (_DATABASE, _LOG) or (name == "CURRENT" and "Is a directory" in healed["refused"])
        return "said what to do" if by_hand and healed["problems"] else "not healed"
    if healed["essence"] == base.healed[UNPUBLISHED]:
        if name in (_DATABASE, _LOG) and healed["problems"]:
            return "found by verify"
        return "healed" if not healed["problems"] else "not healed"
    if name == _LOG and healed["essence"] in base.healed:
        return "unpublished papers lost"
    return "not healed"


def _going_on(base: Base, after: dict[str, Any], healed: dict[str, Any]) -> str:
    if "refused" in after:
        return "no more taken"
    known = healed["essence"]["papers"] if "essence" in healed else base.healed[UNPUBLISHED]["papers"]
    return "more taken" if after["papers"] == known else "silent"


# A batch


def unchecked_files() -> None:
    """Take the digests of files away."""
    opening._different_files = lambda *_: iter(())


def unchecked_rows() -> None:
    """Take the digests of rows away."""
    rows.matches = lambda *_: True


CONTROLS: dict[str, Callable[[], None]] = {"digests off": unchecked_files, "row digests off": unchecked_rows}


def damaged_generations(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of damage to the files of a generation and to CURRENT, each file and kind in turn."""
    base = Base(room)
    return _run(base, list(base.generation_pairs()), Tally("generations", control, seed, MUST_BE_ZERO), trials)


def damaged_libraries(room: Path, trials: int, seed: int, control: str) -> Tally:
    """Return what came of damage to the library and to its log."""
    base = Base(room)
    pairs = list(base.library_pairs())
    if control == "row digests off":
        pairs = [(_DATABASE, "eight bits", False)]
    return _run(base, pairs, Tally("library", control, seed, MUST_BE_ZERO), trials)


def _run(base: Base, pairs: list[tuple[str, str, bool]], tally: Tally, trials: int) -> Tally:
    """Damage in every way, in an order that the seed decides, until there are so many trials."""
    dice = random.Random(tally.seed)
    if tally.control in CONTROLS:
        CONTROLS[tally.control]()
    while tally.trials < trials:
        dice.shuffle(pairs)
        for name, kind, shared in pairs[: trials - tally.trials]:
            trial(base, tally, name, "none" if tally.control == "null" else kind, shared, dice)
    if files_digest(base.path / "generations") != base.digest:
        tally.note("changed in place", "a file of the index that the copies were linked to")
    return tally
