"""What may any bytes do to a reader or a parser? Each target takes bytes, and raises only if there is a bug.

An error that the room promises is a good answer. Whatever else is raised is none, nor is what comes back wrongly: a
paper that cannot be written and read again, a reason that cannot be shown, a filter that cannot be compared.
"""

import gzip
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import zstandard
from pydantic import ValidationError

from semsearch.errors import RecordError, SemsearchError, SourceError
from semsearch.filters import FILTER_NAMES, parse_filter
from semsearch.lexical import analyse, spellings
from semsearch.manifest import Manifest
from semsearch.papers import Paper, normalise_id, normalise_published
from semsearch.queries import parse_query
from semsearch.readers import FORMATS, Found, read
from semsearch.search import clean_query
from semsearch.service.paging import _unpacked
from semsearch.service.questions import BatchBody, PageQuery, RecommendBody, SearchBody, SeedPapers
from semsearch.service.refusals import Refusal
from semsearch.service.strict import check_content_type, check_query_string, parse_json

_MAX_REASON = 1_000
_PAPER = b'{"id": "p1", "title": "On things", "abstract": "They are.", "year": 2020, "authors": ["A. B."], "x": [1.5]}'
_TABLE = b'id,title,abstract,authors\np1,On things,"They, ""are"".",A. B.; C. D.\np2,More,"two\nlines",\n'
_PAGE = (
    b"A page's own words\n\nOn how things are\n"
    + b"They are as they are. And so are others, which are not. " * 5
    + b"\nA title without abstract\nOn what is not\n"
    + b"What is not is not either. It never was, and nobody ever said so. " * 4
)
_BIBTEX = (
    b"@string{v = {A venue}}\n@article{p1,\n  title = {On {T}hings}, author = {B, A. and D, C.},\n"
    b'  abstract = "They {\\em are}, 5\\% of $x$.",\n  journal = v # { of it}, year = 2020, month = jun,\n}\n'
    b"@misc(p2, title = {More}, abstract = {Yet more.}, keywords = {a, b}, keywords = {c})\n"
)
_RIS = b"TY  - JOUR\nTI  - On things\nAU  - B, A.\nAB  - They are.\nTruly.\nPY  - 2020\nDA  - 2020/06/01/\nER  - \n"
_MEDLINE = b"PMID- 17\nTI  - On things\n      that are\nAB  - They are.\nDP  - 2020 Jun 1\nLID - 10.1000/x [doi]\n\n"
_PUBMED = (
    b"<PubmedArticleSet><PubmedArticle><PMID>17</PMID><Article><ArticleTitle>On <i>things</i></ArticleTitle><Abstract>"
    b'<AbstractText Label="WHAT">They are.</AbstractText></Abstract></Article></PubmedArticle></PubmedArticleSet>'
)
_ATOM = (
    b'<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"><entry><id>http://arxiv.org/abs/2001.00001v2</id>'
    b"<title>On things</title><summary>They are &amp; were.</summary><published>2020-01-01T00:00:00Z</published>"
    b'<category term="cs.CL"/><link href="http://arxiv.org/abs/2001.00001v2"/></entry></feed>'
)
_OPENALEX = (
    b'{"id": "https://openalex.org/W1", "abstract_inverted_index": {"They": [0], "are.": [1]}, "authorships": [{}]}'
)
_CROSSREF = b'{"title": ["A"], "container-title": ["B"], "issued": {"date-parts": [[2020]]}, "abstract": "<jats:p>C"}'


@contextmanager
def _as_standard_input(data: bytes) -> Iterator[None]:
    before = sys.stdin
    sys.stdin = cast(Any, SimpleNamespace(buffer=io.BytesIO(data)))
    try:
        yield
    finally:
        sys.stdin = before


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass" if len(data) % 2 else "replace")


def _read(data: bytes, format: str | None) -> None:
    with _as_standard_input(data), suppress(SourceError):
        for entry in read("-", format=format):
            if isinstance(entry, Found):
                text = entry.paper.to_json()
                assert Paper.from_json(text) == entry.paper
                json.loads(text.encode("utf-8"), parse_constant=_no_constant)
                assert normalise_id(entry.paper.paper_id) == entry.paper.paper_id
            else:
                assert len(entry.reason.encode("utf-8")) < _MAX_REASON
                assert entry.reason.isprintable()


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is written")


def _reads(format: str | None) -> Callable[[bytes], None]:
    return lambda data: _read(data, format)


def _packed(data: bytes) -> None:
    """Read the bytes as packed content: as they are behind each magic number, and packed whole."""
    _read(data, None)
    _read(b"\x1f\x8b\x08" + data, "jsonl")
    _read(b"\x28\xb5\x2f\xfd" + data, "jsonl")


def _query(data: bytes) -> None:
    with suppress(UnicodeDecodeError, ValueError):
        text = clean_query(_text(data))
        query = parse_query(text)
        for part in (*query.required, *query.excluded):
            assert part.words and part.field in ("text", "title", "author")
        assert all(word.split() == [word] for word in query.words)
        assert set(spellings(query.text)) == set(analyse(query.text))


def _filter(data: bytes) -> None:
    name = FILTER_NAMES[data[0] % len(FILTER_NAMES)] if data else "year"
    with suppress(UnicodeDecodeError):
        value = _text(data[1:])
        try:
            condition = parse_filter([(name, value)])
        except ValueError as error:
            assert not isinstance(error, UnicodeError) and str(error).startswith(f"{name}="), error
            return
        assert condition == parse_filter([(name, value)]) and hash(condition) == hash(condition)


def _cursor(data: bytes) -> None:
    asked = PageQuery.model_construct(cursor=data.decode("latin-1"))
    with suppress(Refusal):
        generation, offset, identity, digest = _unpacked(asked)
        assert generation >= 0 and offset >= 0 and len(identity) == 4 and len(digest) == 8


def _manifest(data: bytes) -> None:
    with suppress(SemsearchError):
        Manifest.from_bytes(data)


def _signed_manifest(data: bytes) -> None:
    """Read a manifest whose digest agrees, as somebody could write it who may write to the index.

    Each line of the bytes puts a JSON value into one place of a sound manifest: names, a blank, the value.
    """
    body: dict[str, Any] = json.loads(_MANIFEST)["manifest"]
    for line in data.split(b"\n")[:20]:
        path, _, text = line.decode("utf-8", "replace").partition(" ")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        place: Any = body
        *parents, last = path.split(".")
        for name in parents:
            place = place.get(name) if isinstance(place, dict) else None
            place = place[0] if isinstance(place, list) and place else place
        if isinstance(place, dict):
            place[last] = value
    with suppress(ValueError, RecursionError):
        digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        signed = json.dumps({"sha256": digest, "manifest": body}).encode()
        _manifest(signed)


def _body(data: bytes) -> None:
    try:
        value = parse_json(data)
    except Refusal as refusal:
        assert refusal.status_code in (400, 422)
        return
    for form in (SearchBody, SeedPapers, RecommendBody, BatchBody):
        with suppress(ValidationError):
            asked = form.model_validate(value)
            assert not isinstance(asked, SearchBody) or hash(asked.where) == hash(asked.where)


def _head(data: bytes) -> None:
    with suppress(Refusal):
        check_query_string(data)
    with suppress(Refusal):
        check_content_type([data.decode("latin-1")])


def _identity(data: bytes) -> None:
    with suppress(UnicodeDecodeError, RecordError):
        normal = normalise_id(_text(data))
        assert normalise_id(normal) == normal
    with suppress(UnicodeDecodeError, RecordError):
        published = normalise_published(_text(data))
        assert published is None or normalise_published(published) == published


@dataclass(frozen=True)
class Target:
    """What takes bytes, and some to begin with."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


_MANIFEST = max((Path(__file__).parents[1] / "data").rglob("manifest.json")).read_bytes()
_LINES = _PAPER + b"\n" + _PAPER.replace(b"p1", b"p2") + b"\n{\n"
_LIST = b"[" + _PAPER + b",\n " + _PAPER.replace(b"p1", b"p2") + b"]"
_BY_FORMAT = {
    "jsonl": (_LINES, b'{"paper": ' + _PAPER + b', "title": "a"}', _OPENALEX, _CROSSREF),
    "json": (_LIST, b'{"papers": ' + _LIST + b', "more": {"data": []}}', _LINES),
    "csv": (_TABLE, _TABLE.replace(b",", b";"), b'id|title|abstract\n1|"a""b|c|d\n'),
    "tsv": (_TABLE.replace(b",", b"\t"), b'title\tabstract\na "b" c\td\n'),
    "page": (_PAGE,),
    "bibtex": (_BIBTEX,),
    "ris": (_RIS, _RIS.replace(b"ER  - \n", b"") * 2),
    "medline": (_MEDLINE * 2,),
    "xml": (_PUBMED, _ATOM, b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'),
}
assert set(_BY_FORMAT) == set(FORMATS), "every reader has seeds"

TARGETS: dict[str, Target] = {
    **{name: Target(_reads(name), seeds) for name, seeds in _BY_FORMAT.items()},
    "any file": Target(_reads(None), tuple(seeds[0] for seeds in _BY_FORMAT.values())),
    "packed": Target(
        _packed,
        (
            gzip.compress(_LINES, mtime=0),
            gzip.compress(_LINES, mtime=0)[3:],
            zstandard.compress(_LINES),
            zstandard.compress(_LINES)[4:],
            gzip.compress(b"a", mtime=0) * 3 + b"\x00" * 9,
        ),
    ),
    "query": Target(_query, (b'speech -survey "hidden markov" author:rabiner', b'title:"a b" -title:c -author:"d e"')),
    "filter": Target(
        _filter,
        (
            b"\x002018|2020-2023",
            b"\x012021-03",
            b"\x03!cs.CL|stat.*",
            b"\x06A. Lovelace",
            b"\x08doi:10.1/x|p1",
            b"\x07true",
        ),
    ),
    "cursor": Target(_cursor, (b"AAAAAQABKEPLnp6LOTR9FHvW", b"_-" * 12)),
    "manifest": Target(_manifest, (_MANIFEST, b'{"sha256": "0", "manifest": {"format_version": 6}}', b"[" * 9_000)),
    "signed manifest": Target(
        _signed_manifest,
        (
            b"format_version 6\nencoder.dimension 8",
            b'segments [{"name": "000001", "rows": 3, "probing": null}]',
            b'canaries [{"vector": "AAAA", "seqs": [1], "scores": [1.0]}]',
            b'weak_below {"papers": 5, "scores": {"hybrid": 0.5}}\nfiles {"a": {"bytes": 1, "xxh3": "0"}}',
            b'segments.probing {"margin": 0.2, "recall_at_10": "1"}\nencoder null\nrows "5"',
        ),
    ),
    "body": Target(
        _body, (b'{"q": "a", "limit": 5, "year": ["2020-"], "facets": 3}', b'{"ids": ["p5"]}', b'"\\ud800"')
    ),
    "head": Target(_head, (b"q=a%20b&year=2020&year=!2021", b"application/json; charset=utf-8")),
    "identity": Target(_identity, (b"arXiv:1706.03762v2", b"https://doi.org/10.1000/XYZ", b"P18-1001", b"2017-06-12")),
}
"""Every reader and parser of what others wrote."""
