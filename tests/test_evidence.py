import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semsearch.evidence import QueryTerms, explain, sentences


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def query(weights: Mapping[str, float]) -> QueryTerms:
    heaviest = sorted(weights, key=lambda term: (-weights[term], term))
    return QueryTerms({term: term.upper() for term in heaviest}, weights)


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "parts",
    [
        ["One sentence without an end"],
        ["It works.", "It works well!", "Does it?", "Yes."],
        ["We follow Li et al. (2020), i.e. Fig. 3, and Eqs. 1 and 2.", "It gains 1.5 points vs. BERT."],
        ["Recall rose by 3.5 to 0.91.", "Then it fell."],
        ["Smith et al. 2019 and J. R. Firth agree.", "However, no. 3 does not, cf. Sec. 4."],
        ["We follow Smith et al.", "We find vitamin C.", "The dose, e.g. The Dose, matters."],
        ["1. Introduction of tools, parsers, etc.", "2. Results."],
        ["(This is one.)", '"Is this one?"', "[And this.]"],
        ["The answer is no.", "Words such as “end.”", "They stop here..."],
        ["We set $x = 1.$", "This holds for i.i.d. samples w.r.t. Gaussian noise."],
        ["It was made in the U.S. Army labs."],
    ],
)
def test_sentences_of_abstracts(parts: list[str]) -> None:
    assert split(" ".join(parts)) == parts


def test_sentences_without_spaces() -> None:
    assert split("これは文です。次の文。") == ["これは文です。", "次の文。"]


@given(st.text() | st.text(alphabet="Ab1 .!?。()\"'\n\t", max_size=60))
def test_sentences_leave_out_white_space_only(text: str) -> None:
    position = 0
    for start, end in sentences(text):
        assert position <= start < end <= len(text)
        assert text[position:start].strip() == ""
        assert text[start:end].strip() == text[start:end]
        position = end
    assert text[position:].strip() == ""


def test_the_sentence_with_the_most_telling_words() -> None:
    abstract = "Graphs are common. Attention over graphs is slow. We make attention fast."
    found = explain(query({"graphs": 2.0, "attention": 3.0}), "On attention", abstract, words)
    # per sentence 2, 3 + 2 and 3, over 1 - 0.3 + 0.3 * n / 4 for n = 3, 5 and 4 words
    assert found.sentence == (19, 49)
    assert found.terms == ("ATTENTION", "GRAPHS")


def test_length_is_weighed() -> None:
    short, long = "Tiny graphs win.", "Graphs of many kinds are drawn by many people in many ways for attention."
    idfs = {
        "graphs": 3.0,
        "attention": 1.0,
    }  # 3 / (0.7 + 0.3 * 3 / 8.5) = 3.72 against 4 / (0.7 + 0.3 * 14 / 8.5) = 3.35
    assert explain(query(idfs), "", f"{long} {short}", words).sentence == (len(long) + 1, len(long) + 1 + len(short))
    idfs["attention"] = 2.0  # against 5 / 1.194 = 4.19
    assert explain(query(idfs), "", f"{long} {short}", words).sentence == (0, len(long))


def test_a_repeated_word_counts_once_and_the_first_of_equals_wins() -> None:
    assert explain(query({"a": 1.0}), "", "A b c d. A a a a.", words).sentence == (0, 8)


def test_words_of_the_title_are_terms_and_no_sentence() -> None:
    found = explain(query({"graphs": 2.0}), "Graphs", "Nothing of it here.", words)
    assert (found.sentence, found.terms) == (None, ("GRAPHS",))
    assert explain(query({"trees": 2.0}), "Graphs", "Nothing of it here.", words).terms == ()


@pytest.mark.parametrize("abstract", ["", " ", "...", "! ? 。"])
def test_nothing_to_find(abstract: str) -> None:
    assert explain(query({"a": 1.0}), "", abstract, words).sentence is None
    assert explain(query({}), "", "A b.", words).sentence is None


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 12.0)),
    st.lists(st.sampled_from(["a", "B", "c", "D", "x", "Y", "e.g.", "Q.", "a.", "?", "f!"]), max_size=30).map(" ".join),
)
def test_a_sentence_always_holds_a_term_of_the_query(idfs: dict[str, float], abstract: str) -> None:
    asked = query(idfs)
    found = explain(asked, "", abstract, words)
    assert set(map(str.lower, found.terms)) == asked.weights.keys() & set(words(abstract))
    if found.sentence is None:
        assert not found.terms
    else:
        start, end = found.sentence
        assert (start, end) in list(sentences(abstract))
        assert asked.weights.keys() & set(words(abstract[start:end]))
