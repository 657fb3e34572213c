"""Does an index lose a paper that it acknowledged, or get one that nobody gave it, however often its writer is killed?

A writer imports, adds, deletes, publishes and merges, and says each time what was acknowledged. It is killed with
SIGKILL at a random moment of a step that the dice choose, again and again over one index. After each kill a new process
opens what is there, compares all that was touched since the last kill with what was acknowledged, brings the index up
to date and compares again; after the last, everything.
"""

import json
import os
import random
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from children import Crashed, Hung, forked, in_child
from storage import SPEC, vector_of
from tallies import Tally
from truth import StubEncoder

from semsearch import additions, merging, publishing, reindex
from semsearch.encoders import ModelFolder
from semsearch.errors import SemsearchError
from semsearch.generation import Generation, IndexFolder, open_current
from semsearch.library import Library, content_digest
from semsearch.merging import merge_segments
from semsearch.papers import Paper
from semsearch.publishing import publish_pending
from semsearch.reindex import Import, update_index
from semsearch.verify import problems

MUST_BE_ZERO = ("lost", "phantom", "torn", "unloadable", "crash", "hang")
ORIGIN = "kills"
STEPS = {"import": 0.25, "publish": 0.06, "add": 0.06, "delete": 0.02, "merge": 0.1}
"""What a writer does, and within how many seconds of its beginning it is killed."""
_STEPS_BY_CONTROL = {"null": ["the end"], "acknowledged early": ["import"]}
_KILLS_PER_INDEX = 20
LARGE, SMALL = (500, 32, 20), (40, 4, 3)
"""How many papers are imported, added in each of three requests, and deleted at a time."""
_SAMPLE = 50
_HEAD_START_SECONDS = 0.1
_TOLERANCE = 1e-5
GONE = -1
"""Stands for the edition of a deleted paper."""


def paper_of(number: int, edition: int) -> Paper:
    """Return one edition of a paper: a text that no other has."""
    return Paper.build(
        paper_id=f"k{number}",
        title=f"Paper {number:x} on subject {number % 97}",
        abstract=f"Finding {number} of edition {edition}, by method {number % 13}.",
        authors=(f"Author {number % 1009}",),
        published=str(1990 + number % 30),
        venue=f"Venue {number % 17}",
        source=ORIGIN,
    )


# The writer, in a process of its own


class Writer:
    """Does one step after the other until it is killed, and tells about each."""

    def __init__(
        self,
        path: Path,
        known: int,
        seed: int,
        telling: int,
        control: str,
        sizes: tuple[int, int, int] = LARGE,
        first: int = 0,
    ) -> None:
        """Prepare.

        :param known: the number of the first paper that is new; those from `first` to it are there already.
        :param telling: the descriptor to which it is told what is begun, acknowledged and published.
        :param sizes: how many papers are imported, added and deleted at a time.
        """
        self._folder = IndexFolder(path)
        self._first, self._known = first, known
        self._dice = random.Random(seed)
        self._telling = telling
        self._early = control == "acknowledged early"
        self._endless = control != "null"
        self._source = path.with_name(f"papers{first}.jsonl")
        self._imported, self._added, self._deleted = sizes
        self._steps = {
            "import": self._import,
            "add": self._add_and_publish,
            "delete": self._delete,
            "merge": self._merge,
        }

    def work(self) -> None:
        """Go on for ever; where nobody will come to kill, do each step once more."""
        names = [*self._steps]
        again = iter(lambda: self._dice.choice(names), None) if self._endless else names
        self.do(chain(["import"], again))

    def do(self, names: Iterable[str]) -> None:
        """Do these steps."""
        model = ModelFolder(Path(SPEC.name), SPEC, "", "")
        reindex.find_model = lambda *_: model  # type: ignore[attr-defined]
        publishing.is_due = lambda *_: False  # type: ignore[attr-defined]  # it would take most of the time
        for room in (publishing, merging):
            room.publish = self._marked(room.publish)  # type: ignore[attr-defined]
        for name in names:
            self._steps[name]()

    def _tell(self, *words: object) -> None:
        os.write(self._telling, (" ".join(map(str, words)) + "\n").encode())

    def _marked(self, publish: Callable[..., Generation]) -> Callable[..., Generation]:
        def marked(*arguments: Any) -> Generation:
            self._tell("step", "publish")
            published = publish(*arguments)
            self._tell("published", published.manifest.last_seq)
            self._tell("step", "rest")
            return published

        return marked

    def _next_papers(self, count: int) -> list[tuple[int, int]]:
        """Return new papers and, one in ten, other editions of old ones, as (number, edition)."""
        papers = {}
        for _ in range(count):
            if self._known > self._first and self._dice.random() < 0.1:
                papers[self._dice.randrange(self._first, self._known)] = self._dice.randrange(1, 1_000_000)
            else:
                papers[self._known] = 0
                self._known += 1
        return list(papers.items())

    def _import(self) -> None:
        given = self._next_papers(self._imported)
        editions = {f"k{number}": (number, edition) for number, edition in given}
        self._source.write_text("".join(paper_of(*each).to_json() + "\n" for each in given), encoding="utf-8")
        self._tell("begun", json.dumps(given))
        self._tell("step", "import")
        add_versions = Library.add_versions

        def told(library: Library, origin: str, papers: Sequence[Paper], embeddings: Any, number: int) -> None:
            committed = [editions[paper.paper_id] for paper in papers]
            if self._early:
                self._tell("acknowledged", json.dumps(committed))
                time.sleep(_HEAD_START_SECONDS)
            add_versions(library, origin, papers, list(embeddings), number)
            self._tell("acknowledged", json.dumps(committed))

        Library.add_versions = told  # type: ignore[method-assign,assignment]
        try:
            update_index(self._folder.path, [Import(ORIGIN, (self._source,))], load=lambda *_: StubEncoder())
        finally:
            Library.add_versions = add_versions  # type: ignore[method-assign]

    def _add_and_publish(self) -> None:
        """Publish while papers come in one request after the other, as a service does."""
        line = additions.Additions(self._folder.library, StubEncoder, lambda: None)
        line.start()
        requests = [self._next_papers(self._added) for _ in range(3)]
        self._tell("begun", json.dumps([each for given in requests for each in given]))
        self._tell("step", "add")
        records = [[json.loads(paper_of(*each).to_json()) for each in given] for given in requests]
        waiting = [line.add(additions.Addition.read(ORIGIN, each, f"{time.monotonic_ns()}")) for each in records]
        for given, report in zip(requests, waiting, strict=True):
            assert not report.result(60).counts["refused"], "every paper is one"
            self._tell("acknowledged", json.dumps(given))
            with Library.open(self._folder.library) as library:
                publish_pending(self._folder, library, SPEC, most_merged=0)
        line.stop(60)

    def _delete(self) -> None:
        gone = [(number, GONE) for number in sorted(self._dice.sample(range(self._first, self._known), self._deleted))]
        self._tell("begun", json.dumps(gone))
        self._tell("step", "delete")
        with Library.open(self._folder.library) as library:
            library.delete([f"k{number}" for number, _ in gone])
            self._tell("acknowledged", json.dumps(gone))
            publish_pending(self._folder, library, SPEC, most_merged=0)

    def _merge(self) -> None:
        self._tell("step", "merge")
        merge_segments(self._folder)


# The killer


@dataclass
class Ledger:
    """What the writer said: the edition of each paper that was acknowledged last, and those that were begun since."""

    acknowledged: dict[int, int] = field(default_factory=dict)
    begun: dict[int, list[int]] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    published: int = 0
    count: int = 0
    step: str = "start"

    def take(self, line: str) -> None:
        """Note one line."""
        kind, _, rest = line.partition(" ")
        if kind == "step":
            self.step = rest
        elif kind == "published":
            self.published = max(self.published, int(rest))
        else:
            for number, edition in json.loads(rest):
                self.touched.add(number)
                if kind == "begun":
                    self.begun.setdefault(number, []).append(edition)
                else:
                    self.acknowledged[number] = edition
                    self.count += 1
                    pending = self.begun.get(number, [])
                    self.begun[number] = pending[pending.index(edition) + 1 :] if edition in pending else pending

    def allowed(self, number: int) -> list[int]:
        """Return the editions that may be there; not to be there is the edition of a paper that is gone."""
        return [self.acknowledged.get(number, GONE), *self.begun.get(number, [])]

    def settle(self, found: dict[int, int]) -> None:
        """Take what was found for what is acknowledged from now on: what was underway came through or did not."""
        self.acknowledged |= found
        self.begun.clear()
        self.touched.clear()


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
            if library.counts().papers != live:
                wrong.append(("torn", f"{library.counts().papers} papers are live, {live} should be"))
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
