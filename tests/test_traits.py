from collections.abc import Sequence

import numpy as np
import pytest
from conftest import make_paper
from hypothesis import given, settings
from hypothesis import strategies as st

from semsearch.papers import Paper
from semsearch.traits import TRAITS, Traits, traits_of, words_of

WORDS = [f"word{number}" for number in range(40)]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)


def papers_of(texts: Sequence[str]) -> list[Paper]:
    return [make_paper(number, text or "!", title=text[:40], authors=(text[-7:],)) for number, text in enumerate(texts)]


def assert_equal(one: Traits, other: Traits) -> None:
    np.testing.assert_array_equal(one.table, other.table)
    assert key_sets(one) == key_sets(other)


def key_sets(traits: Traits) -> list[set[int]]:
    return [set(traits.keys[traits.rows == row].tolist()) for row in range(len(traits.table))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("--- ?!", []),
        ("Fine-Tuning, again", ["fine", "tuning", "again"]),
        ("snake_case", ["snake", "case"]),
        ("naïve Ünïcode “quotes” – dashes", ["naive", "unicode", "quotes", "dashes"]),
        (r"na{\"i}ve G\"odel {\c{C}}etin M{\o}ller \'etude", ["naive", "godel", "cetin", "moller", "etude"]),
        ("Møller Łukasz Straße", ["moller", "lukasz", "strasse"]),
        (r"$\varepsilon$-greedy \emph{and} $\mathcal{O}(n)$", ["epsilon", "greedy", "and", "o", "n"]),
        ("ε-greedy αβ ς", ["epsilon", "greedy", "alphabeta", "sigma"]),
        ("K² ﬁne", ["k2", "fine"]),
        ("Trees++ in C++ a+b", ["trees++", "in", "c++", "a+b"]),
        ("深層 learning", ["深", "層", "learning"]),
        ("Привет", ["привет"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert [word.decode() for word in words_of(text)] == words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pre-training Small Models for Sorting", "Pretraining small models for sorting"),
        ("Ranking with $\\lambda$-Trees: A Study", "Ranking with λ-trees – a study."),
        ("Poincaré Maps of Word Senses", "Poincar{\\'e} maps of word senses"),
    ],
)
def test_one_title_in_two_spellings(one: str, other: str) -> None:
    titles = traits_of([make_paper(1, title=one), make_paper(2, title=other)]).table["title"]
    assert titles[0] == titles[1] != 0


@pytest.mark.parametrize("title", ["", "Introduction", "From the Editor", "On the and of in"])
def test_a_title_that_says_too_little_is_no_key(title: str) -> None:
    traits = traits_of([make_paper(1, "short", title=title)])
    assert traits.table["title"][0] == 0
    assert len(traits.keys) == 0


def numbers_of(title: str) -> int:
    return int(traits_of([make_paper(1, title=title)]).table["numbers"][0])


def test_numbers_are_the_same_in_digits_words_and_roman() -> None:
    assert numbers_of("Growing Trees, Part II") == numbers_of("The second tree") == numbers_of("Task 2 of trees")
    assert numbers_of("Growing Trees, Part I") == numbers_of("Tree 1")
    assert numbers_of("Growing Trees, Part I") != numbers_of("Growing Trees, Part II")
    assert numbers_of("I saw a tree") == 0
    assert numbers_of("TreeSort++") != numbers_of("TreeSort") == 0


def test_names_have_no_order_and_no_initials() -> None:
    names = [("Ada B. Miller", "Wei Zhang"), ("ZHANG Wei", "Miller, Ada"), ("A. Miller",), ("Anonymous",), ()]
    bits = traits_of([make_paper(number, authors=who) for number, who in enumerate(names)]).table["names"]
    np.testing.assert_array_equal(bits[0], bits[1])
    assert (bits[2] & ~bits[0] == 0).all()
    assert bits[2].any()
    assert not bits[3:].any()


def test_equal_min_hashes_estimate_the_resemblance_of_the_texts() -> None:
    rng = np.random.default_rng(5)
    vocabulary = [f"term{number}" for number in range(5_000)]
    for share in (0.0, 0.3, 0.6, 0.9, 1.0):
        estimates, exact = [], []
        for _ in range(20):
            common = rng.choice(vocabulary, 300).tolist()
            cut = int(300 * share)
            texts = [common[:cut] + rng.choice(vocabulary, 300 - cut).tolist() for _ in range(2)]
            one, other = (set(zip(text, [*text[1:], ""], strict=True)) for text in texts)
            exact.append(len(one & other) / len(one | other))
            table = traits_of([make_paper(number, " ".join(text)) for number, text in enumerate(texts)]).table
            estimates.append((table["abstract"][0] == table["abstract"][1]).mean())
        assert np.abs(np.array(estimates) - exact).max() < 0.25  # four standard deviations of one estimate
        assert abs(np.mean(estimates) - np.mean(exact)) < 0.05


@settings(deadline=None, max_examples=50)
@given(st.lists(TEXTS, max_size=8), st.integers(0, 8))
def test_a_paper_has_the_same_traits_in_any_company(texts: list[str], cut: int) -> None:
    papers = papers_of(texts)
    together = traits_of(papers)
    assert_equal(Traits.joined([traits_of([paper]) for paper in papers]), together)
    assert_equal(Traits.joined([traits_of(papers[:cut]), traits_of(papers[cut:])]), together)
    assert (np.diff(together.keys.astype(object)) >= 0).all()


def test_blocks_make_no_difference() -> None:
    papers = papers_of([" ".join(WORDS[number % 7 : number % 31]) for number in range(300)])
    assert_equal(Traits.joined([traits_of(papers[:77]), traits_of(papers[77:])]), traits_of(papers))


def test_no_papers() -> None:
    for traits in (traits_of([]), Traits.joined([])):
        assert (traits.table.shape, traits.table.dtype) == ((0,), TRAITS)
        assert len(traits.keys) == len(traits.rows) == 0


KEYS = [
    0x17AFAC2C5159E83E,
    0x1C7A6E8D96823041,
    0x229C68CC531CBFDF,
    0x59024567E2944381,
    0x699041173AF29CA2,
    0x6AFBF2F3441D5B6D,
    0x78BE206706303384,
    0x89BFD87C79CD6712,
]


def test_the_traits_are_those_that_indexes_on_disks_hold() -> None:
    paper = Paper.build(
        paper_id="p",
        title="Sorting Letters by Their Second Stroke",
        abstract="We sort. " * 12,
        authors=("Ada Miller",),
        published="2021-05",
    )
    traits = traits_of([paper])
    assert traits.keys.tolist() == KEYS
    assert traits.table["year"][0] == 2021
    assert traits.table["abstract_words"][0] == 24
    assert int(traits.table["title"][0]) in KEYS
    assert traits.table["abstract"][0, :4].tolist() == [221, 166, 109, 133]
