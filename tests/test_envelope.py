import doctest

import pytest

from semsearch import envelope
from semsearch.columns import Facet, FacetValue
from semsearch.envelope import answer_envelope, in_pieces, next_offset, paper_envelope, public_model_name, snippet
from semsearch.papers import Paper
from semsearch.ranking import Mode
from semsearch.search import Answer, Evidence, Hit, LegEvidence, Page

PAPER = Paper.build(
    paper_id="10.1038/Nature14539",
    title="Deep learning",
    abstract="Layers of features.",
    authors=("Yann LeCun", "Yoshua Bengio"),
    published="2015-05-27",
    categories=("cs.LG",),
    venue="Nature",
    url="https://doi.org/10.1038/nature14539",
    doi="10.1038/nature14539",
    source="journals",
    popularity=12.5,
    extra={"pages": [436, 444]},
)
PAPER_VIEW = {
    "id": "doi:10.1038/nature14539",
    "title": "Deep learning",
    "abstract": "Layers of features.",
    "authors": ["Yann LeCun", "Yoshua Bengio"],
    "published": "2015-05-27",
    "year": 2015,
    "categories": ["cs.LG"],
    "venue": "Nature",
    "url": "https://doi.org/10.1038/nature14539",
    "doi": "10.1038/nature14539",
    "source": "journals",
    "popularity": 12.5,
    "extra": {"pages": [436, 444]},
}


PREPRINT = Paper.build(paper_id="arxiv:1501.00001", title="Deep learning, early", abstract="Layers.", published="2015")
HYBRID = Evidence(LegEvidence(11, 0.731), LegEvidence(None, 0.0), (0, 19), ("layer", "features"))
LEXICAL = Evidence(None, LegEvidence(2, 7.5), None, ())


def answer(
    evidence: Evidence = HYBRID,
    versions: tuple[Paper, ...] = (),
    total: int = 25,
    exact: bool = True,
    facets: dict[str, Facet] | None = None,
    mode: Mode = "hybrid",
) -> Answer:
    hit = Hit(11, 0.731, PAPER, evidence, versions)
    return Answer((hit,), total, exact, 4.25, mode, 7, "all-MiniLM-L6-v2", False, 1.0, facets, weak=False)


def test_a_paper_shows_every_field() -> None:
    assert paper_envelope(PAPER) == PAPER_VIEW


def test_what_is_unknown_is_null_or_empty() -> None:
    bare = paper_envelope(Paper.build(paper_id="p1", title="", abstract="Words."))
    assert bare == {
        "id": "p1",
        "title": "",
        "abstract": "Words.",
        "authors": [],
        "published": None,
        "year": None,
        "categories": [],
        "venue": None,
        "url": None,
        "doi": None,
        "source": None,
        "popularity": None,
        "extra": {},
    }


def test_an_answer_says_what_it_was_chosen_from() -> None:
    assert answer_envelope(answer(), Page(1, 10), "c") == {
        "meta": {
            "total": 25,
            "total_is_exact": True,
            "took_ms": 4.25,
            "mode": "hybrid",
            "collapse": "work",
            "generation": 7,
            "model": "all-MiniLM-L6-v2",
            "approximate": False,
            "recall_at_10": 1.0,
            "weak": False,
            "limit": 1,
            "offset": 10,
            "next_offset": 11,
            "next_cursor": "c",
        },
        "results": [
            {
                "rank": 11,
                "score": 0.731,
                "paper": PAPER_VIEW,
                "evidence": {
                    "sentence": {"start": 0, "end": 19, "text": "Layers of features."},
                    "terms": ["layer", "features"],
                    "dense": {"rank": 11, "cosine": 0.731},
                    "lexical": {"rank": None, "bm25": 0.0},
                },
                "versions": [],
            }
        ],
    }


def test_what_was_not_asked_or_found_is_null() -> None:
    (result,) = answer_envelope(answer(LEXICAL), Page())["results"]
    assert result["evidence"] == {
        "sentence": None,
        "terms": [],
        "dense": None,
        "lexical": {"rank": 2, "bm25": 7.5},
    }


def test_the_other_versions_of_a_work_are_told_shortly() -> None:
    (result,) = answer_envelope(answer(versions=(PREPRINT,)), Page())["results"]
    assert result["versions"] == [
        {
            "id": "arxiv:1501.00001",
            "title": "Deep learning, early",
            "published": "2015",
            "venue": None,
            "url": None,
            "source": None,
        }
    ]


def test_facets_are_told_if_they_were_asked_for() -> None:
    facets = {"year": Facet((FacetValue("2016", 3), FacetValue("2015", 9)), 4)}
    assert "facets" not in answer_envelope(answer(), Page())
    assert answer_envelope(answer(facets=facets), Page(facet_values=2))["facets"] == {
        "year": {"values": [{"value": "2016", "count": 3}, {"value": "2015", "count": 9}], "more": 4}
    }


def test_words_are_matched_in_any_form_and_as_whole_words() -> None:
    text = "Naïve methods parse; sparse ones don't."
    pieces = list(in_pieces(text, ["naive", "PARSING", "method"]))
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, matched in pieces if matched] == ["Naïve", "methods", "parse"]
    assert list(in_pieces(text, [])) == [(text, False)]
    assert list(in_pieces("", ["naive"])) == []


def test_a_snippet_is_the_best_sentence_or_the_beginning() -> None:
    (hit,) = answer().hits
    assert snippet(hit) == "Layers of features."
    long = Paper.build(paper_id="p", title="", abstract="word " * 100)
    assert snippet(Hit(1, 0.5, long, LEXICAL)) == "word " * 56 + "…"
    assert snippet(Hit(1, 0.5, PAPER, LEXICAL)) == PAPER.abstract


@pytest.mark.parametrize(
    ("total", "exact", "limit", "offset", "expected"),
    [
        (25, True, 10, 0, 10),
        (25, True, 10, 15, None),  # 15 to 25 is all
        (25, False, 10, 15, 25),  # there may be more
        (26, True, 10, 15, 25),
        (0, True, 10, 0, None),
        (5_000, True, 100, 800, 900),
        (5_000, True, 100, 900, None),  # another hundred would go beyond rank 1,000
        (5_000, False, 30, 960, None),  # 990 to 1,020 may not be asked for
    ],
)
def test_the_next_page_is_one_that_may_be_asked_for(
    total: int, exact: bool, limit: int, offset: int, expected: int | None
) -> None:
    assert next_offset(answer(total=total, exact=exact), Page(limit, offset)) == expected


@pytest.mark.parametrize("name", ["/home/ann/mine", "~/mine", "./models/mine/", "../mine", "C:\\models\\mine"])
def test_a_models_folder_is_not_told(name: str) -> None:
    assert public_model_name(name) == "mine"


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "intfloat/e5-small"])
def test_a_models_name_is_told(name: str) -> None:
    assert public_model_name(name) == name


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(envelope).failed == 0
