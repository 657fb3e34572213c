"""What fields do the records of a reference manager's tagged lines hold: RIS, and PubMed's MEDLINE (.nbib)?

```
TY  - JOUR                 PMID- 12345
TI  - On things            TI  - On things that go on
AB  - They are.                  in a second line
ER  -                      AB  - They are.
```

Each line names its field; a line without a name goes on with the field above it. An RIS record ends with `ER`, or where
the next one begins; one of MEDLINE begins with `PMID` and ends where the next one does. So what is wrong with one costs
itself only. What RIS calls ID is a number within somebody's collection, so it is no id: it is kept as `reference_id`.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from semsearch.readers.fields import given_first
from semsearch.readers.records import Reader, Record, Unusable
from semsearch.readers.streams import MAX_RECORD_BYTES, MAX_RECORD_REASON, Line, Stream

_Tags = dict[str, list[str]]
_LINE_BYTES = 64  # so that a record of empty lines is bounded too


class _Dialect(NamedTuple):
    """How a line names its field, which field a record begins and ends with, and what its fields are."""

    named: re.Pattern[str]
    begin: str
    end: str | None
    fields_of: Callable[[_Tags], dict[str, Any]]


class _Open:
    """A record of which some lines were read."""

    def __init__(self, line: int) -> None:
        self._line = line
        self._size = 0
        self._problem = ""
        self._values: list[tuple[str, list[str]]] = []  # each field's name, and its pieces line by line

    def take(self, tag: str | None, text: str) -> None:
        """Add a line's text to the field that it names, or else to the one above."""
        self._size += len(text) + _LINE_BYTES
        if self._size > MAX_RECORD_BYTES:
            self.spoil(MAX_RECORD_REASON)
        elif tag:
            self._values.append((tag, [text]))
        elif self._values:
            self._values[-1][1].append(text)

    def spoil(self, problem: str) -> None:
        """Give the record up for this reason, if there is none yet."""
        self._problem = self._problem or problem
        self._values.clear()

    def closed(self, dialect: _Dialect) -> Record | Unusable:
        """Return the record."""
        if self._problem:
            return Unusable(self._line, self._problem)
        tags: _Tags = {}
        for tag, pieces in self._values:
            tags.setdefault(tag, []).append(" ".join(pieces).strip())
        return Record(self._line, dialect.fields_of(tags))


def records(stream: Stream, dialect: _Dialect) -> Iterator[Record | Unusable]:
    """Return the records' fields; lines outside of a record are passed over."""
    record: _Open | None = None
    for line in stream.lines():
        text, problem = _text(line)
        match = dialect.named.match(text)
        tag = match["tag"].strip() if match else None
        if tag in (dialect.begin, dialect.end) and tag:
            if record:
                yield record.closed(dialect)
            record = _Open(line.number) if tag == dialect.begin else None
        if record and problem:
            record.spoil(problem)
        elif record:
            record.take(tag, text[match.end() :].strip() if match else text.strip())
    if record:
        yield record.closed(dialect)


def _text(line: Line) -> tuple[str, str]:
    """Return a line's text and what is wrong with it."""
    if line.data is None:
        return "", MAX_RECORD_REASON
    try:
        return line.data.decode(), ""
    except UnicodeDecodeError:
        return "", f"the record is not valid UTF-8 in line {line.number}"


_RIS_NAMES = {
    "title": "TI T1 CT",
    "abstract": "AB N2",
    "authors": "AU A1",
    "date": "DA",
    "published": "Y1",
    "year": "PY",
    "venue": "T2 JO JF JA BT",
    "keywords": "KW",
    "doi": "DO",
    "url": "UR",
    "reference_id": "ID",
}


def _ris_fields(tags: _Tags) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, choices in _RIS_NAMES.items():
        if values := next((tags.pop(tag) for tag in choices.split() if any(tags.get(tag, ()))), None):
            values = list(filter(None, values))
            fields[name] = values if name in ("authors", "keywords") else values[0]
            if name == "abstract":
                fields[name] = " ".join(values)
            elif values[1:] and fields[name] == values[0]:
                fields[f"more_{name}"] = values[1:]
    if "authors" in fields:
        fields["authors"] = [given_first(name) for name in fields["authors"]]
    for name in ("date", "published", "year"):
        if name in fields:  # 2017/06/12/Spring, of which any part may be missing: 2017///
            fields[name] = "/".join(fields[name].split("/")[:3]).rstrip("/")
    return fields | _others(tags)


_MEDLINE_NAMES = {"title": "TI BTI", "abstract": "AB", "pmid": "PMID", "date": "DP", "venue": "JT TA"}
_IS_DOI = " [doi]"


def _medline_fields(tags: _Tags) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, choices in _MEDLINE_NAMES.items():
        if values := next((tags.pop(tag) for tag in choices.split() if any(tags.get(tag, ()))), None):
            fields[name] = " ".join(values) if name == "abstract" else next(filter(None, values))
    fields["authors"] = [given_first(name) for name in tags.pop("FAU", None) or tags.pop("AU", [])] + tags.pop("CN", [])
    fields["keywords"] = tags.pop("OT", []) + tags.pop("MH", [])
    numbers = [number for tag in ("LID", "AID") for number in tags.get(tag, ()) if number.endswith(_IS_DOI)]
    tags.pop("AU", None)  # the same people, abbreviated
    if numbers:
        fields["doi"] = numbers[0].removesuffix(_IS_DOI)
    return fields | _others(tags)


def _others(tags: _Tags) -> dict[str, Any]:
    return {tag: values[0] if len(values) == 1 else values for tag, values in tags.items()}


_RIS = _Dialect(re.compile(r"(?P<tag>[A-Z][A-Z0-9])  -(?: |\s*$)"), "TY", "ER", _ris_fields)
_MEDLINE = _Dialect(re.compile(r"(?P<tag>[A-Z][A-Z ]{3})- "), "PMID", None, _medline_fields)


def looks_like(head: bytes, dialect: _Dialect) -> bool:
    """Whether one of the first ten lines that are not blank begins a record: services put some of their own above."""
    lines = [line for line in head.decode(errors="replace").split("\n") if line.strip()][:10]
    matches = [match for line in lines if (match := dialect.named.match(line))]
    return any(match["tag"] == dialect.begin for match in matches)


RIS = Reader("ris", (".ris",), partial(looks_like, dialect=_RIS), partial(records, dialect=_RIS))
MEDLINE = Reader(
    "medline", (".nbib", ".medline"), partial(looks_like, dialect=_MEDLINE), partial(records, dialect=_MEDLINE)
)
