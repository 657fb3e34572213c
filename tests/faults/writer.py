"""What writes an index that something is done to, and what did it say?

A writer imports, adds, deletes, publishes and merges papers, told by number and edition, and says each time
what it begins, what was acknowledged and what was published. A ledger takes down what it says.
"""

import json
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from storage import SPEC
from truth import StubEncoder

from semsearch import additions, merging, publishing, reindex
from semsearch.encoders import ModelFolder
from semsearch.generation import Generation, IndexFolder
from semsearch.library import Library
from semsearch.merging import merge_segments
from semsearch.papers import Paper
from semsearch.publishing import publish_pending
from semsearch.reindex import Import, update_index

ORIGIN = "faults"
LARGE, SMALL = (500, 32, 20), (40, 4, 3)
"""How many papers are imported, added in each of three requests, and deleted at a time."""
_HEAD_START_SECONDS = 0.1
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
