from itertools import combinations
from typing import Any

import numpy as np
import pytest
from conftest import make_paper
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from semsearch.papers import Paper
from semsearch.traits import Traits, traits_of
from semsearch.works import _MAX_SHARED, Works, are_one_work, pairs_between, pairs_within

TITLE = "Drying Laundry by Moonlight: A Stochastic Model of Wet Socks"
AUTHORS = ("Ada Miller", "Jürgen Łoś", "Wei Zhang")
ABSTRACT = (
    "Laundry that hangs outside at night dries slowly and sometimes not at all. We model every sock as a reservoir "
    "that loses water to the wind and wins it back from the dew, and we show that the expected drying time has a "
    "closed form as long as the wind is a stationary process. Measured on forty gardens over two winters, the model "
    "predicts the hour at which a sock is dry to within twelve minutes, half the error of the rule of thumb that "
    "people use."
)
REVISED = (
    "Laundry that hangs outside at night dries slowly and sometimes not at all. We model each sock as a reservoir "
    "that loses water to the wind and wins it back from the dew, and we prove that its expected drying time has a "
    "closed form as long as the wind is stationary. Measured on forty gardens over three winters, our model "
    "predicts the hour at which a sock is dry to within ten minutes, half the error of the rule of thumb that most "
    "people use."
)
REWRITTEN = (
    "When does washing dry in the dark? This article answers with differential equations for a garment under breeze "
    "and condensation, solves them, and compares their solution with observations from many backyards, where it "
    "does better than folk wisdom. The journal version adds proofs of convergence and a discussion of woollen hats."
)
UNRELATED = (
    "Bakers knead dough until it feels right. We put a pressure sensor into the hook of a kneading machine and "
    "learn from a hundred loaves when a baker would have stopped; the machine then stops by itself, and tasters "
    "cannot tell its bread from the baker's in a blind comparison over six kinds of flour."
)


def paper(number: int, **fields: object) -> Paper:
    values: dict[str, Any] = {"title": TITLE, "abstract": ABSTRACT, "authors": AUTHORS, "published": "2020"}
    return make_paper(number, **(values | fields))


def one_work(one: Paper, other: Paper) -> bool:
    """Return whether the two are found to be one work, whichever comes first and whether in one segment or in two."""
    first, second = traits_of([one]), traits_of([other])
    verdicts = {
        len(pairs_within(traits_of([one, other]))),
        len(pairs_within(traits_of([other, one]))),
        len(pairs_between(first, second)),
        len(pairs_between(second, first)),
        int(are_one_work(first.table, second.table)[0]),
        int(are_one_work(second.table, first.table)[0]),
    }
    assert len(verdicts) == 1
    return verdicts == {1}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"published": "2023", "venue": "Journal of Laundry"},
        {"title": TITLE.upper()},
        {"title": "Drying laundry by moon-light — a stochastic model of “wet socks”"},
        {"title": r"Drying Laundry by {M}oonlight: A \emph{Stochastic} Model of Wet Socks"},
        {"title": "Drying Laundry by Moonlight"},
        {"title": "Drying Laundry by Moonlight: A Stochastic Model (Extended Abstract)", "abstract": REVISED},
        {"title": "SockDry: Drying Laundry by Moonlight with a Stochastic Model of Wet Socks", "abstract": REVISED},
        {"authors": ("MILLER Ada", "Los Jurgen", "Zhang Wei")},
        {"authors": ("A. Miller", "J. Łoś", "W. Zhang")},
        {"authors": (*AUTHORS, "Grace Late")},
        {"abstract": REVISED},
        {"abstract": REWRITTEN, "published": "2024"},
        {"abstract": "Withdrawn by the authors."},
        {"abstract": REVISED, "authors": ()},
        {"abstract": REVISED, "authors": ("Anonymous",)},
        {"authors": ("Somebody Else",)},
    ],
)
def test_versions_of_one_work(fields: dict[str, object]) -> None:
    assert one_work(paper(1), paper(2, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"title": "Kneading Dough by Touch: A Learned Model of Bakers", "abstract": UNRELATED},
        {"abstract": UNRELATED, "authors": ("Ivo Novak", "Mary Stone")},
        {"abstract": UNRELATED, "authors": ()},
        {"title": "A Note on Something Else Entirely", "abstract": ABSTRACT},
        {"title": "Drying Socks on Balconies, Roofs and Terraces", "abstract": ABSTRACT},  # 2 of 10 words are shared
        {"title": f"{TITLE}, Part II", "abstract": REWRITTEN},
        {"title": "Drying Laundry by Moonlight", "authors": ("Ivo Novak",)},
        {"title": "Drying Laundry by Moonlight", "abstract": REWRITTEN},
    ],
)
def test_different_works(fields: dict[str, object]) -> None:
    assert not one_work(paper(1), paper(2, **fields))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Moonlit Laundry, Part I: Socks", "Moonlit Laundry, Part II: Hats"),
        ("Results of the Sock Sorting Contest 2019", "Results of the Sock Sorting Contest 2020"),
        ("The First Contest in Sorting Socks", "The Second Contest in Sorting Socks"),
        ("SockDry 2: Night Laundry Made Simple", "SockDry 3: Night Laundry Made Simple"),
        ("Sock Sorting Challenge on Wool: Methods and Results", "Sock Sorting Challenge on Silk: Methods and Results"),
    ],
)
def test_the_next_part_or_edition_is_another_work_however_alike(one: str, other: str) -> None:
    assert not one_work(paper(1, title=one), paper(2, title=other))


def test_an_overview_with_the_title_of_last_years_is_another_work() -> None:
    title = "Overview of the Shared Task on Sorting Wet Socks"
    assert not one_work(paper(1, title=title), paper(2, title=title, published="2021", abstract=REWRITTEN))
    assert one_work(paper(1, title=title), paper(2, title=title, abstract=REWRITTEN))
    assert one_work(paper(1, title=title), paper(2, title=title, published="2021", abstract=REVISED))
    numbered = f"{title} 2020"
    assert one_work(paper(1, title=numbered), paper(2, title=numbered, published="2021", abstract=REWRITTEN))
    tutorial = {"title": "Sorting Wet Socks at Night", "venue": "Proceedings of the Conference: Tutorial Abstracts"}
    assert not one_work(paper(1, **tutorial), paper(2, **tutorial, published="2022", abstract=REWRITTEN))


@pytest.mark.parametrize("title", ["Introduction", "Editorial", "Preface", "From the Editor", ""])
def test_titles_that_say_nothing_join_nothing(title: str) -> None:
    assert not one_work(paper(1, title=title), paper(2, title=title, abstract=UNRELATED))
    assert not one_work(paper(1, title=title, authors=()), paper(2, title=title, abstract=UNRELATED, authors=()))


@pytest.mark.parametrize("title", ["Wet Socks", ""])
def test_where_the_title_says_nothing_the_abstract_may(title: str) -> None:
    assert one_work(paper(1, title=title), paper(2, title=title))


def test_a_note_instead_of_an_abstract_joins_nothing() -> None:
    note = "This paper has been withdrawn by the authors."
    one, other = "Wool and Rain in Northern Gardens", "Wool and Rain in Southern Kitchens"
    assert not one_work(paper(1, title=one, abstract=note), paper(2, title=other, abstract=note))


def test_boilerplate_that_many_share_costs_little_and_joins_nothing() -> None:
    count = 4 * _MAX_SHARED
    titles = [f"Subject{number} in Field{number % 91} by Method{number % 89}" for number in range(count)]
    papers = [paper(number, title=title) for number, title in enumerate(titles)]
    traits = traits_of(papers)
    assert len(pairs_within(traits)) == 0
    assert len(pairs_between(traits, traits_of(papers[:5]))) == 5  # a few of them are compared, with themselves


# Works out of pairs


def components(rows: int, pairs: list[tuple[int, int]]) -> list[set[int]]:
    """Return for each row the rows that it is connected with, by walking from it."""
    neighbours: dict[int, set[int]] = {row: set() for row in range(rows)}
    for one, other in pairs:
        neighbours[one].add(other)
        neighbours[other].add(one)
    reached = []
    for row in range(rows):
        seen, ahead = {row}, [row]
        while ahead:
            new = neighbours[ahead.pop()] - seen
            seen |= new
            ahead += new
        reached.append(seen)
    return reached


def as_pairs(pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    rows = draw(st.integers(1, 30))
    ends = st.integers(0, rows - 1)
    return rows, draw(st.lists(st.tuples(ends, ends).filter(lambda pair: pair[0] != pair[1]), max_size=40))


@given(graphs(), st.randoms(use_true_random=False))
def test_works_are_what_pairs_connect(graph: tuple[int, list[tuple[int, int]]], random: object) -> None:
    rows, pairs = graph
    works = Works(as_pairs(pairs))
    expected = components(rows, pairs)
    assert works.of(np.arange(rows)).tolist() == [min(reached) for reached in expected]
    assert [works.versions_of(row).tolist() for row in range(rows)] == [sorted(reached) for reached in expected]
    turned = [pair[::-1] for pair in sorted(pairs)]
    assert Works(as_pairs(turned)).of(np.arange(rows)).tolist() == works.of(np.arange(rows)).tolist()
    allowed = np.arange(rows) % 3 > 0
    assert works.count(allowed) == len({min(reached) for reached in expected if any(allowed[[*reached]])})
    folded = [(row, min(reached)) for row, reached in enumerate(expected) if allowed[row] and len(reached) > 1]
    assert list(zip(*(side.tolist() for side in works.several(allowed)), strict=True)) == folded


def test_a_long_chain_is_one_work() -> None:
    order = np.random.default_rng(3).permutation(5_000)
    assert not Works(np.column_stack([order[:-1], order[1:]])).of(order).any()


def test_without_pairs_each_row_is_its_own_work() -> None:
    works = Works(as_pairs([]))
    assert works.of(np.arange(4)).tolist() == [0, 1, 2, 3]
    assert works.versions_of(2).tolist() == [2]
    assert works.count(np.array([True, False, True, True])) == 3


def test_folding() -> None:
    works = Works(as_pairs([(1, 7), (7, 4), (0, 9)]))
    assert works.best_of_each(np.array([4, 3, 9, 1, 8, 0, 7])).tolist() == [0, 1, 2, 4]
    assert works.best_of_each(np.empty(0, dtype=np.int64)).tolist() == []


@given(graphs(), st.data())
def test_folding_against_a_plain_loop(graph: tuple[int, list[tuple[int, int]]], data: st.DataObject) -> None:
    rows, pairs = graph
    works = Works(as_pairs(pairs))
    ranked = data.draw(st.permutations(range(rows)))[: data.draw(st.integers(0, rows))]
    expected: dict[int, list[int]] = {}
    for row in ranked:
        expected.setdefault(int(works.of(np.array([row]))[0]), []).append(row)
    shown = works.best_of_each(np.array(ranked, dtype=np.int64))
    assert [ranked[place] for place in shown] == [group[0] for group in expected.values()]


# The whole: papers to works

SUBJECTS = ["socks in the moonlight", "dough under pressure", "letters on old stones"]
EDITS = ["", "again", "with proofs", "part 2", "for everyone"]


@st.composite
def collections(draw: st.DrawFn) -> list[Paper]:
    """Return papers that share titles, authors and most of their abstracts in all ways."""
    papers = []
    for number in range(draw(st.integers(1, 14))):
        subject = draw(st.sampled_from(SUBJECTS))
        text = draw(st.sampled_from([ABSTRACT, REVISED, REWRITTEN, UNRELATED]))
        papers.append(
            paper(
                number,
                title=f"A Study of {subject} {draw(st.sampled_from(EDITS))}",
                authors=draw(st.sampled_from([AUTHORS, AUTHORS[:1], ("Ivo Novak",), ()])),
                abstract=text[draw(st.integers(0, 40)) :],
            )
        )
    return papers


def rows_of_pairs(pairs: NDArray[np.int64]) -> list[tuple[int, int]]:
    return [(int(one), int(other)) for one, other in pairs]


@settings(deadline=None, max_examples=60)
@given(collections())
def test_pairs_are_all_that_share_a_key_and_are_one_work(papers: list[Paper]) -> None:
    traits = traits_of(papers)
    keys = [set(traits.keys[traits.rows == row].tolist()) for row in range(len(papers))]
    expected = [
        (one, other)
        for one, other in combinations(range(len(papers)), 2)
        if keys[one] & keys[other] and are_one_work(traits.table[[one]], traits.table[[other]])[0]
    ]
    assert rows_of_pairs(pairs_within(traits)) == expected


@settings(deadline=None, max_examples=60)
@given(collections(), st.data())
def test_segments_and_order_make_no_difference(papers: list[Paper], data: st.DataObject) -> None:
    whole = pairs_within(traits_of(papers))
    cut = data.draw(st.integers(0, len(papers)))
    old, new = traits_of(papers[:cut]), traits_of(papers[cut:])
    between = pairs_between(new, old)[:, ::-1] + [0, cut]
    parts = [pairs_within(old), between, pairs_within(new) + cut]
    assert sorted(rows_of_pairs(np.concatenate(parts))) == rows_of_pairs(whole)
    assert rows_of_pairs(pairs_within(Traits.joined([old, new]))) == rows_of_pairs(whole)

    order = np.array(data.draw(st.permutations(range(len(papers)))), dtype=np.int64)
    shuffled = Works(pairs_within(traits_of([papers[row] for row in order])))
    works = Works(whole)
    for row in range(len(papers)):
        assert sorted(order[shuffled.versions_of(row)].tolist()) == works.versions_of(int(order[row])).tolist()


def test_a_new_paper_joins_two_old_works() -> None:
    titles = [f"{TITLE} in Gardens", f"{TITLE}", "Kneading Dough by Touch: A Learned Model of Bakers"]
    preprint = paper(0, abstract=REWRITTEN)
    renamed = paper(1, title="Drying Laundry by Moonlight", abstract=ABSTRACT)
    other = paper(2, title=titles[2], abstract=UNRELATED)
    old = traits_of([preprint, renamed, other])
    known = pairs_within(old)
    assert Works(known).of(np.arange(3)).tolist() == [0, 1, 2]
    published = traits_of([paper(3)])  # has the title of one and the abstract of the other
    found = pairs_between(published, old)[:, ::-1] + [0, 3]
    works = Works(np.concatenate([known, found, pairs_within(published) + 3]))
    assert works.of(np.arange(4)).tolist() == [0, 0, 2, 0]
    assert works.best_of_each(np.array([1, 2, 3, 0])).tolist() == [0, 1]
