"""An index and what it should answer, side by side: any steps in any order, and every answer worked out a second time.

The second time is plain: papers in a dictionary, vectors in a numpy matrix, words in sets. What it cannot work out are
scores by words; it knows which papers those may give, and that nothing else may be told of them.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import date
from itertools import count
from typing import Any

import numpy as np
import pytest
from conftest import FakeEncoder, FakeLoader, write_jsonl
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray
from storage import Oracle, hurry, memory_folder, name_as_current

from semsearch import reindex
from semsearch.additions import Addition, Additions
from semsearch.encoders import EncoderSpec, ModelFolder
from semsearch.errors import PaperNotFoundError
from semsearch.filters import parse_filter
from semsearch.generation import IndexFolder, open_current
from semsearch.library import Library
from semsearch.merging import due_merge, merge_segments
from semsearch.papers import Paper
from semsearch.publishing import publish_pending
from semsearch.ranking import MODES, SCORE_DECIMALS, Mode
from semsearch.reindex import Import, update_index
from semsearch.search import Answer, Page, Searcher
from semsearch.verify import problems

WORDS = ("oak", "elm", "ash", "yew", "fir", "birch", "larch", "alder")  # no two of one stem
PEOPLE = ("Ada Byron", "Blaise Pascal", "Carl Gauss")
VENUES = ("Acta", "Annals", "Bulletin")
ORIGINS = ("north", "south")
IDS = tuple(f"p{number}" for number in range(14))
_SPEC = EncoderSpec("fake", "f" * 64, 16, 256)
STEPS = Counter[str]()
"""How often each step was made, over all machines."""
CONTROL = "none"
"""What is taken away from the index, so that the comparison must fail."""


def paper_with(paper_id: str, title: Sequence[str], abstract: Sequence[str], year: int, who: int) -> Paper:
    """Return a paper whose every field the rest is told by."""
    return Paper.build(
        paper_id=paper_id,
        title=" ".join(title),
        abstract=" ".join(abstract),
        published=str(year),
        authors=(PEOPLE[who % len(PEOPLE)],),
        venue=VENUES[year % len(VENUES)],
        categories=(f"cs.{'CL' if who % 2 else 'LG'}",),
    )


def words_of(text: str) -> set[str]:
    """Return the words of a text."""
    return set(re.findall(r"\w+", text.lower()))


papers = st.builds(
    paper_with,
    paper_id=st.sampled_from(IDS),
    title=st.lists(st.sampled_from(WORDS), min_size=1, max_size=3),
    abstract=st.lists(st.sampled_from(WORDS), min_size=1, max_size=6),
    year=st.integers(2018, 2023),
    who=st.integers(0, 5),
)
several = st.lists(papers, max_size=4, unique_by=lambda paper: paper.paper_id)


@dataclass(frozen=True)
class Meant:
    """A filter as it is typed, and which papers it means."""

    typed: tuple[tuple[str, str], ...]
    holds: Callable[[Paper], bool]


def _years(first: int, last: int) -> Meant:
    return Meant((("year", f"{first}-{last}"),), lambda paper: first <= (paper.year or 0) <= last)


def _both(one: Meant, other: Meant) -> Meant:
    return Meant(one.typed + other.typed, lambda paper: one.holds(paper) and other.holds(paper))


_EVERY = Meant((), lambda paper: True)
_conditions = st.one_of(
    st.just(_EVERY),
    st.builds(_years, st.integers(2018, 2020), st.integers(2020, 2023)),
    st.sampled_from(
        [
            Meant((("venue", "A*"),), lambda paper: (paper.venue or "").startswith("A")),
            Meant((("venue", "!acta"),), lambda paper: paper.venue != "Acta"),
            Meant((("category", "cs.CL|math.*"),), lambda paper: "cs.CL" in paper.categories),
            Meant((("author", "pascal"),), lambda paper: "Blaise Pascal" in paper.authors),
            Meant((("ids", "p1|p3|p99"),), lambda paper: paper.paper_id in ("p1", "p3")),
            Meant((("has_doi", "false"),), lambda paper: True),
            Meant((("date_to", "2019-05"),), lambda paper: (paper.year or 0) <= date(2019, 5, 31).year),
        ]
    ),
)
filters = st.one_of(_conditions, st.builds(_both, _conditions, _conditions))


class Shown:
    """What one generation should show: its papers by id, and a searcher over it."""

    def __init__(self, searcher: Searcher, papers: dict[str, Paper], encoder: FakeEncoder) -> None:
        """Hold both."""
        self.searcher = searcher
        self.papers = papers
        self._encoder = encoder

    def may_be(self, meant: Meant, without: Sequence[str] = ()) -> set[str]:
        """Return the ids of the papers that a filter leaves."""
        return {key for key, paper in self.papers.items() if meant.holds(paper)} - set(without)

    def cosines(self, vector: NDArray[np.float32]) -> dict[str, float]:
        """Return each paper's cosine with a vector."""
        if not self.papers:
            return {}
        matrix = self._encoder.encode_queries([paper.text for paper in self.papers.values()])
        return dict(zip(self.papers, (matrix.astype(np.float64) @ vector.astype(np.float64)).tolist(), strict=True))

    def works(self) -> dict[str, frozenset[str]]:
        """Return each paper's work, as the index has it: a division of its papers, which is checked to be one."""
        generation = self.searcher.generation
        rows = np.flatnonzero(generation.live)
        ids = generation.ids_at(rows)
        by_number: dict[int, set[str]] = {}
        for paper_id, work in zip(ids, generation.works.of(rows).tolist(), strict=True):
            by_number.setdefault(work, set()).add(paper_id)
        assert sorted(ids) == sorted(self.papers)
        return {paper_id: frozenset(work) for work in by_number.values() for paper_id in work}

    def check_search(self, typed: str, mode: Mode, meant: Meant, page: Page) -> None:
        """Ask a question of plain words, perhaps with demands, and compare."""
        answer = self.searcher.search(typed, replace(page, where=parse_filter(meant.typed)), mode)
        demanded = {word for word in re.findall(r'(?<!-)"(\w+)"', typed)}
        excluded = {word for word in re.findall(r"-(\w+)", typed)}
        asked = words_of(re.sub(r"-\w+", "", typed))
        allowed = {
            key
            for key in self.may_be(meant)
            if demanded <= (held := words_of(self.papers[key].text)) and not excluded & held
        }
        titled = any(words_of(typed) == words_of(paper.title) for paper in self.papers.values())
        if titled and (demanded or excluded):
            return  # what is a paper's title is read without signs
        if answer.mode == "lexical":
            allowed = self._held_by(typed, asked, allowed, meant)
        self._check(answer, allowed, page)
        if answer.mode == "dense" and not demanded and not excluded:
            self._check_order(answer, allowed, self._encoder.encode_queries([typed])[0], page)

    def _held_by(self, typed: str, asked: set[str], allowed: set[str], meant: Meant) -> set[str]:
        """Return what is found by words: all that hold some of them; it chooses which words are too common."""
        page = Page(100, where=parse_filter(meant.typed), collapse="none")
        found = {hit.paper.paper_id for hit in self.searcher.search(typed, page, "lexical").hits}
        holders = [{key for key in allowed if word in words_of(self.papers[key].text)} for word in asked]
        assert found == set().union(*(held for held in holders if held <= found))
        if meant == _EVERY and not {'"', "-"} & set(typed):
            assert found or not any(holders)
        return found

    def check_related(self, liked: Sequence[str], meant: Meant, page: Page) -> None:
        """Ask for papers like these, and compare which may be found."""
        page = replace(page, where=parse_filter(meant.typed))
        if not set(liked) <= set(self.papers):
            with pytest.raises(PaperNotFoundError):
                self.searcher.related(liked, page)
            return
        works = self.works()
        seeds = set().union(*(works[key] for key in liked))
        answer = self.searcher.related(liked, page)
        self._check(answer, self.may_be(meant, list(seeds)), page)

    def check_papers(self) -> None:
        """Compare every paper that is there, and every one that is not."""
        for key in IDS:
            if key in self.papers:
                assert replace(self.searcher.paper(key), source=None) == replace(self.papers[key], source=None)
            else:
                with pytest.raises(PaperNotFoundError):
                    self.searcher.paper(key)
        assert self.searcher.generation.papers == len(self.papers)

    def _check(self, answer: Answer, allowed: set[str], page: Page) -> None:
        """Compare which papers are shown, in what order they stand, and what is counted."""
        works = self.works()
        found = [hit.paper.paper_id for hit in answer.hits]
        assert len(set(found)) == len(found)
        assert set(found) <= allowed, (found, allowed)
        for hit in answer.hits:
            assert replace(hit.paper, source=None) == replace(self.papers[hit.paper.paper_id], source=None)
            others = {version.paper_id for version in hit.versions}
            assert others == (works[hit.paper.paper_id] - {hit.paper.paper_id} if page.collapse == "work" else set())
        scores = [hit.score for hit in answer.hits]
        assert scores == sorted(scores, reverse=True)
        assert [hit.rank for hit in answer.hits] == list(range(page.offset + 1, page.offset + 1 + len(found)))
        among = {works[key] for key in allowed} if page.collapse == "work" else allowed
        if page.collapse == "work":
            assert len({works[key] for key in found}) == len(found), "a work is one hit"
        assert answer.total_is_exact
        assert answer.total == len(among)
        assert len(found) == min(page.limit, max(0, len(among) - page.offset))
        if page.facet_values and page.collapse == "none":
            assert answer.facets is not None
            years = Counter(str(self.papers[key].year) for key in allowed)
            assert {each.value: each.count for each in answer.facets["year"].values} == years

    def _check_order(self, answer: Answer, allowed: set[str], vector: NDArray[np.float32], page: Page) -> None:
        """Compare the order by meaning, and every score of it, with a matrix product."""
        cosines = {key: value for key, value in self.cosines(vector).items() if key in allowed}
        for hit in answer.hits:
            assert abs(hit.score - cosines[hit.paper.paper_id]) < 2 * 10**-SCORE_DECIMALS
        best = sorted(cosines.values(), reverse=True)
        if page.collapse == "work":
            works = self.works()
            of_work: dict[frozenset[str], float] = {}
            for key, value in cosines.items():
                of_work[works[key]] = max(value, of_work.get(works[key], -2.0))
            best = sorted(of_work.values(), reverse=True)
        shown = best[page.offset : page.offset + page.limit]
        np.testing.assert_allclose([hit.score for hit in answer.hits], shown, atol=2 * 10**-SCORE_DECIMALS)


pages = st.builds(
    Page,
    limit=st.integers(1, 12),
    offset=st.sampled_from([0, 0, 0, 1, 3, 20]),
    collapse=st.sampled_from(["work", "none"]),
    facet_values=st.sampled_from([0, 50]),
)
modes = st.sampled_from(MODES)
_plain = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4, unique=True).map(" ".join)
_demanding = st.builds(
    lambda plain, word, sign: f"{plain} {sign}" % word if word not in plain else plain,
    _plain,
    st.sampled_from(WORDS),
    st.sampled_from(['"%s"', "-%s"]),
)
questions = st.one_of(_plain, _plain, _demanding)


class Living(RuleBasedStateMachine):
    """An index that papers come into and go from in every way there is."""

    def __init__(self) -> None:
        """Begin an index in memory."""
        super().__init__()
        self._closing = ExitStack()
        self._patch = self._closing.enter_context(pytest.MonkeyPatch.context())
        hurry(self._patch)
        self._room = self._closing.enter_context(memory_folder())
        self._patch.setattr(tempfile, "tempdir", str(self._room))  # in memory as well
        self.folder = IndexFolder(self._room / "index")
        self.encoder = FakeEncoder(_SPEC)
        self._patch.setattr(reindex, "find_model", lambda name, networks: ModelFolder(networks, _SPEC, "", ""))
        if CONTROL == "filters off":
            self._patch.setattr(Searcher, "_allowed", lambda *rest: None)
        self.oracle = Oracle()
        self.held: list[Shown] = []
        """The generations that are open: the live one last, and perhaps one that it followed."""
        self._states: dict[int, dict[str, Paper]] = {}
        self._keys = count()

    def teardown(self) -> None:
        """Check the whole once more, and clear away."""
        try:
            if self.held:
                assert list(problems(self.folder)) == []
                for shown in self.held:
                    shown.searcher.close()
        finally:
            self._closing.close()

    # What should be there

    def _papers(self) -> dict[str, Paper]:
        return {paper.paper_id: paper for paper in self.oracle.papers().values()}

    def _shown(self) -> Shown:
        return self.held[-1]

    def _open(self) -> Shown:
        """Return a searcher over what is live now; what was open before stays so, one generation long."""
        generation = open_current(self.folder)
        library = Library.open(self.folder.library)
        papers = self._states[generation.manifest.generation]
        return Shown(Searcher(library, generation, self.encoder), papers, self.encoder)

    def _show(self) -> None:
        """Go over to what is live now, as a service does."""
        self.held.append(self._open())
        for shown in self.held[:-2]:
            shown.searcher.close()
        self.held = self.held[-2:]

    def _published(self, number: int) -> None:
        self._states[number] = self._papers()
        self._show()

    # Steps

    @initialize(first=several)
    def begin(self, first: list[Paper]) -> None:
        """Index the first papers."""
        self._import("north", first, sync=False)

    def _import(self, origin: str, read: list[Paper], *, sync: bool) -> None:
        source = write_jsonl(self._room / f"{origin}.jsonl", read)
        told = [replace(paper, source=origin) for paper in read]
        before = {paper.paper_id: self.oracle.last_of(origin, paper.paper_id) for paper in told}
        fresh = [paper for paper in told if before[paper.paper_id] != paper]
        gone: list[str] = []
        if sync and read:
            held = [about for about, by in self.oracle._heads() if by == origin and self.oracle.last_of(origin, about)]
            gone = sorted(set(held) - {paper.paper_id for paper in read})
        report = update_index(self.folder.path, [Import(origin, (source,), sync=sync)], load=FakeLoader())
        assert (report.new + report.changed, report.unchanged) == (len(fresh), len(told) - len(fresh))
        assert report.deleted == len(gone)
        self.oracle.add(fresh, origin)
        self.oracle.delete(gone, origin)
        assert report.generation is not None
        assert report.papers == len(self._papers())
        self._published(report.generation)

    @rule(origin=st.sampled_from(ORIGINS), read=several, sync=st.booleans())
    def read_again(self, origin: str, read: list[Paper], sync: bool) -> None:
        """Import a source; with --sync, also take out what it no longer holds."""
        STEPS["reindex --sync" if sync else "reindex"] += 1
        self._import(origin, read, sync=sync)

    @rule(added=several.filter(bool), gone=st.lists(st.sampled_from(IDS), max_size=2, unique=True))
    def add_and_delete(self, added: list[Paper], gone: list[str]) -> None:
        """Add papers to the running index and delete some, then publish, as the service does."""
        STEPS["add, delete"] += 1
        records = [self._record(paper) for paper in added]
        told = [replace(paper, source="api") for paper in added]
        known = {paper.paper_id for paper in told if self.oracle.last_of("api", paper.paper_id) == paper}
        additions = Additions(self.folder.library, lambda: self.encoder, lambda: None)
        additions.start()
        try:
            report = additions.add(Addition.read("api", records)).result(timeout=30)
            assert report.counts["unchanged"] == len(known)
            self.oracle.add([paper for paper in told if paper.paper_id not in known], "api")
            for key in gone:
                met = any(about == key for about, _, _ in self.oracle.changes)
                done = additions.delete(key)
                if met:
                    done.result(timeout=30)
                else:
                    with pytest.raises(PaperNotFoundError):
                        done.result(timeout=30)
                self.oracle.delete([key])
        finally:
            additions.stop(5)
        self._publish(most_merged=2)

    @staticmethod
    def _record(paper: Paper) -> dict[str, Any]:
        return {
            "id": paper.paper_id,
            "title": paper.title,
            "abstract": paper.abstract,
            "published": paper.published,
            "authors": list(paper.authors),
            "venue": paper.venue,
            "categories": list(paper.categories),
        }

    def _publish(self, most_merged: int | None = None) -> None:
        with Library.open(self.folder.library) as library:
            parent = self._shown().searcher.generation
            generation = publish_pending(self.folder, library, None, parent, most_merged=most_merged)
        self._published(generation.manifest.generation)

    @rule(gone=st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True))
    def delete_and_purge(self, gone: list[str]) -> None:
        """Delete papers, publish, and erase their texts, as the command line does."""
        STEPS["delete, purge"] += 1
        with Library.open(self.folder.library) as library:
            assert sorted(library.delete(gone)) == sorted(self.oracle.delete(gone))
        self._publish()
        with Library.open(self.folder.library) as library:
            library.purge(sorted({about for about, _, _ in self.oracle.changes} - set(self.oracle.live())))
        for shown in self.held[:-1]:  # their papers are no longer all there
            shown.searcher.close()
        self.held = self.held[-1:]

    @rule()
    def merge(self) -> None:
        """Merge the segments that are due."""
        STEPS["merge"] += 1
        due = due_merge(self._shown().searcher.generation)
        merged = merge_segments(self.folder)
        assert (merged is None) == (due is None)
        if merged:
            self._states[merged.manifest.generation] = self._shown().papers
            self._show()

    @rule()
    def restart(self) -> None:
        """Close everything and open it again."""
        STEPS["restart"] += 1
        for shown in self.held:
            shown.searcher.close()
        self.held = [self._open()]

    @rule()
    def roll_back(self) -> None:
        """Name the generation before as the live one: it answers as it did, and the next publish catches up."""
        live = self._shown().searcher.generation.manifest.generation
        before = [number for number in self.folder.published() if number < live and number in self._states]
        if not before or len(self.held) < 2:
            return
        STEPS["roll back"] += 1
        number = before[0]
        if number != self.held[-2].searcher.generation.manifest.generation:
            return
        name_as_current(self.folder, number)
        rolled = self._open()
        assert rolled.searcher.generation.manifest.generation == number
        rolled.check_papers()
        rolled.searcher.close()
        with Library.open(self.folder.library) as library:
            published = publish_pending(self.folder, library, None)
        self._published(published.manifest.generation)

    # Questions

    def _any_held(self, before: bool) -> Shown:
        return self.held[0] if before else self.held[-1]

    @rule(typed=questions, mode=modes, meant=filters, page=pages, before=st.booleans())
    def search(self, typed: str, mode: Mode, meant: Meant, page: Page, before: bool) -> None:
        """Ask the live generation, or the one before it that a request still holds."""
        STEPS[f"search {mode}"] += 1
        self._any_held(before).check_search(typed, mode, meant, page)

    @rule(liked=st.lists(st.sampled_from(IDS), min_size=1, max_size=2), meant=filters, page=pages, before=st.booleans())
    def related(self, liked: list[str], meant: Meant, page: Page, before: bool) -> None:
        """Ask for papers like some."""
        STEPS["related"] += 1
        self._any_held(before).check_related(liked, meant, page)

    @rule(before=st.booleans())
    def papers(self, before: bool) -> None:
        """Ask for every paper by its id."""
        STEPS["papers"] += 1
        self._any_held(before).check_papers()

    @invariant()
    def the_library_holds_what_it_was_told(self) -> None:
        """Compare which versions are live; an import may commit its papers in any order."""
        if not self.held:
            return
        with Library.open(self.folder.library) as library:
            live = library.versions_at(library.all_live_seqs(library.last_seq()).tolist())
            assert {each.paper.paper_id: each.paper for each in live.values()} == self._papers()
            assert library.last_seq() == len(self.oracle.changes)
