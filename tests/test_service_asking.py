"""What can be asked of the service besides a question: filters, facets, versions, pages that stay of one ranking."""

import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from conftest import make_paper
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from test_service import PAPERS, Outline, body_of, eventually, publish, refusal, service

from semsearch.generation import IndexFolder

SNOW = "Dust that the wind brings onto old snow makes it darker, and so it melts weeks earlier than clean snow does."
VERSIONS = [
    make_paper(
        101, paper_id="arxiv:2101.00001", title="Dust on old snow", words=SNOW, published="2021-01-04", source="arxiv"
    ),
    make_paper(
        102,
        paper_id="doi:10.1000/snow",
        title="Dust on old snow",
        words=SNOW,
        published="2022",
        venue="Journal of Ice",
        doi="10.1000/snow",
        source="journals",
        url="https://x.example/snow",
    ),
]
DATED = [
    make_paper(
        number,
        published=f"{2000 + number % 5}",
        venue=["Journal of Ice", "A|B *", ""][number % 3] or None,
        categories=("cs.CL",) if number % 2 else ("cs.CV", "stat.ML"),
        authors=("Ada Lovelace",) if number % 4 == 0 else ("Charles Babbage", "Wei Wang"),
        source="arxiv",
    )
    for number in range(1, 31)
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    path = tmp_path_factory.mktemp("asking") / "index"
    publish(path, [*DATED, *VERSIONS])
    with service(path) as client:
        yield client


def ids(body: dict[str, Any]) -> list[str]:
    return [result["paper"]["id"] for result in body["results"]]


# Filters


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("year=2003", {p.paper_id for p in DATED if p.year == 2003}),
        ("year=2003&year=2004", set()),
        ("year=2003|2004", {p.paper_id for p in DATED if p.year in (2003, 2004)}),
        ("date_from=2003&date_to=2003-12", {p.paper_id for p in DATED if p.year == 2003}),
        ("category=stat.*&category=cs.cv", {p.paper_id for p in DATED if "stat.ML" in p.categories}),
        ("category=!cs.CL&year=2001", {p.paper_id for p in DATED if p.year == 2001 and "cs.CL" not in p.categories}),
        ("venue=A%5C%7CB+%5C*", {p.paper_id for p in DATED if p.venue == "A|B *"}),
        ("author=lovelace", {p.paper_id for p in DATED if "Ada Lovelace" in p.authors}),
        ("author=W.+Wang&author=babbage", {p.paper_id for p in DATED if "Wei Wang" in p.authors}),
        ("source=journals", {"doi:10.1000/snow"}),
        ("has_doi=true", {"doi:10.1000/snow"}),
        ("ids=p5|p6|p999&year=2001", {"p6"}),
    ],
)
def test_a_filter_leaves_only_what_meets_it(client: TestClient, query: str, expected: set[str]) -> None:
    for mode in ("hybrid", "dense"):
        body = body_of(client.get(f"/search?q=finding5&limit=100&mode={mode}&{query}"))
        assert set(ids(body)) == expected
        assert body["meta"]["total"] == len(expected)


@pytest.mark.parametrize(
    "filters",
    [
        {"year": "2003"},
        {"year": ["2003"], "category": ["cs.*", "!cs.CV"]},
        {"venue": "Journal of Ice", "author": ["Wang", "Babbage"], "date_to": "2003"},
    ],
)
def test_filters_in_a_body_mean_what_they_mean_in_an_address(client: TestClient, filters: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"q": "finding5", "limit": 100}
    body = body_of(client.post("/search", json=asked | filters))
    assert body == body_of(client.get("/search", params=asked | filters))
    assert 0 < body["meta"]["total"] < 30


def test_all_that_ranks_can_be_filtered(client: TestClient) -> None:
    expected = {p.paper_id for p in DATED if p.year == 2003} - {"p3"}
    asked: dict[str, Any] = {"year": "2003", "limit": 100}
    answers = [
        client.get("/papers/p3/related", params=asked),
        client.post("/related", json=asked | {"ids": ["p3"]}),
        client.post("/recommend", json=asked | {"positive": ["p3"]}),
        client.post("/recommend", json=asked | {"positive": ["p4"], "negative": ["p3"]}),
        client.post("/related", json=asked | {"title": "finding3", "ids": None}),
        client.post("/related", json=asked | {"title": "finding3"}),
    ]
    assert answers.pop(-2).status_code == 422
    *by_id, by_text = answers
    assert [set(ids(body_of(answer))) for answer in by_id] == [expected] * 4
    assert set(ids(body_of(by_text))) == expected | {"p3"}
    some = client.post("/recommend", json={"positive": ["p3"], "ids": "p4|p5|p3"})
    assert sorted(ids(body_of(some))) == ["p4", "p5"]


@pytest.mark.parametrize(
    ("query", "name", "msg"),
    [
        (
            "year=twenty",
            "year",
            "this cannot be read as a filter by year; write for example year=2020, year=2020-2023,",
        ),
        ("year=2003&year=", "year", "an alternative is empty; write for example year=2020"),
        (
            "date_from=2021-13",
            "date_from",
            "this cannot be read as a filter by date_from; write for example date_from=2",
        ),
        ("venue=|", "venue", "this cannot be read as a filter by venue; write for example venue=ACL"),
        ("author=...", "author", "this cannot be read as a filter by author; write for example author=Ada Lovelace"),
        (
            "author=Ada*",
            "author",
            "a * stands for the rest of a category, venue or source only; write for example author",
        ),
        ("has_doi=1", "has_doi", "it is neither true nor false; write for example has_doi=true"),
        ("ids=a b", "ids", "the id may hold printable ASCII characters only"),
        ("source=" + "a|" * 101 + "a", "source", "it names 102 alternatives; name 1 to 100; write for example source="),
        ("&".join(["year=2000"] * 101), "year", "the filter has 101 conditions; at most 100 are allowed"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_named(client: TestClient, query: str, name: str, msg: str) -> None:
    answer = client.get(f"/search?q=a&{query}")
    (detail,) = answer.json()["detail"]
    assert (answer.status_code, detail["loc"], detail["type"]) == (422, ["query", name], "value_error")
    assert detail["msg"].startswith(msg)
    values = [unquote_plus(pair.removeprefix(f"{name}=")) for pair in query.split("&")]
    (in_body,) = client.post("/search", json={"q": "a", name: values}).json()["detail"]
    assert in_body == detail | {"loc": ["body", name]}


def test_days_in_the_wrong_order_are_refused(client: TestClient) -> None:
    answer = client.get("/search?q=a&date_from=2021&date_to=2020")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["msg"] == "date_to=2020-12-31 is before date_from=2021-01-01; swap the two"


# Facets, versions


def test_facets_count_what_could_be_a_result(client: TestClient) -> None:
    assert "facets" not in body_of(client.get("/search?q=finding5"))
    facets = body_of(client.get("/search?q=finding5&year=2001|2002&source=arxiv&facets=1"))["facets"]
    assert facets == {
        "year": {"values": [{"value": "2002", "count": 6}], "more": 1},
        "category": {"values": [{"value": "cs.CL", "count": 6}], "more": 2},
        "venue": {"values": [{"value": "A|B *", "count": 4}], "more": 1},
        "source": {"values": [{"value": "arxiv", "count": 12}], "more": 0},
    }


def test_versions_of_one_work_are_one_result(client: TestClient) -> None:
    body = body_of(client.get("/search?q=dust+on+old+snow&limit=2"))
    first, second = body["results"]
    assert body["meta"]["total"] == 31
    assert {first["paper"]["id"], *(version["id"] for version in first["versions"])} == {p.paper_id for p in VERSIONS}
    assert second["versions"] == []
    preprint = body_of(client.get("/search?q=dust+on+old+snow&limit=1&source=arxiv"))["results"][0]
    assert preprint["versions"] == [
        {
            "id": "doi:10.1000/snow",
            "title": "Dust on old snow",
            "published": "2022",
            "venue": "Journal of Ice",
            "url": "https://x.example/snow",
            "source": "journals",
        }
    ]
    apart = body_of(client.get("/search?q=dust+on+old+snow&limit=2&collapse=none"))
    assert (apart["meta"]["total"], apart["meta"]["collapse"]) == (32, "none")
    assert set(ids(apart)) == {paper.paper_id for paper in VERSIONS}
    assert [result["versions"] for result in apart["results"]] == [[], []]


@pytest.mark.parametrize("value", ["maybe", "1", "", "True"])
def test_approximate_is_true_or_false(client: TestClient, value: str) -> None:
    assert body_of(client.get("/search?q=subject3&approximate=false"))["meta"]["approximate"] is False
    assert client.get(f"/search?q=subject3&approximate={value}").status_code == 422
    assert client.post("/search", json={"q": "subject3", "approximate": False}).status_code == 200
    assert client.post("/search", json={"q": "subject3", "approximate": "false"}).status_code == 422


# Cursors


def follow(client: TestClient, asked: dict[str, Any], between: Any = lambda: None) -> tuple[list[str], set[int]]:
    """Return the ids of all pages, going on by cursor, and the generations that answered."""
    found: list[str] = []
    generations: set[int] = set()
    cursor: dict[str, str] = {}
    while True:
        body = body_of(client.get("/search", params=asked | cursor))
        assert [result["rank"] for result in body["results"]] == list(
            range(len(found) + 1, len(found) + 1 + len(body["results"]))
        )
        found += ids(body)
        generations.add(body["meta"]["generation"])
        if body["meta"]["next_cursor"] is None:
            return found, generations
        cursor = {"cursor": body["meta"]["next_cursor"]}
        between()


@settings(max_examples=30, deadline=None)
@given(
    limit=st.integers(1, 40),
    mode=st.sampled_from(["hybrid", "dense", "lexical"]),
    filters=st.sampled_from([{}, {"year": "2001-2003"}, {"category": "cs.CL"}, {"collapse": "none"}]),
)
def test_cursors_go_through_the_whole_ranking_once(
    client: TestClient, limit: int, mode: str, filters: dict[str, str]
) -> None:
    asked = {"q": "subject3 finding5 snow", "mode": mode} | filters
    whole = ids(body_of(client.get("/search", params=asked | {"limit": 100})))
    assert follow(client, asked | {"limit": limit}) == (whole, {1})


def test_pages_are_of_one_ranking_while_the_index_goes_on(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:20])
    with service(tmp_path) as client:
        whole = ids(body_of(client.get("/search?q=subject3&limit=100")))
        numbers = iter(range(200, 300))

        def publish_more() -> None:
            papers = [make_paper(next(numbers), words="subject3 subject3") for _ in range(3)]
            generation = publish(tmp_path, papers)
            eventually(lambda: client.get("/stats").json()["generation"] == generation)

        assert follow(client, {"q": "subject3", "limit": 4}, publish_more) == (whole, {1})
        now = body_of(client.get("/search?q=subject3&limit=100"))
        assert now["meta"]["generation"] > 1
        assert set(ids(now)) - set(whole) >= {"p200", "p201"}
        by_offset = ids(body_of(client.get("/search?q=subject3&limit=4"))) + ids(
            body_of(client.get("/search?q=subject3&limit=4&offset=4"))
        )
        assert by_offset != whole[:8], "the new papers come first"


def test_a_ranking_outlives_the_folder_it_came_from(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:20])
    with service(tmp_path) as client:
        whole = ids(body_of(client.get("/search?q=subject3+finding4&limit=100")))

        def publish_and_remove() -> None:
            generation = publish(tmp_path, [make_paper(400)])
            eventually(lambda: client.get("/stats").json()["generation"] == generation)
            shutil.rmtree(IndexFolder(tmp_path).generation(1), ignore_errors=True)

        assert follow(client, {"q": "subject3 finding4", "limit": 15}, publish_and_remove) == (whole, {1})


GONE = "the state of the index that this cursor belongs to is gone; ask again without it, from the first page"
STALE = "this cursor does not belong to this question; ask again without it, or with the same words and filters"


def test_a_ranking_that_is_gone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "index", PAPERS[:20])
    monkeypatch.setattr("semsearch.service.live.KEEP_SECONDS", 0)
    with service(tmp_path / "index") as client:
        cursor = client.get("/search?q=subject3").json()["meta"]["next_cursor"]
        (link,) = [link for link in Outline(client.get("/?q=subject3").text).links() if "cursor=" in link]
        publish(tmp_path / "index", PAPERS[20:])
        eventually(lambda: client.get("/stats").json()["generation"] == 2)
        answer = client.get("/search", params={"q": "subject3", "cursor": cursor})
        assert (answer.status_code, answer.json()) == (410, refusal("gone", GONE, "query", "cursor"))
        answer = client.post("/search", json={"q": "subject3", "cursor": cursor})
        assert (answer.status_code, answer.json()) == (410, refusal("gone", GONE, "body", "cursor"))
        page = client.get(link)
        assert page.status_code == 200
        assert "The index has changed since you began to read" in page.text
        assert "1–10 of" in page.text


def test_a_cursor_of_an_index_that_was_made_anew_is_gone(tmp_path: Path) -> None:
    publish(tmp_path / "index", PAPERS[:20])
    with service(tmp_path / "index") as client:
        cursor = client.get("/search?q=subject3").json()["meta"]["next_cursor"]
        (tmp_path / "index").rename(tmp_path / "gone")
        publish(tmp_path / "index", PAPERS[:19])
        eventually(lambda: client.get("/stats").json()["papers"] == 19)
        assert client.get("/stats").json()["generation"] == 1
        assert client.get("/search", params={"q": "subject3", "cursor": cursor}).status_code == 410


def test_only_so_many_rankings_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semsearch.service.live._ROWS_OF_REPLACED", 8 * 30 + 7)
    publish(tmp_path, PAPERS[:20])
    with service(tmp_path) as client:
        cursors = []
        for number in range(10):
            cursors.append(client.get("/search?q=subject3").json()["meta"]["next_cursor"])
            generation = publish(tmp_path, [make_paper(500 + number)])
            eventually(lambda: client.get("/stats").json()["generation"] == generation)  # noqa: B023
        statuses = [client.get("/search", params={"q": "subject3", "cursor": cursor}).status_code for cursor in cursors]
    assert statuses == [410, 410, *[200] * 8]


@pytest.mark.parametrize(
    "change",
    [
        {"q": "subject4"},
        {"mode": "dense"},
        {"collapse": "none"},
        {"approximate": "false"},
        {"year": "2003"},
        {"category": ["cs.CL", "cs.*"]},
        {"category": "cs.CV"},
    ],
)
def test_a_cursor_of_another_question_is_refused(client: TestClient, change: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"q": "subject3", "limit": 4, "category": "cs.CL"}
    cursor = {"cursor": client.get("/search", params=asked).json()["meta"]["next_cursor"]}
    assert client.get("/search", params=asked | cursor).status_code == 200
    assert client.get("/search", params=asked | cursor | {"limit": 7, "facets": 3}).status_code == 200
    answer = client.get("/search", params=asked | cursor | change)
    assert (answer.status_code, answer.json()) == (400, refusal("malformed", STALE, "query", "cursor"))


def test_every_ranking_has_cursors_of_its_own(client: TestClient) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/search", {"q": "subject3"}),
        ("/related", {"ids": ["p3", "p4"]}),
        ("/related", {"title": "subject3"}),
        ("/related", {"abstract": "subject3"}),
        ("/recommend", {"positive": ["p3"], "negative": ["p4"]}),
        ("/recommend", {"positive": ["p4"], "negative": ["p3"]}),
    ]
    cursors = [client.post(path, json=body | {"limit": 2}).json()["meta"]["next_cursor"] for path, body in asked]
    for place, (path, body) in enumerate(asked):
        answers = [client.post(path, json=body | {"cursor": cursor, "limit": 2}) for cursor in cursors]
        assert [answer.status_code for answer in answers] == [200 if n == place else 400 for n in range(len(asked))]
        assert [result["rank"] for result in answers[place].json()["results"]] == [3, 4]
    one = client.get("/papers/p3/related?limit=2").json()["meta"]["next_cursor"]
    assert client.get(f"/papers/p3/related?limit=2&cursor={one}").json()["meta"]["offset"] == 2


def test_a_cursor_says_where_and_an_offset_may_not(client: TestClient) -> None:
    cursor = client.get("/search?q=subject3&limit=100&offset=800").json()["meta"]["next_cursor"]
    assert cursor is None
    cursor = client.get("/search?q=subject3&limit=4").json()["meta"]["next_cursor"]
    assert client.get(f"/search?q=subject3&cursor={cursor}&offset=0").status_code == 422


# The page


def test_the_page_takes_filters_and_leaves_out_empty_fields(client: TestClient) -> None:
    empty = "date_from=&date_to=&author=&venue=+&category=&source=&mode="
    assert client.get("/?" + empty).status_code == 200
    plain, with_empty = (client.get(f"/?q=finding5{more}").text for more in ("", "&" + empty))
    assert [link for link in Outline(plain).links() if "cursor" not in link] == [
        link for link in Outline(with_empty).links() if "cursor" not in link
    ]
    html = client.get("/?q=finding5&date_from=2003&date_to=2003&author=&mode=lexical").text
    assert {("value", "2003"), ("name", "date_from"), ("selected", None)} <= set(Outline(html).attributes)
    for chip in ("Search by: <bdi>words only</bdi>", "From: <bdi>2003</bdi>", "To: <bdi>2003</bdi>"):
        assert chip in html
    assert "under these filters" in client.get("/?q=finding5&year=1999").text
    assert client.get("/?q=finding5&year=x").status_code == 422


def test_a_weak_answer_says_so(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "Nothing here answers this well."
    for weak in (None, False, True):
        monkeypatch.setattr("semsearch.search.is_weak", lambda *question, weak=weak: weak)
        assert (line in client.get("/?q=finding5").text) is (weak is True)
        assert client.get("/search?q=finding5").json()["meta"]["weak"] is weak
        assert client.get("/papers/p5/related").json()["meta"]["weak"] is None
        assert line not in client.get("/?related=p5").text
        assert line not in client.get("/?q=finding5&year=1999").text, "it says that no paper is like this"


def test_facets_are_links_that_narrow_down(client: TestClient) -> None:
    html = client.get("/?q=finding5&year=2001").text
    shown = re.findall(r'<li><a href="([^"]*)"><bdi>[^<]*</bdi></a> <span>(\d+)</span></li>', html)
    assert len(shown) == 5, "two venues and three categories"
    for link, count in shown:
        assert f"1–{count} of {count} paper" in client.get(unescape(link)).text
    assert "/?q=finding5&year=2001&venue=A%5C%7CB+%5C%2A" in Outline(html).links()
    assert "/?q=finding5" in Outline(html).links(), "and the filter that holds can be taken away"
    narrower = Outline(client.get("/?q=finding5&category=cs.CV").text).links()
    assert "/?q=finding5&category=cs.CV&category=stat.ML" in narrower
    assert "/?q=finding5&category=cs.CV&category=cs.CV" not in narrower


def test_neighbours_are_filtered_too(client: TestClient) -> None:
    html = client.get("/?related=p3&category=cs.CL").text
    assert ("value", "p3") in Outline(html).attributes
    assert Outline(html).tags.count("form") == 2
    assert "1–10 of 14 papers" in html


def test_a_result_shows_its_best_sentence_and_its_other_versions(client: TestClient) -> None:
    html = client.get("/?q=dust+darker+snows&source=arxiv").text
    assert "<mark>Dust</mark> that the wind brings onto old <mark>snow</mark> makes it <mark>darker</mark>" in html
    link = '<a href="https://x.example/snow" rel="noopener noreferrer nofollow"><bdi>Journal of Ice 2022</bdi></a>'
    assert f"Also as {link}</p>" in html


def test_a_version_whose_address_is_no_web_page_is_no_link(tmp_path: Path) -> None:
    versions = [make_paper(number, title="Snow", words=SNOW, venue=f"V{number}") for number in (1, 2)]
    publish(tmp_path, versions)
    with service(tmp_path) as client:
        assert "Also as <bdi>V" in client.get("/?q=snow").text
