import doctest

import pytest

from semsearch import envelope
from semsearch.envelope import answer_envelope, next_offset, paper_envelope, public_model_name
from semsearch.papers import Paper
from semsearch.search import Answer, Evidence, Hit, LegEvidence

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


def answer(total: int = 25) -> Answer:
    hit = Hit(11, 0.731, PAPER, Evidence(LegEvidence(11, 0.731)))
    return Answer((hit,), total, 4.25, "dense", 7, "all-MiniLM-L6-v2", False, 1.0)


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
    assert answer_envelope(answer(), limit=1, offset=10) == {
        "meta": {
            "total": 25,
            "took_ms": 4.25,
            "mode": "dense",
            "generation": 7,
            "model": "all-MiniLM-L6-v2",
            "approximate": False,
            "recall_at_10": 1.0,
            "limit": 1,
            "offset": 10,
            "next_offset": 11,
        },
        "results": [
            {"rank": 11, "score": 0.731, "paper": PAPER_VIEW, "evidence": {"dense": {"rank": 11, "cosine": 0.731}}}
        ],
    }


@pytest.mark.parametrize(
    ("total", "limit", "offset", "expected"),
    [
        (25, 10, 0, 10),
        (25, 10, 15, None),  # 15 to 25 is all
        (26, 10, 15, 25),
        (0, 10, 0, None),
        (5_000, 100, 800, 900),
        (5_000, 100, 900, None),  # another hundred would go beyond rank 1,000
        (5_000, 30, 960, None),  # 990 to 1,020 may not be asked for
    ],
)
def test_the_next_page_is_one_that_may_be_asked_for(total: int, limit: int, offset: int, expected: int | None) -> None:
    assert next_offset(total, limit, offset) == expected


@pytest.mark.parametrize("name", ["/home/ann/mine", "~/mine", "./models/mine/", "../mine", "C:\\models\\mine"])
def test_a_models_folder_is_not_told(name: str) -> None:
    assert public_model_name(name) == "mine"


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "intfloat/e5-small"])
def test_a_models_name_is_told(name: str) -> None:
    assert public_model_name(name) == name


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(envelope).failed == 0
