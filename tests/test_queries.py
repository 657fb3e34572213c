import pytest
from hypothesis import given
from hypothesis import strategies as st

from semsearch.queries import LexicalQuery, Part, parse_query

SYNTAX = st.text(alphabet='ab -":“”tileauhor\n', max_size=40)


@pytest.mark.parametrize(
    ("typed", "words", "required", "excluded"),
    [
        ("graph neural networks", "graph neural networks", [], []),
        ('"hidden markov" speech', "speech", [Part("hidden markov")], []),
        ("“hidden markov” speech", "speech", [Part("hidden markov")], []),
        ("speech -survey", "speech", [], [Part("survey")]),
        ('speech -"a survey"', "speech", [], [Part("a survey")]),
        ("title:parsing", "", [Part("parsing", "title")], []),
        ('Title:"tree banks" x', "x", [Part("tree banks", "title")], []),
        ("author:rabiner AUTHOR:juang", "", [Part("rabiner", "author"), Part("juang", "author")], []),
        ('-author:"van der maaten" t-SNE', "t-SNE", [], [Part("van der maaten", "author")]),
        ("state-of-the-art GPT-4 -1 -x", "state-of-the-art GPT-4 -1", [], [Part("x")]),
        ('"a"b "c" d', "b d", [Part("a"), Part("c")], []),
    ],
)
def test_syntax(typed: str, words: str, required: list[Part], excluded: list[Part]) -> None:
    query = parse_query(typed)
    assert (query.words, query.required, query.excluded) == (tuple(words.split()), tuple(required), tuple(excluded))


@pytest.mark.parametrize(
    "typed",
    [
        '"deep learning',
        'a 5" screen',
        "-",
        "a - b",
        "--flag",
        "-omics",
        '-title:"tree banks" -b -',
        "title: word",
        "a title:",
        "mytitle:word",
        "well-known -",
        "don't $\\alpha_2$",
        "深度学习 😀",
    ],
)
def test_what_is_no_syntax_is_words(typed: str) -> None:
    assert parse_query(typed) == LexicalQuery.of_text(typed)


@pytest.mark.parametrize(
    "pasted",
    [
        "We describe a lamp -a new one- that glows along the shore, and measure for how long it does so.",
        "一盏新的灯" * 40 + ' "沿岸" 发光',
    ],
)
def test_nothing_is_taken_from_what_is_pasted(pasted: str) -> None:
    assert parse_query(pasted) == LexicalQuery(words=parse_query(pasted).words, text=pasted)


def test_in_prose_quotation_marks_are_only_that() -> None:
    typed = 'Why do all of them call the pale glow along the shore "sea fire" and not light?'
    query = parse_query(typed)
    assert (query.required, query.excluded, query.text) == ((), (), typed)
    assert {"sea", "fire"} <= set(query.words)
    demanding = parse_query("sea fire along " * 4 + "-shore author:sand -author:dune")
    assert (demanding.required, demanding.excluded) == ((Part("sand", "author"),), (Part("dune", "author"),))


def test_parts_without_a_letter_demand_nothing() -> None:
    assert parse_query('"" "!" -"?" title:"-" a') == LexicalQuery(("a",), text='"" "!" -"?" title:"-" a')


def test_the_subject_is_read_without_signs_names_and_what_is_unwanted() -> None:
    assert parse_query('a "b c" title:d author:e -f "g"').text == "a b c d g"


@given(st.text() | SYNTAX)
def test_any_text_is_a_query(typed: str) -> None:
    query = parse_query(typed)
    assert len(query.words) + len(query.required) + len(query.excluded) <= len(typed)
    assert all(any(map(str.isalnum, part.words)) for part in (*query.required, *query.excluded))


@given(st.lists(st.text(alphabet="abc'-.", min_size=1).filter(lambda word: not word.startswith("-"))))
def test_plain_words_are_taken_as_they_are(words: list[str]) -> None:
    assert parse_query(" ".join(words)) == LexicalQuery(tuple(words), text=" ".join(words))
