"""Whatever is sent, the answer is a documented refusal that repeats nothing of it; never a 500."""

import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from conftest import make_paper
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from test_service import NOT_FOUND, Outline, publish, running, service

from semsearch.papers import Paper
from semsearch.service import Limits

MARK = "zq9mark"
GET_ROUTES = ("/search", "/papers/p5", "/papers/p5/related", "/healthz", "/readyz", "/stats", "/openapi.json")
PAGES = ("/", "/static/style.css")
BODY_ROUTES: dict[str, dict[str, Any]] = {
    "/related": {"ids": ["p5"]},
    "/recommend": {"positive": ["p5"]},
    "/papers/batch": {"ids": ["p5"]},
}
ROUTES = (*GET_ROUTES, *PAGES, *BODY_ROUTES)
POSTS = (("/search", "q"), ("/search", "query"), ("/related", "abstract"), ("/related", "title"))
CODES = {
    400: "malformed",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    414: "address_too_long",
    415: "unsupported_media_type",
    421: "misdirected",
    422: "invalid",
    429: "too_many_requests",
    431: "head_too_large",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    path = tmp_path_factory.mktemp("hostile") / "index"
    publish(path, [make_paper(number) for number in range(1, 21)])
    with service(path) as client:
        documented = client.get("/openapi.json").json()["paths"]
        assert all(str(status) in documented["/search"]["post"]["responses"] for status in (400, 413, 415, 422))
        yield client


def check_refused(answer: Any, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    assert MARK not in answer.text
    if answer.headers["content-type"] == "application/json":
        body = answer.json()
        assert set(body) == {"error", "detail"}
        assert body["error"] == CODES[status]
        assert body["detail"]
        assert all(set(entry) == {"loc", "type", "msg"} and entry["msg"] for entry in body["detail"])
        assert len(answer.content) < 1024


# Bodies: FIELD stands for the field that takes a text.

NESTED = 30_000
BODIES: dict[str, tuple[bytes, int]] = {
    "nothing but a brace": (b"{", 400),
    "words": (b"zq9mark", 400),
    "a trailing comma": (b'{"FIELD": "zq9mark",}', 400),
    "two values": (b'{"FIELD": "a"} {"FIELD": "b"}', 400),
    "single quotes": (b"{'FIELD': 'zq9mark'}", 400),
    "an open string": (b'{"FIELD": "zq9mark', 400),
    "a raw line feed in a string": (b'{"FIELD": "zq9\nmark"}', 400),
    "a raw NUL in a string": (b'{"FIELD": "zq9\x00mark"}', 400),
    "a raw NUL after the value": (b'{"FIELD": "a"}\x00', 400),
    "invalid UTF-8": (b'{"FIELD": "zq9mark\xff"}', 400),
    "overlong UTF-8": (b'{"FIELD": "\xc0\xaf"}', 400),
    "a surrogate in UTF-8": (b'{"FIELD": "\xed\xa0\x80"}', 400),
    "UTF-16 with a BOM": ('{"FIELD": "zq9mark"}'.encode("utf-16"), 400),
    "UTF-16 without a BOM": ('{"FIELD": "zq9mark"}'.encode("utf-16-le"), 400),
    "UTF-32": ('{"FIELD": "zq9mark"}'.encode("utf-32"), 400),
    "a BOM": (b'\xef\xbb\xbf{"FIELD": "zq9mark"}', 400),
    "deep arrays": (b"[" * NESTED, 400),
    "deep closed arrays": (b"[" * NESTED + b"]" * NESTED, 400),
    "deep objects": (b'{"a":' * (NESTED // 3) + b"1" + b"}" * (NESTED // 3), 400),
    "deep arrays in a field": (b'{"FIELD": ' + b"[" * NESTED + b"]" * NESTED + b"}", 400),
    "a huge integer": (b'{"FIELD": "a", "limit": 1' + b"0" * 5_000 + b"}", 400),
    "a huge negative integer": (b'{"FIELD": "a", "limit": -1' + b"0" * 5_000 + b"}", 400),
    "a name twice": (b'{"FIELD": "a", "FIELD": "zq9mark"}', 400),
    "a name twice, spelled differently": (b'{"limit": 1, "\\u006cimit": 2, "FIELD": "a"}', 400),
    "a name twice further down": (b'{"FIELD": {"a": 1, "a": 2}}', 400),
    "a comment": (b'{"FIELD": "a" /* zq9mark */}', 400),
    "a hexadecimal number": (b'{"FIELD": "a", "limit": 0x10}', 400),
    "a number with a leading zero": (b'{"FIELD": "a", "limit": 010}', 400),
    "nothing": (b"", 422),
    "an empty array": (b"[]", 422),
    "null": (b"null", 422),
    "true": (b"true", 422),
    "a number": (b"5", 422),
    "a text": (b'"zq9mark"', 422),
    "an empty object": (b"{}", 422),
    "an array with an object": (b'[{"FIELD": "zq9mark"}]', 422),
    "another field": (b'{"FIELD": "a", "zq9mark": 1}', 422),
    "many other fields": (b'{"FIELD": "a", ' + b", ".join(b'"zq9mark%d": 1' % n for n in range(2_000)) + b"}", 422),
    "a model": (b'{"FIELD": "a", "model": "zq9mark"}', 422),
    "a model's folder": (b'{"FIELD": "a", "model_path": "/zq9mark"}', 422),
    "an index": (b'{"FIELD": "a", "index": "../zq9mark"}', 422),
    "an address": (b'{"FIELD": "a", "url": "http://zq9mark/"}', 422),
    "a prototype": (b'{"FIELD": "a", "__proto__": {"limit": 100}}', 422),
    "a private name": (b'{"FIELD": "a", "__class__": "zq9mark"}', 422),
    "NaN": (b'{"FIELD": "a", "limit": NaN}', 422),
    "NaN as the text": (b'{"FIELD": NaN}', 422),
    "NaN alone": (b"NaN", 422),
    "Infinity": (b'{"FIELD": "a", "offset": Infinity}', 422),
    "-Infinity": (b'{"FIELD": "a", "offset": -Infinity}', 422),
    "1e999": (b'{"FIELD": "a", "limit": 1e999}', 422),
    "-1e999": (b'{"FIELD": "a", "limit": -1e999}', 422),
    "1e999 in another field": (b'{"FIELD": "a", "zq9mark": [1e999]}', 422),
    "a lone high surrogate": (b'{"FIELD": "zq9mark\\ud800"}', 422),
    "a lone low surrogate": (b'{"FIELD": "\\udc00zq9mark"}', 422),
    "surrogates in the wrong order": (b'{"FIELD": "\\udc00\\ud800"}', 422),
    "a lone surrogate in a name": (b'{"FIELD": "a", "zq9mark\\ud800": 1}', 422),
    "a lone surrogate in an inner name": (b'{"FIELD": {"\\ud800": 1}}', 422),
    "a lone surrogate in a list": (b'{"FIELD": ["\\ud800"]}', 422),
    "a lone surrogate alone": (b'"\\ud800"', 422),
    "an escaped NUL": (b'{"FIELD": "zq9mark\\u0000"}', 422),
    "an escaped NUL in a name": (b'{"FIELD": "a", "\\u0000": 1}', 422),
    "an empty text": (b'{"FIELD": ""}', 422),
    "a blank text": (b'{"FIELD": " \\t\\n\\r "}', 422),
    "zero-width characters": ('{"FIELD": "\u200b\u200d\u2060\ufeff"}'.encode(), 422),
    "direction marks": ('{"FIELD": "\u202e\u2066\u2069"}'.encode(), 422),
    "tag characters": ('{"FIELD": "\U000e0041\U000e007f"}'.encode(), 422),
    "unusual blanks": ('{"FIELD": "\u00a0\u2003\u3000"}'.encode(), 422),
    "control characters": (b'{"FIELD": "\\u0001\\u001f\\u007f"}', 422),
    "a text of 10,001 characters": (b'{"FIELD": "zq9mark' + b"a" * 9_994 + b'"}', 422),
    "a text of 60,000 characters": (b'{"FIELD": "' + b"zq9mark " * 7_500 + b'"}', 422),
    "a text that is null": (b'{"FIELD": null}', 422),
    "a text that is a number": (b'{"FIELD": 1}', 422),
    "a text that is a list": (b'{"FIELD": ["zq9mark"]}', 422),
    "a text that is an object": (b'{"FIELD": {"$ne": null}}', 422),
    "a text that is true": (b'{"FIELD": true}', 422),
    "a text's escaped twin": (b'{"FIELD": "a", "FIEL\\u0044 ": "zq9mark"}', 422),
}
NOT_A_LIMIT = [
    "0",
    "-1",
    "101",
    "1000000000",
    "true",
    "false",
    '"12"',
    "1e3",
    "1e1",
    "10.0",
    "10.5",
    "null",
    "[10]",
    "{}",
]
NOT_A_LIMIT += [
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "1e-400",
    "-0.0",
    '""',
    "1" + "0" * 300,
]
NOT_AN_OFFSET = ["-1", "1000", "991", "1000000000", "true", '"0"', "0.0", "1e2", "null", "[0]", "9223372036854775808"]
for value in NOT_A_LIMIT:
    BODIES[f"a limit of {value[:24]}"] = (b'{"FIELD": "a", "limit": %s}' % value.encode(), 422)
for value in NOT_AN_OFFSET:
    BODIES[f"an offset of {value}"] = (b'{"FIELD": "a", "offset": %s}' % value.encode(), 422)


@pytest.mark.parametrize(("route", "field"), POSTS)
@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body_is_refused(client: TestClient, route: str, field: str, name: str) -> None:
    body, status = BODIES[name]
    content = body.replace(b"FIELD", field.encode())
    if b"\x00F\x00I" in body:
        content = body.replace("FIELD".encode("utf-16-le"), field.encode("utf-16-le"))
    check_refused(client.post(route, content=content, headers={"Content-Type": "application/json"}), status)


@pytest.mark.parametrize("mode", ["LEXICAL", "hybrid\n", "DENSE", "", "zq9mark", "dense "])
def test_only_modes_that_exist_are_accepted(client: TestClient, mode: str) -> None:
    check_refused(client.post("/search", json={"q": "a", "mode": mode}), 422)
    check_refused(client.get("/search", params={"q": "a", "mode": mode}), 422)


SEEDS: dict[str, tuple[object, int]] = {
    "no id": ([], 422),
    "65 ids": (["p5"] * 65, 422),
    "one id without its list": ("p5", 422),
    "a number": ([5], 422),
    "null": ([None], 422),
    "a list": ([["p5"]], 422),
    "an empty id": ([""], 422),
    "an id of 129 characters": (["zq9mark" + "a" * 122], 422),
    "many wrong ids": ([5] * 64, 422),
    "an unknown id": (["zq9mark"], 404),
    "a known and an unknown id": (["p5", "zq9mark"], 404),
    "a path": (["../../zq9mark"], 404),
    "a blank id": ([" "], 404),
    "an id with a line feed": (["p5\nzq9mark"], 404),
    "an id that is not ASCII": (["zq9mark\u00e9"], 404),
    "SQL": (["p5' OR '1'='1"], 404),
    "a joker": (["p%"], 404),
}


@pytest.mark.parametrize("name", SEEDS)
def test_bad_seeds_are_refused(client: TestClient, name: str) -> None:
    ids, status = SEEDS[name]
    check_refused(client.post("/related", json={"ids": ids}), status)
    check_refused(client.post("/recommend", json={"positive": ids}), status)
    if ids:
        check_refused(client.post("/recommend", json={"positive": ["p5"], "negative": ids}), status)
    if status == 422 and name != "65 ids":
        check_refused(client.post("/papers/batch", json={"ids": ids}), status)


@pytest.mark.parametrize(
    "body",
    [
        {"positive": ["p5"], "positivePaperIds": [MARK]},
        {"negative": ["p5"]},
        {"positive": ["p5"], "negative": None},
        {"positive": ["p5"], "q": MARK},
        {"positive": ["p5"], "mode": "dense"},
    ],
)
def test_recommendations_are_asked_for_in_one_way(client: TestClient, body: dict[str, object]) -> None:
    check_refused(client.post("/recommend", json=body), 422)


def test_a_batch_has_a_limit(client: TestClient) -> None:
    check_refused(client.post("/papers/batch", json={"ids": ["p5"] * 501}), 422)
    assert client.post("/papers/batch", json={"ids": ["p5"] * 500}).json()["papers"][499]["id"] == "p5"
    unknown = client.post("/papers/batch", json={"ids": [MARK, "../../etc/passwd", "p5\n", "p5' OR '1'='1", "\u00e9"]})
    assert unknown.json() == {"papers": [None, None, client.get("/papers/p5").json(), None, None]}


# Filters, facets, cursors

FILTERS = ("year", "date_from", "date_to", "category", "venue", "source", "author", "has_doi", "ids")
NO_FILTER_VALUE: dict[str, object] = {
    "a number": 2020,
    "null": None,
    "true": True,
    "an object": {"zq9mark": 1},
    "a number in a list": [2020],
    "null in a list": ["2020", None],
    "a list in a list": [["zq9mark"]],
    "deep lists": json.loads("[" * 500 + "]" * 500),
    "an object in a list": [{"$ne": "zq9mark"}],
    "nothing to mean": "",
    "a blank": " \t\u200b",
    "only a sign": "!",
    "only bars": "|||",
    "an open end": "zq9mark|",
    "too many": ["2020"] * 101,
    "very many": [""] * 15_000,
    "too many alternatives": "|".join(["2020"] * 1_001),
}
NO_DAY = [
    "0",
    "20x",
    "-",
    "--",
    "99999",
    "0000",
    "2020-00",
    "2021-02-30",
    "2020-2019x",
    "1e3",
    "２０２０",
    "zq9mark" * 500,
]


@pytest.mark.parametrize("field", FILTERS)
@pytest.mark.parametrize("name", NO_FILTER_VALUE)
def test_what_no_filter_can_mean_is_refused(client: TestClient, field: str, name: str) -> None:
    value = NO_FILTER_VALUE[name]
    for path, body in (("/search", {"q": "a"}), ("/recommend", {"positive": ["p5"]}), ("/related", {"title": "a"})):
        if (path, field) != ("/related", "ids"):
            answer = client.post(path, json=body | {field: value})
            check_refused(answer, 422)
            assert answer.json()["detail"][0]["loc"][:2] == ["body", field]


@pytest.mark.parametrize("value", NO_DAY)
def test_a_day_that_is_none_is_refused(client: TestClient, value: str) -> None:
    for field in ("year", "date_from", "date_to"):
        for path in ("/search?q=a", "/papers/p5/related", "/?q=a"):
            address, _, query = path.partition("?")
            parameters = dict([query.split("=")]) if query else {}
            check_refused(client.get(address, params=parameters | {field: value}), 422)


@pytest.mark.parametrize(
    "query",
    [
        "cursor=zq9mark",
        "cursor=" + "A" * 24,
        "cursor=%F0%9F%92%A5",
        "cursor=AAAAAAAAAAAAAAAAAAAAAAA%3D",
        "cursor=AAAA+AAA/AAAAAAAAAAAAAAA",
    ],
)
@pytest.mark.parametrize("path", ["/search?q=a&", "/papers/p5/related?", "/?q=a&"])
def test_a_text_that_is_no_cursor_is_malformed(client: TestClient, path: str, query: str) -> None:
    check_refused(client.get(path + query), 400)


@pytest.mark.parametrize(
    "query",
    [
        "facets=-1",
        "facets=101",
        "facets=true",
        "facets=",
        "facets=1e1",
        "facets=zq9mark",
        "collapse=",
        "collapse=zq9mark",
        "collapse=work&collapse=none",
        "cursor=",
        "cursor=" + "A" * 65,
        "cursor=" + "zq9mark" * 1_000,
        "cursor=AAAAAAAAAAAAAAAAAAAAAAAA&cursor=AAAAAAAAAAAAAAAAAAAAAAAA",
    ],
)
@pytest.mark.parametrize("path", ["/search?q=a&", "/papers/p5/related?"])
def test_bad_facets_versions_and_cursors_are_refused(client: TestClient, path: str, query: str) -> None:
    check_refused(client.get(path + query), 400 if query.count("=") == 2 else 422)


@pytest.mark.parametrize("value", [5, True, ["zq9mark"], {"a": 1}, "", "zq9mark", "A" * 24, "\u00e9" * 24])
def test_a_cursor_that_is_none_is_refused_in_a_body(client: TestClient, value: object) -> None:
    is_text = isinstance(value, str) and value != ""
    check_refused(client.post("/search", json={"q": "a", "cursor": value}), 400 if is_text else 422)


def test_a_cursor_that_was_tampered_with_is_refused(client: TestClient) -> None:
    cursor = client.get("/search?q=a&limit=5").json()["meta"]["next_cursor"]
    assert client.get(f"/search?q=a&limit=5&cursor={cursor}").status_code == 200
    for place in range(len(cursor)):
        changed = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
        assert client.get(f"/search?q=a&limit=5&cursor={changed}").status_code == 400


@settings(max_examples=150, deadline=None)
@given(field=st.sampled_from(FILTERS), value=st.text(max_size=40), mode=st.sampled_from(["hybrid", "dense", "lexical"]))
def test_any_text_as_a_filter_is_answered_or_refused(client: TestClient, field: str, value: str, mode: str) -> None:
    for answer in (
        client.get("/search", params={"q": "a", field: value, "mode": mode, "facets": 3}),
        client.post("/search", json={"q": "a", field: value, "mode": mode}),
        client.get("/", params={"q": "a", field: value, "mode": mode}),
    ):
        assert answer.status_code in (200, 422), answer.text


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(
        alphabet=st.one_of(st.sampled_from('"-:!|*\\ title author'), st.characters(codec="utf-8")), max_size=40
    ),
    mode=st.sampled_from(["hybrid", "dense", "lexical"]),
)
def test_any_text_as_a_question_is_answered_or_refused(client: TestClient, text: str, mode: str) -> None:
    for answer in (
        client.get("/search", params={"q": text, "mode": mode}),
        client.post("/related", json={"title": text}),
        client.get("/", params={"q": text, "mode": mode}),
    ):
        assert answer.status_code in (200, 422), answer.text


@pytest.mark.parametrize(
    "body",
    [
        {"ids": ["p5"], "title": MARK},
        {"ids": ["p5"], "abstract": MARK},
        {"ids": ["p5"], "title": MARK, "abstract": MARK},
        {"title": "t" * 2_000, "abstract": "a" * 8_000},  # each may be so long, but not both
        {"title": "t" * 2_001, "abstract": "a"},
        {"limit": 5},
    ],
)
def test_exactly_one_form_of_seeds_is_accepted(client: TestClient, body: dict[str, object]) -> None:
    check_refused(client.post("/related", json=body), 422)


def test_ids_may_be_named_twice(client: TestClient) -> None:
    assert client.post("/related", json={"ids": ["p5"] * 64}).status_code == 200


CONTENT_TYPES = [
    None,
    "",
    "text/plain",
    "text/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=zq9mark",
    "application/xml",
    "application/octet-stream",
    "application/problem+json",
    "application/jsonp",
    "application/json; charset=utf-16",
    "application/json; charset=latin-1",
    "application/json; charset=zq9mark",
    "application",
    "/",
    "*/*",
    "application/json, text/plain",
    "zq9mark",
]


@pytest.mark.parametrize("route", ["/search", "/related"])
@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_another_content_type_is_refused(client: TestClient, route: str, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    check_refused(client.post(route, content=b'{"q": "zq9mark"}', headers=headers), 415)


@pytest.mark.parametrize("route", ["/search", "/related"])
def test_two_content_types_are_refused(client: TestClient, route: str) -> None:
    headers = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    check_refused(client.post(route, content=b'{"q": "zq9mark"}', headers=headers), 415)


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON", "application/json; charset=UTF-8"])
def test_json_is_accepted_however_it_is_announced(client: TestClient, content_type: str) -> None:
    answer = client.post("/search", content=b'{"q": "a"}', headers={"Content-Type": content_type})
    assert answer.status_code == 200


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "identity", "zq9mark", ""])
def test_a_coded_body_is_refused(client: TestClient, route: str, coding: str) -> None:
    method = "POST" if route in BODY_ROUTES else "GET"
    check_refused(client.request(method, route, content=b"\x1f\x8b", headers={"Content-Encoding": coding}), 415)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_body_over_the_limit_is_refused_and_the_connection_closed(
    client: TestClient, route: str, method: str
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(70):
            yield b"zq9mark " * 128

    headers = {"Content-Type": "application/json"}
    for content in (b"[" * 100_000, b"x" * 65_537, chunks()):
        answer = client.request(method, route, content=content, headers=headers)
        check_refused(answer, 413)
        assert answer.headers["connection"] == "close"


def test_a_body_of_just_the_limit_is_read(client: TestClient) -> None:
    body = b'{"q": "a"}'.ljust(65_536)
    assert client.post("/search", content=body, headers={"Content-Type": "application/json"}).status_code == 200


# Methods


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "ZQ9MARK"])
def test_another_method_is_refused(client: TestClient, route: str, method: str) -> None:
    answer = client.request(method, route)
    if method == "DELETE" and route.startswith("/papers/"):
        check_refused(answer, 404)  # as long as there is no admin, nobody learns that one could delete
        return
    posts = {"/search": "GET, HEAD, POST", "/papers/batch": "GET, HEAD, POST", "/related": "POST", "/recommend": "POST"}
    assert answer.headers["allow"] == posts.get(route, "GET, HEAD")
    check_refused(answer, 405)


@pytest.mark.parametrize("path", ["/", "/?q=a", "/healthz", "/search?q=a", "/papers/p999", "/nowhere", "/search?q="])
def test_head_gives_what_get_does_without_the_body(client: TestClient, path: str) -> None:
    whole, head = client.get(path), client.head(path)
    assert (head.status_code, head.headers["content-type"]) == (whole.status_code, whole.headers["content-type"])
    assert (head.content, bool(whole.content)) == (b"", True)
    assert client.head("/related").status_code == 405


@pytest.mark.parametrize("route", [*GET_ROUTES[1:], *PAGES])
def test_a_get_route_takes_no_post(client: TestClient, route: str) -> None:
    answer = client.post(route, json={"q": MARK})
    check_refused(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("route", ["/related", "/recommend"])
def test_a_post_route_takes_no_get(client: TestClient, route: str) -> None:
    answer = client.get(route)
    check_refused(answer, 405)
    assert answer.headers["allow"] == "POST"


# Query strings

EVERYWHERE: dict[str, tuple[str, int]] = {
    "a parameter twice": ("zq9mark=1&zq9mark=2", 400),
    "a parameter twice, spelled differently": ("limit=1&%6cimit=2", 400),
    "a lone percent sign": ("q=%", 400),
    "half an escape": ("q=%a", 400),
    "no hexadecimal digits": ("q=%zz", 400),
    "an escape that is no UTF-8": ("q=%ff", 400),
    "an escaped surrogate": ("q=%ed%a0%80", 400),
    "an overlong slash": ("q=%c0%af", 400),
    "a name that is no UTF-8": ("%ff=1", 400),
    "NUL": ("q=zq9mark%00", 422),
    "NUL in a name": ("zq9mark%00=1", 422),
    "an unknown parameter": ("zq9mark=1", 422),
    "an unknown parameter without a value": ("zq9mark", 422),
    "an empty name": ("=zq9mark", 422),
    "a model": ("model=zq9mark", 422),
    "a debug switch": ("debug=true", 422),
    "a filter of a later version": ("fields=zq9mark", 422),
    "an array": ("q[]=zq9mark", 422),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_bad_query_string_is_refused_everywhere(client: TestClient, route: str, name: str) -> None:
    query, status = EVERYWHERE[name]
    target = f"{route}?{query}"
    if route in BODY_ROUTES:
        check_refused(client.post(target, json=BODY_ROUTES[route]), status)
    else:
        check_refused(client.get(target), status)


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_bad_query_string_beside_a_good_body_is_refused(client: TestClient, name: str) -> None:
    query, status = EVERYWHERE[name]
    check_refused(client.post(f"/search?{query}", json={"q": "a"}), status)


NOT_AN_INTEGER = [
    "",
    "1e3",
    "+5",
    "%2B5",
    "-1",
    "true",
    "1.0",
    "0x10",
    "1_0",
    " 5",
    "5 ",
    "%205",
    "٣",
    "５",
    "NaN",
    "null",
]
NOT_AN_INTEGER += [
    "Infinity",
    "1000000000",
    "9223372036854775808",
    "1" + "0" * 5_000,
    "5;6",
    "5,6",
    "zq9mark",
    "--1",
    "5%0A",
]


@pytest.mark.parametrize("route", ["/search?q=a&", "/papers/p5/related?"])
@pytest.mark.parametrize("parameter", ["limit", "offset"])
@pytest.mark.parametrize("value", NOT_AN_INTEGER)
def test_a_number_that_is_not_plain_digits_is_refused(
    client: TestClient, route: str, parameter: str, value: str
) -> None:
    check_refused(client.get(f"{route}{parameter}={value}"), 422)


@pytest.mark.parametrize("value", NOT_AN_INTEGER)
def test_the_page_is_as_strict(client: TestClient, value: str) -> None:
    check_refused(client.get(f"/?q=a&offset={value}"), 422)


@pytest.mark.parametrize("route", ["/search?q=a&", "/papers/p5/related?"])
@pytest.mark.parametrize(
    "page", ["limit=0", "limit=101", "offset=1000", "offset=991", "limit=100&offset=901", "offset=999999999"]
)
def test_a_page_out_of_bounds_is_refused(client: TestClient, route: str, page: str) -> None:
    check_refused(client.get(route + page), 422)


BLANK = [
    "",
    "%20",
    "+",
    "%09%0A",
    "%E2%80%8B",
    "%E2%80%8B%20%EF%BB%BF",
    "%C2%A0",
    "%E2%80%AE",
    "%01%1F",
    "%F3%A0%81%81",
]


@pytest.mark.parametrize("route", ["/search?q=", "/search?query=", "/?q=", "/?abstract=", "/?title="])
@pytest.mark.parametrize("text", BLANK)
def test_a_blank_question_is_refused(client: TestClient, route: str, text: str) -> None:
    check_refused(client.get(route + text), 422)


@pytest.mark.parametrize("route", ["/search?q=", "/search?query=", "/?q="])
def test_a_question_that_is_too_long_is_refused(client: TestClient, route: str) -> None:
    check_refused(client.get(route + "zq9mark" + "a" * 9_994), 422)
    assert client.get(route + "a" * 10_000).status_code == 200


def test_a_question_may_be_asked_under_one_name_only(client: TestClient) -> None:
    check_refused(client.get("/search?q=a&query=zq9mark"), 422)
    check_refused(client.get("/search"), 422)


# Paths

IDS = [
    "../../etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%2f..%2flibrary.db",
    "..%5c..%5clibrary.db",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "//etc/passwd",
    "p5%2f..%2fp5",
    "p5%2f.",
    "p5//",
    "p5%00",
    "%00",
    "p5%00.json",
    "zq9mark%0d%0aX-Injected:%20yes",
    "%ff%fe",
    "%c0%ae%c0%ae/",
    "%ed%a0%80",
    "%25",
    "%252e%252e%252f",
    "%zz",
    "%E2%80%AEzq9mark",
    "%20",
    "~root",
    "$HOME",
    "p5;rm%20-rf",
    "p5'--",
    "p5%22",
    "p*",
    "p_",
    "file:///etc/passwd",
    "http://zq9mark/",
    "con",
    "nul.txt",
    "library.db",
    "CURRENT",
    "null",
    "-1",
    "zq9mark" + "a" * 122,
    "zq9mark" * 1_000,
    "%F0%9F%92%A5",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "${jndi:ldap://zq9mark/a}",
]


@pytest.mark.parametrize("suffix", ["", "/related"])
@pytest.mark.parametrize("paper_id", IDS)
def test_an_id_that_no_paper_has_is_not_found(client: TestClient, paper_id: str, suffix: str) -> None:
    answer = client.get(f"/papers/{paper_id}{suffix}")
    check_refused(answer, 404)
    assert answer.json() == NOT_FOUND
    assert "x-injected" not in answer.headers


@pytest.mark.parametrize("paper_id", [paper_id for paper_id in IDS if len(paper_id) <= 128])
def test_the_page_knows_no_such_paper_either(client: TestClient, paper_id: str) -> None:
    answer = client.get("/", params={"related": paper_id})
    check_refused(answer, 404)


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/style.css/",
        "/static/style.css%00",
        "/static/zq9mark",
        "/search/",
        "/SEARCH",
        "/search%00",
        "/zq9mark%0a",
        "/.env",
        "/.git/config",
        "/docs",
        "/redoc",
        "/admin/",
    ],
)
def test_a_path_that_is_nothing_is_not_found(client: TestClient, path: str) -> None:
    check_refused(client.get(path), 404)


# Papers whose text is hostile

TEXTS = [
    "<script>alert(1)</script>",
    "</title></h2><script src=//x></script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "<!-- comment --><iframe srcdoc='<script>alert(1)</script>'>",
    "<a href=javascript:alert(1)>x</a>",
    "<style>*{display:none}</style><meta http-equiv=refresh content=0;url=//x>",
    "</article></li></ol></main><form action=//x><input name=q>",
    "{{7*7}} {% raw %} {{ config }} ${7*7} #{7*7}",
    "&lt;script&gt; &#60;script&#62; &amp;",
    "\u202ecod.exe\u2066 isolate \u2067",
    "$\\def\\a{\\a\\a}\\a$ \\href{javascript:alert(1)}{x} \\htmlData{x=y}{z}",
    "\\rule{99999em}{99999em} " + "{" * 200,
    "e" + "\u0301" * 500,
    "a" * 3_000,
    "=cmd|' /C calc'!A0",
    "\U000e0041\U000e0042 tagged \ufeff",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 mixed",
]
URLS = [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    " javascript:alert(1)",
    "java\tscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:msgbox(1)",
    "file:///etc/passwd",
    "//x.example/y",
    "https:",
    "http:///x",
    "http://[::1",
    "\x01javascript:alert(1)",
]


def hostile_papers() -> list[Paper]:
    """Return papers built around the readers, which would have dropped some of these addresses."""
    papers = [
        Paper(
            paper_id=f"text{number}",
            title=text,
            abstract=f"{text} abstract{number}",
            authors=(text, "B. Author"),
            venue=text,
            published="2020",
            url=f"https://x.example/?a={quote(text)}",
        )
        for number, text in enumerate(TEXTS)
    ]
    papers += [
        Paper(paper_id=f"url{number}", title=f"Link {number}", abstract="A link.", url=url)
        for number, url in enumerate(URLS)
    ]
    plain = {"title": "Plain", "authors": ("A. Author", "B. Author"), "venue": "Venue", "published": "2020"}
    return [*papers, make_paper(1, paper_id="plain", words="Plain abstract", url="https://x.example/", **plain)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    path = tmp_path_factory.mktemp("texts") / "index"
    publish(path, hostile_papers())
    with service(path) as client:
        yield client


def articles(html: str) -> list[Outline]:
    return [Outline(part) for part in re.findall("<article>.*?</article>", html, re.DOTALL)]


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_a_hostile_text_is_shown_and_nothing_else(library: TestClient, number: int) -> None:
    (plain, *_) = articles(library.get("/?q=Plain+abstract").text)
    page = library.get("/", params={"q": f"{TEXTS[number]} abstract{number}"})
    assert page.status_code == 200
    (first,) = [outline for outline in articles(page.text) if f"/?related=text{number}" in outline.links()]
    assert set(first.tags) <= {*plain.tags, "mark", "details", "summary"}
    assert first.tags.count("a") == plain.tags.count("a")
    assert {name for name, _ in first.attributes} == {name for name, _ in plain.attributes}
    outline = Outline(page.text)
    assert not {"script", "iframe", "svg", "img", "style", "object"} & set(outline.tags)
    assert outline.tags.count("form") == 1
    assert library.get(f"/?related=text{number}").status_code == 200


@pytest.mark.parametrize("number", range(len(TEXTS)))
def test_a_hostile_text_comes_back_as_json_unchanged(library: TestClient, number: int) -> None:
    answer = library.get(f"/papers/text{number}")
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.content.decode("utf-8"))["title"] == TEXTS[number]
    found = library.post("/search", json={"q": f"{TEXTS[number]} abstract{number}"[:10_000], "limit": 100})
    assert found.status_code == 200


def test_a_hostile_label_is_a_link_that_narrows_down_and_nothing_else(library: TestClient) -> None:
    outline = Outline(library.get("/?q=abstract").text)
    links = [link for link in outline.links() if "venue=" in link]
    assert links
    assert not {"script", "iframe", "svg", "img", "style", "object"} & set(outline.tags)
    for link in links:
        page = library.get(link)
        assert page.status_code == 200
        assert "1–1 of 1 paper, " in page.text


@pytest.mark.parametrize("number", range(len(URLS)))
def test_an_address_that_is_no_web_page_is_no_link(library: TestClient, number: int) -> None:
    html = library.get("/", params={"q": f"Link {number} A link."}).text
    shown = [outline for outline in articles(html) if f"/?related=url{number}" in outline.links()]
    assert [outline.links() for outline in shown] == [[f"/?related=url{number}"]]


@pytest.mark.parametrize("text", TEXTS)
def test_a_hostile_question_is_only_ever_the_boxs_content(library: TestClient, text: str) -> None:
    outline = Outline(library.get("/", params={"q": text}).text)
    assert ("value", text) in outline.attributes
    assert not {"script", "iframe", "svg", "img", "style", "object"} & set(outline.tags)


# Requests that only a socket can send


def exchange(address: tuple[str, int], *parts: bytes) -> bytes:
    """Send the parts and return all that comes back until the server closes the connection."""
    with socket.create_connection(address, timeout=10) as connection:
        received = b""
        try:
            for part in parts:
                connection.sendall(part)
            while data := connection.recv(65_536):
                received += data
        except (BrokenPipeError, ConnectionResetError):
            pass  # it closed with bytes of ours unread
        return received


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    path = tmp_path_factory.mktemp("sockets") / "index"
    publish(path, [make_paper(number) for number in range(1, 6)])
    with running(path, limits=Limits(body_seconds=0.3)) as address:
        yield address


HEAD = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n"
QUESTION = b'{"q": "a"}'
CLOSING = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
RAW: dict[str, tuple[list[bytes], int]] = {
    "a length over the limit, nothing sent": ([HEAD + b"Content-Length: 65537\r\n\r\n"], 413),
    "a huge length": ([HEAD + b"Content-Length: 99999999999999999999\r\n\r\n", QUESTION], 413),
    "a length longer than the body": ([HEAD + b"Content-Length: 100\r\n\r\n", QUESTION], 408),
    "a length shorter than the body": ([HEAD + b"Content-Length: 5\r\n\r\n", QUESTION], 400),
    "a negative length": ([HEAD + b"Content-Length: -1\r\n\r\n", QUESTION], 400),
    "a length that is no number": ([HEAD + b"Content-Length: 1e3\r\n\r\n", QUESTION], 400),
    "two lengths": ([HEAD + b"Content-Length: 10\r\nContent-Length: 11\r\n\r\n", QUESTION], 400),
    "chunks over the limit": ([CHUNKED + b"\r\n", *[b"4000\r\n" + b"x" * 0x4000 + b"\r\n"] * 5], 413),
    "one chunk over the limit": ([CHUNKED + b"\r\n", b"fffff\r\n" + b"x" * 70_000], 413),
    "a chunk without a size": ([CHUNKED + b"\r\n", b"zz\r\nxx\r\n"], 400),
    "chunks that never end": ([CHUNKED + b"\r\n", b"2\r\n{}\r\n"], 408),
    "a length and chunks": ([CHUNKED + b"Content-Length: 10\r\n\r\n", b"a\r\n" + QUESTION + b"\r\n0\r\n\r\n"], 400),
    "chunks and a length": ([HEAD + b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n"], 400),
    "another transfer coding": ([HEAD + b"Transfer-Encoding: gzip\r\n\r\n", QUESTION], 400),
    "a body sent byte by byte, too slowly": ([HEAD + b"Content-Length: 10\r\n\r\n{"], 408),
    "a GET with a body over the limit": (
        [b"GET /search?q=a HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n"],
        413,
    ),
    "no host": ([b"GET /healthz HTTP/1.1\r\n\r\n"], 400),
    "two hosts": ([b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"], 400),
    "no host in HTTP/1.0": ([b"GET /healthz HTTP/1.0\r\n\r\n"], 400),
    "a host that is no host": ([b"GET /healthz HTTP/1.1\r\nHost: [\r\n\r\n"], 400),
    "a host that is a path": ([b"GET /nope HTTP/1.1\r\nHost: x/healthz?\r\n\r\n"], 400),
    "an empty host": ([b"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n"], 400),
    "a host with a user": ([b"GET /healthz HTTP/1.1\r\nHost: zq9mark@x\r\n\r\n"], 400),
    "a host with two ports": ([b"GET /healthz HTTP/1.1\r\nHost: x:80:81\r\n\r\n"], 400),
    "a host that is a list": ([b"GET /healthz HTTP/1.1\r\nHost: x, y\r\n\r\n"], 400),
    "another host": ([b"GET /healthz HTTP/1.1\r\nHost: zq9mark.example\r\n\r\n"], 421),
    "another host and a body": ([HEAD.replace(b"Host: x", b"Host: y") + b"Content-Length: 65000\r\n\r\n{"], 421),
    "another origin and a body": ([HEAD + b"Origin: http://y\r\nContent-Length: 65000\r\n\r\n{"], 403),
    "no HTTP": ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n"], 400),
    "a field over 16 KiB": ([b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 17_000 + b"\r\n\r\n"], 431),
    "a field that never ends": ([b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 50_000], 431),
    "many fields": ([b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-A: a\r\n" * 100 + b"\r\n"], 431),
    "an address over 32 KiB": ([b"GET /search?q=" + b"a" * 33_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"], 414),
    "an address that never ends": ([b"GET /search?q=" + b"a" * 50_000], 414),
    "a chunk's size that never ends": ([CHUNKED + b"\r\n", b"1;" + b"a" * 50_000], 400),
    "a trailer that never ends": ([CHUNKED + b"\r\n", b"0\r\nX-A: " + b"a" * 50_000], 400),
    "chunk sizes beyond reason": ([CHUNKED + b"\r\n", b"f" * 30 + b"\r\n"], 400),
    "a body in crumbs": ([CHUNKED + b"\r\n", b"1\r\n \r\n" * 5_000], 413),
    "a negative chunk": ([CHUNKED + b"\r\n", b"-1\r\n\r\n"], 400),
    "a chunk longer than it says": ([CHUNKED + b"\r\n", b"1\r\n{}\r\n0\r\n\r\n"], 400),
    "chunked twice": ([HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], 400),
    "chunked among others": ([HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"], 400),
    "chunked, oddly written": ([HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"], 400),
    "a field folded over two lines": (
        [b"GET /nope HTTP/1.1\r\nHost: x\r\nX-A: a\r\n b\r\nConnection: close\r\n\r\n"],
        404,
    ),
    "a blank before the colon": ([HEAD + b"Content-Length : 10\r\n\r\n", QUESTION], 400),
    "a field without a colon": ([b"GET /healthz HTTP/1.1\r\nHost: x\r\nzq9mark\r\n\r\n"], 400),
    "a NUL in a field": ([b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: \x00\r\n\r\n"], 400),
    "a bare CR in a field": ([b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: a\rb\r\n\r\n"], 400),
    "two equal lengths": ([HEAD + b"Content-Length: 10\r\nContent-Length: 10\r\n\r\n", QUESTION, CLOSING], 200),
    "two equal lengths in one field": ([HEAD + b"Content-Length: 10, 10\r\n\r\n", QUESTION, CLOSING], 200),
    "a length with a plus": ([HEAD + b"Content-Length: +10\r\n\r\n", QUESTION], 400),
    "a length of ten to the 5000": ([HEAD + b"Content-Length: 1" + b"0" * 5_000 + b"\r\n\r\n", QUESTION], 400),
    "HTTP/2 without asking": ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], 400),
    "HTTP/0.9": ([b"GET /healthz\r\n\r\n"], 400),
    "a tunnel": ([b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], 404),
    "everything": ([b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], 404),
    "a raw byte in the path": ([b"GET /papers/\xff HTTP/1.1\r\nHost: x\r\n\r\n"], 400),
    "a raw NUL in the path": ([b"GET /papers/\x00 HTTP/1.1\r\nHost: x\r\n\r\n"], 400),
    "a method in small letters": ([b"get /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], 405),
    "two slashes": ([b"GET //search?q=a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], 404),
    "two dots as an id": ([b"GET /papers/.. HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], 404),
    "one dot as an id": ([b"GET /papers/. HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], 404),
    "dots in an id": ([b"GET /papers/p5/../p5 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], 404),
    "dots in the path": ([b"GET /papers/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], 404),
    "a bad escape in the path": ([b"GET /papers/%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], 404),
    "an absolute path": ([b"GET http://x/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], 404),
    "a websocket": (
        [b"GET /search?q=a HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"],
        200,
    ),
}


@pytest.mark.parametrize("name", RAW)
def test_a_request_that_only_a_socket_can_send(address: tuple[str, int], name: str) -> None:
    """Each gets its status, and the connection is closed: `exchange` ends only then."""
    parts, status = RAW[name]
    answer = exchange(address, *parts)
    head, _, _ = answer.partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"\r\nserver:" not in head.lower()
    assert re.search(rb"\r\nx-request-id: [0-9a-f]{32}(\r|$)", head.lower())
    assert b"\r\ncontent-type: application/json" in head.lower()
    assert b"uvicorn" not in answer.lower()
    after = exchange(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert after.endswith(b'{"status":"ok"}')


def test_a_client_that_hangs_up_harms_nobody(address: tuple[str, int]) -> None:
    for sent in (HEAD, HEAD + b"Content-Length: 10\r\n\r\n{", b"GET /search?q=a HTTP/1.1\r\nHost: x\r\n\r\n"):
        with socket.create_connection(address, timeout=10) as connection:
            connection.sendall(sent)
    assert exchange(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").endswith(
        b'{"status":"ok"}'
    )
