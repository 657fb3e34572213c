"""How latency is measured: the clock by hand, the script over a small index."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmark_latency import Clock, Questions, figures, filters_near, measured, natural_question, whole_abstract
from conftest import FakeEncoder, Index, make_paper

from semsearch import Answer, IndexFolder, Library, Page, Searcher
from semsearch.filters import Labelled
from semsearch.generation import open_current
from semsearch.ranking import MODES, Mode

# Time


def test_a_clock_counts_each_part_without_those_inside_it() -> None:
    ticks = iter([0.0, 1.0, 3.0, 4.0, 8.0, 10.0, 20.0, 21.0])  # whole: 0 to 10; parts 1 to 3 and 4 to 8; whole: 20, 21
    clock = Clock(lambda: next(ticks))
    part = clock.timed("part", lambda value: value + 1)
    whole = clock.timed("other", lambda times: sum(part(each) for each in range(times)))
    assert whole(2) == 3
    assert clock.spent == {"part": 6.0, "other": 4.0}
    assert whole(0) == 0
    assert clock.spent == {"part": 6.0, "other": 5.0}


def test_a_clock_counts_what_failed() -> None:
    ticks = iter([0.0, 2.0, 5.0, 6.0])
    clock = Clock(lambda: next(ticks))
    part = clock.timed("part", [].pop)

    def try_it() -> None:
        with pytest.raises(IndexError):
            part()

    clock.timed("other", try_it)()
    assert clock.spent == {"part": 3.0, "other": 3.0}


def test_figures_in_milliseconds_by_hand() -> None:
    found = figures([{"scan": 0.001, "other": 0.001}, {"scan": 0.003, "other": 0.001}, {"other": 0.003}])
    # wholes of 2, 4 and 3 ms; percentiles lie between the values as numpy has it
    assert {name: found[name] for name in ("p50", "p95", "p99", "mean")} == {
        "p50": 3.0,
        "p95": 3.9,
        "p99": 3.98,
        "mean": 3.0,
    }
    assert list(found["parts"].items()) == [
        ("scan", {"mean": 1.333, "p95": 2.8}),
        ("other", {"mean": 1.667, "p95": 2.8}),
    ]


# Over a small index

PAPERS = [
    make_paper(
        number,
        words=f"whales sing about subject{number % 7} while finding{number} tells why. Nobody else does so",
        title=f"Song number {number} of the deep",
        venue="Rare" if number < 2 else "Common",
        published=str(2000 + number % 10),
    )
    for number in range(200)
]


@pytest.fixture
def searcher(index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder) -> Iterator[Searcher]:
    index_papers(PAPERS)
    folder = IndexFolder(tmp_path / "index")
    with Searcher(Library.open(folder.library), open_current(folder), fake_encoder) as opened:
        yield opened


def test_latency_asks_each_cell_and_its_parts_add_up(searcher: Searcher) -> None:
    asked: list[str] = []
    search = Searcher.search

    def listening(self: Searcher, query: str, page: Page, mode: Mode) -> Answer:
        asked.append(query)
        return search(self, query, page, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark_latency._WARM_UP", 2)
        patch.setattr(Searcher, "search", listening)
        result = measured(searcher, 5, 0)
    assert len(asked) == 3 * (2 + 5 * (3 + 3 + 1))
    assert len(set(asked)) == len(asked), "no query is asked twice"
    cells = [*result["kinds"].values(), result["titles_with_facets"], *result["titles_within_filters"]]
    for cell in cells:
        for mode in MODES:
            parts = {part: each["mean"] for part, each in cell[mode]["parts"].items()}
            assert sum(parts.values()) == pytest.approx(cell[mode]["mean"], abs=0.01)
            assert cell[mode]["processor"] > 0
            assert ("scan" in parts) == (mode != "lexical")
            assert ("words" in parts) == (mode != "dense")
            assert {"papers", "evidence", "folding", "joining and feedback", "other"} <= set(parts)
    assert "facets" in result["titles_with_facets"]["hybrid"]["parts"]
    assert [each["papers"] for each in result["titles_within_filters"]] == [20, 2, 2]
    json.dumps(result)


def test_filters_leave_about_a_share_of_the_papers(searcher: Searcher) -> None:
    ((where, facts),) = filters_near(searcher.generation, 0.012)
    assert facts == {"filter": "venue=Rare", "papers": 2, "share": 0.01}
    assert where.parts == (Labelled("venue", ("rare",)),)  # type: ignore[attr-defined]
    assert searcher.search("song", Page(where=where), "dense").total == 2


def test_every_query_is_of_another_paper(searcher: Searcher) -> None:
    questions = Questions(searcher, 3)
    first, second = (questions.take(whole_abstract, 80) for _ in range(2))
    assert len({*first, *second}) == 160
    with pytest.raises(ValueError, match="too few papers to ask each for one thing; take under 80 queries"):
        questions.take(whole_abstract, 80)
    assert Questions(searcher, 3).take(whole_abstract, 80) == first
    assert Questions(searcher, 4).take(whole_abstract, 80) != first


def test_no_query_is_given_twice(searcher: Searcher) -> None:
    years = Questions(searcher, 0).take(lambda paper, _: str(paper.year), 10)
    assert sorted(years) == [str(year) for year in range(2000, 2010)]


def test_natural_questions_hold_words_of_title_and_abstract(searcher: Searcher) -> None:
    texts = Questions(searcher, 0).take(natural_question, 50)
    assert all(re.search("whales|sing|about|tells|nobody|does|subject|while|else", text) for text in texts)
    assert all(re.search("song|number|the|deep", text) for text in texts)
    assert all(text.endswith("?") for text in texts)
