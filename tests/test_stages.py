"""Who listens hears every stage of a search once, in order; who does not listen changes nothing."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FakeEncoder, Index, make_paper

from semsearch.filters import parse_filter
from semsearch.generation import IndexFolder, open_current
from semsearch.library import Library
from semsearch.ranking import Mode
from semsearch.search import Page, Searcher
from semsearch.stages import STAGES, Stage, listened_by, stage


class Heard:
    """A listener that writes down what it hears, and may end the work at one stage."""

    def __init__(self, last: Stage | None = None) -> None:
        self.begun: list[Stage] = []
        self.done: list[Stage] = []
        self.last = last

    def begins(self, stage: Stage) -> None:
        self.begun.append(stage)
        if stage == self.last:
            raise TimeoutError

    def ended(self, stage: Stage, seconds: float) -> None:
        assert seconds >= 0
        self.done.append(stage)


@pytest.fixture
def searcher(index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder) -> Iterator[Searcher]:
    index_papers([make_paper(number) for number in range(30)])
    folder = IndexFolder(tmp_path / "index")
    with Searcher(Library.open(folder.library), open_current(folder), fake_encoder) as opened:
        yield opened


@pytest.mark.parametrize(
    ("mode", "left_out"), [("hybrid", set()), ("dense", {"lexical"}), ("lexical", {"encode", "scan"})]
)
def test_a_search_goes_through_its_stages_in_order(searcher: Searcher, mode: Mode, left_out: set[Stage]) -> None:
    heard, page = Heard(), Page(where=parse_filter([("source", "test")]), facet_values=2)
    with listened_by(heard):
        answer = searcher.search("subject3 finding4", page, mode)
    assert heard.begun == heard.done == [name for name in STAGES if name not in left_out]
    silent = searcher.search("subject3 finding4", page, mode)
    assert (answer.hits, answer.facets) == (silent.hits, silent.facets)
    assert heard.done == heard.begun, "what came after is nobody's"


def test_neighbours_need_no_encoder_and_a_pasted_text_does(searcher: Searcher) -> None:
    heard = Heard()
    with listened_by(heard):
        searcher.related(["p3"])
    assert heard.done == ["filter", "scan", "lexical", "fuse", "explain"]
    with listened_by(heard):
        searcher.related_to_text("Paper 3", "")
    assert heard.done[5:] == ["encode", "filter", "scan", "lexical", "fuse", "explain"]


def test_a_listener_may_end_the_work(searcher: Searcher) -> None:
    heard = Heard(last="scan")
    with listened_by(heard), pytest.raises(TimeoutError):
        searcher.search("subject3")
    assert heard.begun == ["encode", "filter", "scan"]
    assert heard.done == ["encode", "filter"]


def test_a_stage_that_fails_ends_too() -> None:
    heard = Heard()
    with listened_by(heard), pytest.raises(ZeroDivisionError), stage("scan"):
        raise ZeroDivisionError
    assert heard.done == ["scan"]


def test_each_task_is_heard_by_its_own_listener_in_other_threads_too() -> None:
    @stage("scan")
    def work() -> None:
        pass

    async def one(listener: Heard) -> None:
        with listened_by(listener):
            await asyncio.to_thread(work)

    async def both(*listeners: Heard) -> None:
        await asyncio.gather(*map(one, listeners))

    first, second = Heard(), Heard()
    asyncio.run(both(first, second))
    assert first.done == second.done == ["scan"]
