"""Which papers does a source hold, and which of its records are none?

```
source ── sources.py   which files, in which order
       ── streams.py   bytes of a file: unpacked, bounded, lines numbered
       ── jsonl.py  json_document.py  table.py  bibtex.py  tagged.py  xml_document.py  results_page.py
                       a format each: the raw fields of each record, as records.py has it
       ── services.py  the nested fields of well-known services made plain
       ── fields.py    raw fields -> Paper, by latex.py and markup.py without their marks
```

A new format is one module and its name in `READERS`; docs/contributing.md has one of ten lines.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from semsearch.errors import RecordError, SourceError
from semsearch.papers import Paper
from semsearch.readers import bibtex, json_document, jsonl, results_page, sources, table, tagged, xml_document
from semsearch.readers.fields import paper_of, readable_id
from semsearch.readers.records import Reader, Record, Unusable, WrongKindError
from semsearch.readers.sources import SourceFile
from semsearch.readers.streams import Stream, opened, printable

__all__ = [
    "FORMATS",
    "READERS",
    "Entry",
    "Found",
    "Place",
    "Reader",
    "Record",
    "Rejected",
    "Unusable",
    "origin_of",
    "read",
]

READERS: tuple[Reader, ...] = (
    jsonl.READER,
    json_document.READER,
    xml_document.READER,
    bibtex.READER,
    tagged.RIS,
    tagged.MEDLINE,
    table.TSV,
    table.CSV,
    results_page.READER,
)
"""In the order in which they are asked whether a content without a known suffix is theirs."""

FORMATS: tuple[str, ...] = tuple(reader.name for reader in READERS)
"""The names that `read` takes as `format`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record begins: a file as named within its source, and a line counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        """Return the form that editors understand: "papers.jsonl:17"."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Found:
    """A paper and where it was read."""

    paper: Paper
    place: Place


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is no paper: where, why, and its normalised id if one could be read."""

    place: Place
    reason: str
    paper_id: str | None


Entry = Found | Rejected


def read(
    source: str | Path,
    *,
    format: str | None = None,
    default_source: str | None = None,
    on_read: Callable[[int], None] = lambda size: None,
) -> Iterator[Entry]:
    """Return the papers of a source, and the records that are none, in the order in which they are stored.

    The order is fixed: files in natural order of their path within the source (chunk_2 before chunk_10, folder by
    folder), records as they follow in the file. A file that turns out to be of another kind than its name says is an
    error if the source is this file, and one `Rejected` at its line 1 if it lay among others.

    :param source: a file, a folder, a glob pattern, or "-" for standard input.
    :param format: one of `FORMATS`; by default the file's suffix decides, and without a known one its content.
    :param default_source: fills `Paper.source` where a record names none.
    :param on_read: told the size in bytes of every piece as it is read; see `size_of`.
    :raises SourceError: if the source cannot be read, or not to its end; what came before has been returned by then.
    """
    chosen = _named(format) if format is not None else None
    files, alone = sources.files_of(source, _suffixes())
    for file in files:
        try:
            with opened(file.path, on_read) as stream:
                yield from _entries(file.name, stream, chosen or _reader_for(file, stream, alone), default_source)
        except WrongKindError as error:
            if alone:
                raise SourceError(f"{printable(str(file.path or 'standard input'))} {error}") from None
            yield Rejected(Place(file.name, 1), f"the file {error}", None)


def origin_of(source: str | Path) -> str:
    """Return the name of what is read.

    >>> origin_of("papers/acl-anthology.jsonl.zst"), origin_of("papers/2024_*.csv"), origin_of("*.csv"), origin_of("-")
    ('acl-anthology', 'papers', '*.csv', 'stdin')
    """
    return sources.origin_of(source, _suffixes())


def size_of(source: str | Path) -> int | None:
    """Return the size of a source's files in bytes, as they are on the disk; None where it cannot be known."""
    try:
        files, _ = sources.files_of(source, _suffixes())
        paths = [file.path for file in files]
        return None if None in paths else sum(path.stat().st_size for path in paths if path)
    except (SourceError, OSError):
        return None


def _suffixes() -> tuple[str, ...]:
    return tuple(suffix for reader in READERS for suffix in reader.suffixes)


def _named(name: str) -> Reader:
    for reader in READERS:
        if reader.name == name:
            return reader
    raise SourceError(f"there is no format {name!r}; choose one of {', '.join(reader.name for reader in READERS)}")


def _reader_for(file: SourceFile, stream: Stream, alone: bool) -> Reader:
    suffix = sources.suffix_of(file.path.name) if file.path else ""
    by_suffix = next((reader for reader in READERS if suffix in reader.suffixes), None)
    if by_suffix and (by_suffix.sure_by_suffix or not stream.head.strip()):
        return by_suffix
    for reader in READERS:
        if not stream.head.strip() or reader.looks_like(stream.head):
            return reader
    if by_suffix and alone and not stream.wrong_kind:
        return by_suffix  # it says best what is missing
    if stream.wrong_kind:
        raise WrongKindError(f"is {stream.wrong_kind}")
    raise WrongKindError(f"is of no known format; if it holds papers, name its format: {', '.join(FORMATS)}")


def _entries(name: str, stream: Stream, reader: Reader, default_source: str | None) -> Iterator[Entry]:
    if stream.wrong_kind:
        raise WrongKindError(f"is {stream.wrong_kind}")
    for record in reader.records(stream):
        place = Place(name, record.line)
        if isinstance(record, Unusable):
            yield Rejected(place, record.reason, None)
            continue
        try:
            entry: Entry = Found(paper_of(record.fields, default_source), place)
        except RecordError as error:
            entry = Rejected(place, str(error), readable_id(record.fields))
        yield entry
