import json

import pytest
from conftest import make_paper
from hypothesis import given
from hypothesis import strategies as st

from semsearch.errors import RecordError
from semsearch.papers import Paper, normalise_id, normalise_published, normalise_text, text_id


@pytest.mark.parametrize(
    ("given_id", "expected"),
    [
        ("arXiv:2101.00001v2", "arxiv:2101.00001"),
        ("https://arxiv.org/abs/2101.00001", "arxiv:2101.00001"),
        ("http://www.arxiv.org/pdf/2101.00001v12.pdf", "arxiv:2101.00001"),
        ("2101.00001", "arxiv:2101.00001"),
        ("1706.0376", "arxiv:1706.0376"),
        ("hep-th/9901001v3", "arxiv:hep-th/9901001"),
        ("arXiv:math.GT/0309136", "arxiv:math.gt/0309136"),
        ("10.48550/arXiv.1706.03762", "arxiv:1706.03762"),
        ("doi:10.1038/NATURE14539", "doi:10.1038/nature14539"),
        ("https://doi.org/10.1016/S0140-6736(84)91816-6", "doi:10.1016/s0140-6736(84)91816-6"),
        ("https://dx.doi.org/10.1000/X", "doi:10.1000/x"),
        ("10.1000/x", "doi:10.1000/x"),
        ("ACL:P18-1001", "acl:P18-1001"),
        ("p18-1001", "acl:P18-1001"),
        ("2020.acl-main.1", "acl:2020.acl-main.1"),
        ("https://aclanthology.org/2020.ACL-main.1/", "acl:2020.acl-main.1"),
        ("https://aclanthology.org/P18-1001v2.pdf", "acl:P18-1001"),
        ("  mla:bifet2010acml-accurate ", "mla:bifet2010acml-accurate"),
        ("W2741809807", "W2741809807"),
        ("https://pubmed.ncbi.nlm.nih.gov/123/", "https://pubmed.ncbi.nlm.nih.gov/123/"),
    ],
)
def test_ids_have_one_spelling(given_id: str, expected: str) -> None:
    assert normalise_id(given_id) == expected
    assert normalise_id(expected) == expected


@pytest.mark.parametrize(
    ("given_id", "message"),
    [
        ("", "the id is empty"),
        (" ", "the id is empty"),
        ("x" * 129, "129 characters; at most 128"),
        ("two words", "printable ASCII"),
        ("naïve", "printable ASCII"),
        ('quo"te', "printable ASCII"),
        ("100%", "printable ASCII"),
        ("a\\b", "printable ASCII"),
        ("../../etc/passwd", "'..' part"),
        ("a//b", "empty, '.' or '..' part"),
        ("/absolute", "empty, '.' or '..' part"),
        ("doi:10.1000/../x", "'..' part"),
        ("nul\x00", "printable ASCII"),
        ("١٢٣٤.١٢٣٤٥", "printable ASCII"),
    ],
)
def test_unusable_ids_are_refused(given_id: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        normalise_id(given_id)


@given(st.text(max_size=150))
def test_any_text_is_an_id_in_one_spelling_or_refused(text: str) -> None:
    try:
        once = normalise_id(text)
    except RecordError:
        return
    assert normalise_id(once) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("  two \n\t lines\r\n", "two lines"),
        ("e\u0301tude", "étude"),
        ("zero\u200bwidth \ufeffmark", "zerowidth mark"),
        ("soft\u00adhyphen", "softhyphen"),
        ("right\u202eto\u202cleft", "righttoleft"),
        ("tag\U000e0041s", "tags"),
        ("e\u200b\u0301", "é"),
        ("no\u00a0break\u2003space\u2028line", "no break space line"),
        ("bell\x07 and\x85next", "bell and next"),
        ("\u200b\u2060 \ufeff", ""),
        ("x\u00b2 ∈ ℝ", "x\u00b2 ∈ ℝ"),
    ],
)
def test_texts_are_normalised(text: str, expected: str) -> None:
    assert normalise_text(text) == expected
    assert normalise_text(expected) == expected


@pytest.mark.parametrize(("text", "message"), [("a\x00b", "NUL"), ("é\x00", "NUL"), ("\ud800", "lone surrogate")])
def test_damaged_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        normalise_text(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        (2017, "2017"),
        ("2017", "2017"),
        ("2017-6", "2017-06"),
        ("2017/06/12", "2017-06-12"),
        ("2017-06-12T17:57:34Z", "2017-06-12"),
        ("2024-02-29 10:00", "2024-02-29"),
    ],
)
def test_dates_keep_the_precision_given(value: str | int | None, expected: str | None) -> None:
    assert normalise_published(value) == expected


@pytest.mark.parametrize(
    "value", ["n.d.", "June 2017", "17", "2017-13", "2023-02-29", "2017-06-00", "0017", "20170612", "２０１７"]
)
def test_what_is_no_date_is_refused(value: str) -> None:
    with pytest.raises(RecordError, match="the date"):
        normalise_published(value)


@pytest.mark.parametrize("abstract", ["", "   ", "\u200b\u200b", "\n"])
def test_a_blank_abstract_is_refused(abstract: str) -> None:
    with pytest.raises(RecordError, match="the abstract is blank"):
        Paper.build(title="A title", abstract=abstract)


def test_an_abstract_of_ten_million_characters_is_refused() -> None:
    with pytest.raises(RecordError, match="the abstract has 10,000,000 characters; at most 100,000 are allowed"):
        Paper.build(title="A title", abstract="x" * 10_000_000)


def test_a_paper_without_an_id_gets_its_doi_or_a_stable_one_from_its_text() -> None:
    assert Paper.build(title="T", abstract="A", doi="https://doi.org/10.1000/X").paper_id == "doi:10.1000/x"
    one = Paper.build(title="A  Title", abstract="Some words")
    other = Paper.build(title="a title", abstract="some\nwords")
    assert one.paper_id == other.paper_id == text_id("A Title", "Some words")
    assert one.paper_id.startswith("text:")
    assert len(one.paper_id) == 25
    assert one.paper_id != Paper.build(title="A Title", abstract="Other words").paper_id


def test_the_text_that_is_embedded_is_title_space_abstract() -> None:
    assert make_paper(3, words="Some words.").text == "Paper 3 Some words."
    assert Paper.build(title="", abstract="Only words").text == "Only words"


def test_the_canonical_json_leaves_out_what_is_empty_and_reads_back() -> None:
    paper = Paper.build(
        title="T", abstract="A", paper_id="x", published="2017-06-12", authors=("Ä. Ö.", ""), extra={"n": 1}
    )
    assert paper.to_json() == (
        '{"abstract":"A","authors":["Ä. Ö."],"extra":{"n":1},"paper_id":"x","published":"2017-06-12","title":"T"}'
    )
    assert Paper.from_json(paper.to_json()) == paper
    assert paper.year == 2017
    assert make_paper(1).year is None


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00") | st.sampled_from("e\u0301\u200b\u00ad \u034f")))
def test_a_normalised_text_is_its_own_normalisation(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once
    assert once == " ".join(once.split())


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))


@given(
    words=_TEXT,
    authors=st.lists(_TEXT).map(tuple),
    popularity=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    extra=st.dictionaries(_TEXT, st.integers() | _TEXT),
)
def test_any_paper_survives_the_round_trip(
    words: str, authors: tuple[str, ...], popularity: float | None, extra: dict[str, object]
) -> None:
    paper = make_paper(1, words=f"word {words}", authors=authors, popularity=popularity, extra=extra)
    assert Paper.from_json(paper.to_json()) == paper
    filled = {name: getattr(paper, name) for name in paper.__slots__ if getattr(paper, name) not in (None, (), {}, "")}
    assert paper.to_json() == json.dumps(filled, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
