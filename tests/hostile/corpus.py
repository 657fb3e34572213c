"""Requests that no library would send, the same some hundred to every route, and what each may be answered.

A request is bytes for a socket. Where one code is right, that one is demanded; where a value may be fine for one route
and not for another, any documented answer but a fault is.
"""

import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from conftest import make_paper
from storage import memory_folder
from test_service import publish, running
from test_service_changes import ADMIN, TOKEN
from test_service_hostile import BODIES, CONTENT_TYPES, EVERYWHERE, IDS, MARK, NOT_AN_INTEGER
from test_service_hosts import FOREIGN, NAMES, NONE

from semsearch.service import Limits

Head = list[tuple[bytes, bytes]]
_JSON = (b"Content-Type", b"application/json")
_ADMIN = (b"Authorization", b"Bearer " + TOKEN.encode())
_CLOSE = (b"Connection", b"close")
MOST_SECONDS = 20
DESCRIPTION = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_ANY = frozenset({200, 400, 404, 405, 410, 413, 414, 415, 422, 431})
_ONLY_HERE = {"/", "/metrics", "/openapi.json", "/static/style.css"}


@dataclass(frozen=True)
class Route:
    """One address, a request to it that is fine, and what /openapi.json calls it."""

    method: str
    target: str
    body: dict[str, Any] | None = None
    described: str = ""
    is_admins: bool = False
    values: tuple[str, ...] = ()
    """The names of what may be asked for, in the query or the body."""

    @property
    def name(self) -> str:
        """The route as it is told in results."""
        return f"{self.method} {self.described or self.target.partition('?')[0]}"


_FILTERS = ("year", "date_from", "date_to", "category", "venue", "source", "author", "has_doi")
_ASKED = (*_FILTERS, "limit", "offset", "facets", "collapse", "cursor", "approximate")
ROUTES = (
    Route("GET", "/search?q=finding3", None, "/search", values=("q", "query", "mode", "ids", *_ASKED)),
    Route("POST", "/search", {"q": "finding3"}, "/search", values=("q", "query", "mode", "ids", *_ASKED)),
    Route("GET", "/papers/p5", None, "/papers/{paper_id}"),
    Route("GET", "/papers/p5/related", None, "/papers/{paper_id}/related", values=("ids", *_ASKED)),
    Route("POST", "/papers/batch", {"ids": ["p5"]}, "/papers/batch", values=("ids",)),
    Route("POST", "/related", {"title": "finding3"}, "/related", values=("ids", "title", "abstract", *_ASKED)),
    Route("POST", "/recommend", {"positive": ["p5"]}, "/recommend", values=("positive", "negative", "ids", *_ASKED)),
    Route(
        "POST",
        "/papers",
        {"papers": [{"id": "p30", "title": "On more", "abstract": "There is more."}]},
        "/papers",
        is_admins=True,
        values=("papers", "origin"),
    ),
    Route("DELETE", "/papers/p19", None, "/papers/{paper_id}", is_admins=True),
    Route("GET", "/healthz", None, "/healthz"),
    Route("GET", "/readyz", None, "/readyz"),
    Route("GET", "/stats", None, "/stats"),
    Route("GET", "/metrics"),
    Route("GET", "/openapi.json"),
    Route("GET", "/?q=finding3", values=("q", "related", "title", "abstract", "mode", "offset", *_FILTERS)),
    Route("GET", "/static/style.css"),
)


@dataclass(frozen=True)
class Case:
    """What is sent, in pieces, and which codes may answer it."""

    name: str
    parts: tuple[bytes, ...]
    codes: frozenset[int]
    route: Route
    counts: tuple[str, ...] = field(default=())


def _request(route: Route, *, head: Head, target: bytes = b"", body: bytes = b"", first: bytes = b"") -> bytes:
    line = first or b"%s %s HTTP/1.1" % (route.method.encode(), target or route.target.encode())
    fields = b"".join(b"%s: %s\r\n" % pair for pair in head)
    return line + b"\r\n" + fields + b"\r\n" + body


def _head(route: Route, *more: tuple[bytes, bytes], host: bytes = b"x", length: int | None = None) -> Head:
    head: Head = [(b"Host", host), _CLOSE]
    if route.is_admins:
        head.append(_ADMIN)
    if length is not None:
        head.append((b"Content-Length", b"%d" % length))
    return [*head, *more]


def _good(route: Route) -> bytes:
    return json.dumps(route.body).encode() if route.body is not None else b""


def cases(route: Route) -> Iterator[Case]:
    """Yield everything that is tried on a route."""
    yield from _named("fine", _fine(route))
    yield from _named("head", _heads(route))
    yield from _named("length", _lengths(route))
    yield from _named("line", _lines(route))
    yield from _named("query", _queries(route))
    yield from _named("body", _bodies(route))


def _named(kind: str, found: Iterator[Case]) -> Iterator[Case]:
    for case in found:
        yield Case(f"{kind}: {case.name}", case.parts, case.codes, case.route)


def _case(route: Route, name: str, codes: int | frozenset[int], *parts: bytes) -> Case:
    return Case(name, parts, frozenset({codes}) if isinstance(codes, int) else codes, route)


def _fine(route: Route) -> Iterator[Case]:
    body = _good(route)
    more = (_JSON,) if body else ()
    yield _case(route, "as described", 200, _request(route, head=_head(route, *more, length=len(body)), body=body))


def _heads(route: Route) -> Iterator[Case]:
    body = _good(route)
    more = (_JSON,) if body else ()

    def sent(*extra: tuple[bytes, bytes], host: bytes = b"x") -> bytes:
        return _request(route, head=_head(route, *extra, *more, host=host, length=len(body)), body=body)

    for host in NAMES:
        yield _case(route, f"host {host}", 421, sent(host=host.encode()))
    for host in NONE:
        yield _case(route, f"host {host!r}", 400, sent(host=host.encode("utf-8")))
    yield _case(route, "two hosts", 400, sent((b"Host", b"x")))
    yield _case(route, "no host", 400, _request(route, head=_head(route, *more, length=len(body))[1:], body=body))
    for origin in FOREIGN:
        yield _case(route, f"origin {origin}", 403, sent((b"Origin", origin.encode())))
    for site in ("cross-site", "same-site", MARK, ""):
        codes = frozenset({403}) if site else frozenset({200, 403})
        yield _case(route, f"fetched by {site!r}", codes, sent((b"Sec-Fetch-Site", site.encode())))
    for coding in ("gzip", "br", "identity", "", MARK):
        yield _case(route, f"coded {coding!r}", 415, sent((b"Content-Encoding", coding.encode())))
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via", "X-HTTP-Method-Override", "X-Original-URL"):
        codes = frozenset({200, 404}) if route.target == "/metrics" else frozenset({200})
        for value in ("127.0.0.1", "DELETE", "/admin", "for=127.0.0.1", "a" * 8_000, "\u00ff" * 20):
            yield _case(route, f"{name} {value[:12]}", codes, sent((name.encode(), value.encode("latin-1"))))
    for name, value in (
        ("Range", "bytes=0-0,1-1,2-2,-1"),
        ("Range", "bytes=99999999999999999999-"),
        ("Range", "bytes=--1"),
        ("Range", MARK),
        ("If-Range", '"a"'),
        ("If-Match", "*"),
        ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Cache-Control", "only-if-cached, max-age=-1"),
        ("Pragma", "a=" * 500),
        ("Prefer", "respond-async, wait=" + "9" * 300),
        ("From", "\u00ff" * 300),
        ("Referer", "javascript:alert(1)"),
        ("Warning", '199 - "' + MARK + '"'),
        ("Trailer", "Content-Length"),
        ("Connection", "x-request-id, host"),
        ("Keep-Alive", "timeout=-1, max=" + "9" * 30),
        ("X-Request-ID", MARK),
        ("X-Forwarded-Host", MARK),
        ("X-Forwarded-Proto", "javascript"),
        ("X-Rewrite-URL", "/papers"),
        ("X-Method-Override", "DELETE"),
        ("Access-Control-Request-Method", "DELETE"),
        ("Traceparent", "00-" + "f" * 32 + "-" + "f" * 16 + "-01"),
        ("Content-Disposition", 'form-data; name="q"; filename="../../x"'),
        ("Content-Location", "/etc/passwd"),
        ("Content-Range", "bytes 0-1/2"),
        ("X-" + "A" * 500, "a"),
        ("Accept", MARK),
        ("Accept-Charset", "utf-16"),
        ("Content-Security-Policy", "default-src *"),
        ("DNT", "\u00bd"),
        ("Early-Data", "1"),
        ("Sec-WebSocket-Key", "AAAA"),
        ("Sec-Fetch-Mode", MARK),
        ("Sec-Fetch-Dest", "script"),
        ("Service-Worker", "script"),
        ("Tus-Resumable", "1.0.0"),
        ("Range", "bytes=" + ",".join(f"{n}-" for n in range(1_000))),
        ("If-None-Match", '"' + MARK + '"'),
        ("If-Modified-Since", "x"),
        ("Accept", "a/b;q=9" * 500),
        ("Accept-Encoding", "gzip;q=zzz"),
        ("Accept-Language", "*" * 2_000),
        ("Cookie", "a=" + "b" * 4_000),
        ("Idempotency-Key", "a"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ("TE", "trailers, deflate"),
        ("Max-Forwards", "0"),
        ("Proxy-Authorization", "Basic AAAA"),
        ("User-Agent", "${jndi:ldap://" + MARK + "/a}"),
        ("Content-Length", str(len(body))),
        ("Content-Language", "\u00ff"),
        ("X-A", "\t"),
        ("Content-MD5", "AAAA"),
        ("Date", "yesterday"),
    ):
        yield _case(route, f"{name} {value[:20]}", frozenset({200}), sent((name.encode(), value.encode("latin-1"))))
    yield _case(route, "expectation", frozenset({200}), sent((b"Expect", b"100-continue")))
    yield _case(route, "another expectation", frozenset({200, 400}), sent((b"Expect", MARK.encode())))
    yield _case(route, "NUL in a field", 400, sent((b"X-A", b"a\x00b")))
    yield _case(route, "bare CR in a field", 400, sent((b"X-A", b"a\rb")))
    yield _case(route, "bare LF in a field", 400, sent((b"X-A", b"a\nb")))
    yield _case(route, "a field without a name", 400, sent((b"", b"a")))
    yield _case(route, "a blank in a name", 400, sent((b"X A", b"a")))
    yield _case(route, "a blank before the colon", 400, sent((b"X-A ", b"a")))
    yield _case(route, "a raw byte in a name", 400, sent((b"X-\xff", b"a")))
    yield _case(route, "folded", frozenset({200, 400}), sent((b"X-A", b"a\r\n b")))
    yield _case(route, "101 fields", 431, sent(*[(b"X-A", b"a")] * 100))
    yield _case(route, "a field of 17,000", 431, sent((b"X-A", b"a" * 17_000)))
    yield _case(route, "a field without end", 431, sent((b"X-A", b"a" * 50_000)))
    for token in (
        "",
        "Bearer",
        "Basic AAAA",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Token {TOKEN}",
        "Bearer \u00ff",
    ):
        head = [pair for pair in _head(route, *more, length=len(body)) if pair != _ADMIN]
        head.append((b"Authorization", token.encode("latin-1")))
        codes = frozenset({401 if route.is_admins else 200})
        yield _case(route, f"token {token[:8]!r}", codes, _request(route, head=head, body=body))
    head = [pair for pair in _head(route, *more, length=len(body)) if pair != _ADMIN]
    yield _case(route, "no token", 401 if route.is_admins else 200, _request(route, head=head, body=body))
    twice = [*_head(route, *more, length=len(body)), _ADMIN] + ([] if route.is_admins else [_ADMIN])
    yield _case(route, "two tokens", 401 if route.is_admins else 200, _request(route, head=twice, body=body))
    if route.body is not None:
        for content_type in CONTENT_TYPES:
            head = _head(route, length=len(body))
            if content_type is not None:
                head.append((b"Content-Type", content_type.encode()))
            yield _case(route, f"of type {content_type!r}", 415, _request(route, head=head, body=body))
        yield _case(route, "of two types", 415, sent((b"Content-Type", b"text/plain")))


def _lengths(route: Route) -> Iterator[Case]:
    body = _good(route)
    more = (_JSON,) if body else ()

    def with_length(length: bytes, *rest: tuple[bytes, bytes]) -> bytes:
        return _request(route, head=[*_head(route, *more), (b"Content-Length", length), *rest])

    def chunked(*rest: tuple[bytes, bytes]) -> bytes:
        return _request(route, head=[*_head(route, *more), (b"Transfer-Encoding", b"chunked"), *rest])

    for length in (
        "-1",
        "1e3",
        "+10",
        "0x10",
        " ",
        "1 0",
        "10;",
        "1" + "0" * 5_000,
        "\u0663".encode().decode("latin-1"),
    ):
        yield _case(route, f"of {length[:12]!r}", 400, with_length(length.encode("latin-1")), body)
    beyond = 8 * 1024 * 1024 + 1 if route.is_admins and route.method == "POST" else 65_537
    if not (route.is_admins and route.method == "DELETE"):
        yield _case(route, "over the limit", 413, with_length(b"%d" % beyond))
    yield _case(route, "huge", 413, with_length(b"99999999999999999999"), body)
    yield _case(route, "two that differ", 400, with_length(b"10", (b"Content-Length", b"11")), body)
    yield _case(route, "two in one field", 400, with_length(b"10, 11"), body)
    yield _case(route, "longer than the body", 408, with_length(b"%d" % (len(body) + 5)), body)
    yield _case(route, "and chunks", 400, with_length(b"5", (b"Transfer-Encoding", b"chunked")), b"0\r\n\r\n")
    yield _case(route, "after chunks", 400, chunked((b"Content-Length", b"5")), b"0\r\n\r\n")
    for coding in (
        b"gzip",
        b"xchunked",
        b"gzip, chunked",
        b"chunked, chunked",
        b"chunked;a=b",
        b"\x0bchunked",
        b'"chunked"',
    ):
        head = [*_head(route, *more), (b"Transfer-Encoding", coding)]
        yield _case(route, f"sent {coding!r}", 400, _request(route, head=head), b"0\r\n\r\n")
    yield _case(route, "chunked twice", 400, chunked((b"Transfer-Encoding", b"chunked")), b"0\r\n\r\n")
    size = b"%x" % len(body)
    whole = size + b"\r\n" + body + b"\r\n0\r\n\r\n" if body else b"0\r\n\r\n"
    yield _case(route, "in one chunk", 200, chunked(), whole)
    yield _case(route, "chunks with a trailer", frozenset({200, 400}), chunked(), whole[:-2] + b"X-A: b\r\n\r\n")
    yield _case(
        route, "chunks with an extension", frozenset({200, 400}), chunked(), whole.replace(b"\r\n", b";a=b\r\n", 1)
    )
    for name, chunk in (
        ("no size", b"\r\n\r\n"),
        ("no number", b"zz\r\nxx\r\n"),
        ("negative", b"-1\r\n\r\n"),
        ("plus", b"+1\r\na\r\n0\r\n\r\n"),
        ("hexadecimal", b"0x1\r\na\r\n0\r\n\r\n"),
        ("beyond reason", b"f" * 30 + b"\r\n"),
        ("longer than it says", b"1\r\n{}\r\n0\r\n\r\n"),
        ("without end of size", b"1;" + b"a" * 50_000),
        ("bare LF", b"1\na\n0\n\n"),
        ("trailer without end", b"0\r\nX-A: " + b"a" * 50_000),
        ("NUL", b"1\x00\r\na\r\n0\r\n\r\n"),
        ("underscore", b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n"),
    ):
        codes = frozenset({400}) if name not in ("bare LF",) else frozenset({400, 408, 422, 200})
        yield _case(route, f"chunk: {name}", codes, chunked(), chunk)
    yield _case(route, "chunks that never end", 408, chunked(), b"2\r\n{}\r\n")


def _lines(route: Route) -> Iterator[Case]:
    body = _good(route)
    head = _head(route, *((_JSON,) if body else ()), length=len(body))
    target = route.target.encode()
    method = route.method.encode()
    for first, allowed in (
        (b"%s %s HTTP/1.0" % (method, target), {200}),
        (b"%s %s HTTP/1.2" % (method, target), {200, 400}),
        (b"%s %s HTTP/2.0" % (method, target), {200, 400}),
        (b"%s %s HTTP/9.9" % (method, target), {200, 400}),
        (b"%s %s http/1.1" % (method, target), {400}),
        (b"%s %s HTTP/1.1.1" % (method, target), {400}),
        (b"%s %s HTTP/1.\xb1" % (method, target), {400}),
        (b"%s %s HTTP/11" % (method, target), {400}),
        (b"%s %s" % (method, target), {400}),
        (b"%s" % method, {400}),
        (b" %s %s HTTP/1.1" % (method, target), {400}),
        (b"%s\t%s\tHTTP/1.1" % (method, target), {400}),
        (b"%s  %s HTTP/1.1" % (method, target), {400}),
        (b"%s %s  HTTP/1.1" % (method, target), {200, 400}),
        (b"%s %s a HTTP/1.1" % (method, target), {400}),
        (b"%s %s\x00 HTTP/1.1" % (method, target), {400}),
        (b"%s %s\xff HTTP/1.1" % (method, target), {400}),
        (b"%s %s#fragment HTTP/1.1" % (method, target), {200, 400, 404, 405, 422}),
        (b"%s http://x%s HTTP/1.1" % (method, target), {200, 404, 405}),
        (b"%s http://%s%s HTTP/1.1" % (method, MARK.encode(), target), {200, 400, 404, 405, 421}),
        (b"%s /%s HTTP/1.1" % (method, target), {404, 405}),
        (b"%s * HTTP/1.1" % method, {400, 404, 405}),
        (b"%s x:80 HTTP/1.1" % method, {400, 404, 405}),
    ):
        name = first.decode("latin-1").replace(route.target, "TARGET")
        yield _case(route, name, frozenset(allowed), _request(route, head=head, first=first, body=body))
    path, _, query = route.target.partition("?")
    for suffix in (
        "/",
        "//",
        "/.",
        "/..",
        "%2f",
        "%00",
        "%zz",
        "%ff",
        ";a=b",
        "%0d%0aX-Injected:%20y",
        "%20",
        "\\",
        ".json",
        "%23",
        "%3f",
        "%2e%2e",
        "/%2e%2e/%2e%2e/etc/passwd",
        "%E2%80%AE",
        "~",
        "*",
        "%25",
        "a" * 300,
    ):
        sent = f"{path}{suffix}?{query}" if query else f"{path}{suffix}"
        codes = frozenset({200, 400, 404, 405, 422})
        yield _case(
            route, f"path with {suffix[:20]}", codes, _request(route, head=head, target=sent.encode(), body=body)
        )
    yield _case(route, "address too long", 414, _request(route, head=head, target=target + b"?" * 33_000, body=body))
    yield _case(route, "address without end", 414, method + b" " + target + b"a" * 50_000)
    if "/papers/" in path and path != "/papers/batch":
        for paper_id in IDS:
            sent = re.sub(r"(?<=/papers/)p\d+", paper_id.replace("\\", r"\\"), path)
            if sent.isascii() and not re.search(r"[ <>]", sent):
                codes = frozenset({404, 400, 414})
                yield _case(
                    route, f"id {paper_id[:30]}", codes, _request(route, head=head, target=sent.encode(), body=body)
                )
    known = {other.method for other in ROUTES if other.target.partition("?")[0] == path}
    for other in (
        "GET",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "PROPFIND",
        MARK.upper(),
        "get",
        "M-SEARCH",
    ):
        if other not in known:
            codes = frozenset({200, 401, 404, 405, 422})
            first = b"%s %s HTTP/1.1" % (other.encode(), target)
            yield _case(route, f"by {other}", codes, _request(route, head=head, first=first, body=body))
    yield _case(route, "TLS", 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
    yield _case(route, "HTTP/2", 400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield _case(route, "only line ends", frozenset({0, 400, 408}), b"\r\n" * 5)
    yield _case(route, "cut in the line", frozenset({0, 400, 408}), method + b" " + target[:2])
    yield _case(route, "cut in the head", 408, _request(route, head=head, body=b"")[:-2])


def _queries(route: Route) -> Iterator[Case]:
    body = _good(route)
    head = _head(route, *((_JSON,) if body else ()), length=len(body))
    path, _, good = route.target.partition("?")

    def sent(query: str) -> bytes:
        return _request(route, head=head, target=f"{path}?{query}".encode(), body=body)

    for name, (query, code) in EVERYWHERE.items():
        yield _case(route, name, code, sent(query))
        if good and code == 400:
            yield _case(route, f"{name}, beside a good one", code, sent(f"{good}&{query}"))
    for query in (
        "&" * 500,
        "=" * 500,
        ";" * 50,
        "?" * 50,
        "a" * 5_000,
        "&".join(f"a{n}=b" for n in range(3_000)),
        "%00" * 50,
        "_=1",
    ):
        yield _case(route, f"query {query[:12]}", frozenset({200, 400, 422}), sent(query))
    if route.body is None:
        for name in route.values:
            for value in (*TEXT_VALUES, *NOT_AN_INTEGER):
                written = quote(value, safe="") if "%" not in value else value
                query = f"{name}={written}" if good.startswith(f"{name}=") or not good else f"{good}&{name}={written}"
                if written.isascii() and len(query) < 30_000:
                    yield _case(route, f"{name}={value[:20]!r}", _ANY, sent(query))


TEXT_VALUES = (
    "",
    " ",
    "a",
    "*",
    "!",
    "|",
    "!|*\\",
    "\\",
    "a|" * 60,
    "a|" * 1_200,
    "\u202e",
    "e" + "\u0301" * 400,
    "\U0010ffff",
    "\ufdfd" * 100,
    '"' * 99,
    "-" * 99,
    "title:" * 30,
    'title:"',
    "author:-",
    "( ) AND OR NOT ~ ^ [ TO } /x/ a:b",
    "2020-2019",
    "0000",
    "9999-99-99",
    "-0",
    "'; DROP TABLE changes; --",
    "../../etc/passwd",
    "{{7*7}}${7*7}",
    "<script>alert(1)</script>",
    "\u0130\u1e9e\ufb03",
    "AAAAAQABKEPLnp6LOTR9FHvW",
    "hybrid",
    "none",
    "true",
)
_JSON_VALUES: tuple[str, ...] = (
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1.5",
    "1e2",
    "1e400",
    "-0.0",
    "9223372036854775808",
    "1" + "0" * 300,
    '""',
    '"\\u0000"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    "[]",
    "{}",
    "[[]]",
    "[null]",
    '[""]',
    '["a", 1]',
    '{"a": 1, "a": 2}',
    "[" * 900 + "]" * 900,
    '{"a":' * 300 + "1" + "}" * 300,
    "NaN",
    "-Infinity",
    '["a"]',
    "[" + ",".join(['"p5"'] * 70) + "]",
    "[" + ",".join(['"p5"'] * 600) + "]",
    '{"$ne": null}',
    '{"__proto__": 1}',
    '[{"id": "\\ud800"}]',
    '[{"id": 5, "abstract": 5, "title": [5]}]',
    '[{"id": "p31", "abstract": "a", "authors": {"a": [1e5]}, "x": [[[[1]]]]}]',
    '[{"id": "../x", "abstract": "a"}]',
)


def _bodies(route: Route) -> Iterator[Case]:
    def sent(content: bytes) -> bytes:
        return _request(route, head=_head(route, _JSON, length=len(content)), body=content)

    for name, (body, code) in BODIES.items():
        field_name = "q" if "q" in route.values else (route.values or ("q",))[0]
        content = body.replace(b"FIELD", field_name.encode())
        content = content.replace("FIELD".encode("utf-16-le"), field_name.encode("utf-16-le"))
        codes = frozenset({code} if route.body is not None else {200})
        if route.body is not None and code == 422:
            codes = frozenset({422, 400, 200, 404})  # what is blank for a question may be a paper's id
        yield _case(route, name, codes, sent(content))
    if route.body is not None:
        fine = [name for name in route.values if name in route.body]
        for name in route.values:
            for value in (*_JSON_VALUES, *map(json.dumps, TEXT_VALUES)):
                others = "".join(f", {json.dumps(key)}: {json.dumps(route.body[key])}" for key in fine if key != name)
                content = f"{{{json.dumps(name)}: {value}{others}}}".encode()
                yield _case(route, f"{name}: {value[:24]}", _ANY, sent(content))


def exchange(address: tuple[str, int], parts: tuple[bytes, ...]) -> bytes:
    """Send the parts and return all that comes back until the server closes the connection."""
    with socket.create_connection(address, timeout=MOST_SECONDS) as connection:
        received = b""
        try:
            for part in parts:
                if part:
                    connection.sendall(part)
            while data := connection.recv(65_536):
                received += data
        except (BrokenPipeError, ConnectionResetError):
            pass  # it closed with bytes of ours unread
        return received


def problem(case: Case, answer: bytes, described: dict[str, Any]) -> str | None:
    """Return what is wrong with an answer, None if nothing is.

    :param described: /openapi.json.
    """
    answer = re.sub(rb"\AHTTP/1\.1 100 Continue\r\n\r\n", b"", answer)
    head, _, body = answer.partition(b"\r\n\r\n")
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    if not match:
        return None if not answer and 0 in case.codes else f"no answer but {answer[:60]!r}"
    status = int(match[1])
    if status >= 500:
        return f"{status}"
    if status not in case.codes:
        return f"{status} instead of {' or '.join(map(str, sorted(case.codes)))}"
    fields = dict(re.findall(rb"\r\n([!-9;-~]+):[ \t]*([^\r\n]*)", head.lower()))
    if b"server" in fields or b"x-injected" in fields:
        return "a header that must not be"
    if not re.fullmatch(rb"[0-9a-f]{32}", fields.get(b"x-request-id", b"")):
        return "no request id"
    kind = fields.get(b"content-type", b"")
    if kind == b"application/json":
        try:
            value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
        except ValueError as error:
            return f"its body is not JSON: {error}"
        if status >= 400 and (set(value) != {"error", "detail"} or MARK.encode() in body):
            return "a refusal of another form, or one that repeats what was sent"
    elif status >= 400 and not kind.startswith(b"text/html"):
        return f"a refusal as {kind!r}"
    operation = described.get("paths", {}).get(case.route.described, {}).get(case.route.method.lower())
    is_routes = case.route.described and not case.name.startswith("line")
    if is_routes and operation and str(status) not in operation["responses"]:
        return f"{status} is not described"
    return None


def asked(
    cases: Sequence[Case], on_done: Callable[[int, int], None] = lambda done, of: None
) -> Iterator[tuple[Case, str | None]]:
    """Send each to a real service of its own, and yield it with what is wrong with the answer."""
    with memory_folder() as room:
        publish(room / "index", [make_paper(number) for number in range(1, 21)])
        limits = Limits(body_seconds=0.5, head_seconds=0.5)
        with running(room / "index", limits=limits, admin=ADMIN) as address, ThreadPoolExecutor(8) as pool:
            described = json.loads(exchange(address, (DESCRIPTION,)).partition(b"\r\n\r\n")[2])
            answers = pool.map(lambda case: exchange(address, case.parts), cases)
            for done, (case, answer) in enumerate(zip(cases, answers, strict=True), 1):
                yield case, problem(case, answer, described)
                on_done(done, len(cases))
            last = exchange(address, (b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",))
            assert last.endswith(b'{"status":"ok"}'), "it is still there"


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")
