"""What fields do the rows of a table (CSV, TSV) hold?

Rows are read as RFC 4180 has them, strictly: a closing quote stands before a delimiter or the end of a row. So a row
whose quotes do not match is noticed where the next quote stands, costs itself only, and reading goes on with the line
below it, instead of the rest of the file becoming one cell.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator
from functools import partial

from semsearch.readers.fields import ABSTRACT_NAMES, role_of
from semsearch.readers.records import Reader, Record, Unusable, WrongKindError
from semsearch.readers.streams import MAX_RECORD_BYTES, MAX_RECORD_REASON, Line, Stream

_DELIMITERS = (",", ";", "\t", "|")
_MAX_ROW_LINES = 10_000
"""Short lines are held at many times their size, so bytes alone do not bound a row whose quotes never close."""
_TELLS_DELIMITER = re.compile(rb"sep=([,;\t|])\r?\n")  # a line of Excel's above the header
_ESSENTIAL = ("paper_id", "title", "abstract")


class _RowError(Exception):
    """The lines handed out since the row began make no row."""


class _Lines:
    """Hands the lines of a stream to the CSV parser, and remembers which of them the current row took."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._waiting: deque[Line] = deque()
        self._taken_bytes = 0
        self.taken: list[Line] = []

    def begin_row(self) -> None:
        """Forget the lines of the row before."""
        self.taken, self._taken_bytes = [], 0

    def give_back_all_but_first(self) -> None:
        """Hand out again, as lines of their own, what the current row took after its first line."""
        self._waiting.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]

    def __iter__(self) -> Iterator[str]:
        """Return this."""
        return self

    def __next__(self) -> str:
        """Return the next line as text, undecodable bytes as surrogates.

        :raises _RowError: if the row has become too long.
        """
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        self.taken.append(line)
        self._taken_bytes += len(line.data or b"")
        if line.data is None or self._taken_bytes > MAX_RECORD_BYTES:
            raise _RowError(MAX_RECORD_REASON)
        if len(self.taken) > _MAX_ROW_LINES:
            raise _RowError(f"the row has more than {_MAX_ROW_LINES:,} lines; do its quotes match?")
        return line.data.decode(errors="surrogateescape") + "\n"


def records(stream: Stream, delimiter: str | None = None) -> Iterator[Record | Unusable]:
    """Return the rows below the header; without a delimiter, the header tells it.

    :raises WrongKindError: if the header names no abstract, or a column twice.
    """
    if csv.field_size_limit() < MAX_RECORD_BYTES:  # the bound of a record is ours to check, so none is cut by csv
        csv.field_size_limit(MAX_RECORD_BYTES)
    lines = _Lines(stream.lines())
    if told := _TELLS_DELIMITER.match(stream.head):
        next(lines)
    delimiter = delimiter or (told[1].decode() if told else _delimiter_of(stream.head))
    rows = _rows(lines, delimiter)
    names: list[str] | None = None
    for row in rows:
        if names is None:
            names = _header(row, stream)
        elif isinstance(row, Unusable):
            raw = _unquoted(lines, delimiter, len(names))
            yield Record(row.line, dict(zip(names, raw, strict=True))) if raw else row
        else:
            yield _record(row, names, lines.taken)


class _Row(list[str]):
    """The cells of a row, and the line on which it begins."""

    line = 0


def _rows(lines: _Lines, delimiter: str) -> Iterator[_Row | Unusable]:
    parser = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin_row()
        try:
            row = _Row(next(parser))
        except StopIteration:
            return
        except (_RowError, csv.Error) as error:
            lines.give_back_all_but_first()
            reason = str(error) if isinstance(error, _RowError) else "the quotes of the row do not match"
            yield Unusable(lines.taken[0].number, reason)
            parser = csv.reader(lines, delimiter=delimiter, strict=True)
        else:
            if row:
                row.line = lines.taken[0].number
                yield row


def _header(row: _Row | Unusable, stream: Stream) -> list[str]:
    if b"\r" in stream.head and b"\n" not in stream.head:
        raise WrongKindError("ends its lines as the first Macs did; convert it, for example with: tr '\\r' '\\n'")
    if isinstance(row, Unusable):
        raise WrongKindError(f"has no usable header: {row.reason}")
    names = [name.strip() or f"column_{position}" for position, name in enumerate(row, start=1)]
    if all(role_of(name) != "abstract" for name in names):
        raise WrongKindError(f"names no column for the abstract in its first row (looked for: {ABSTRACT_NAMES})")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise WrongKindError(f"has {count} columns named {name[:40]!r}; rename them")
    return names


def _record(row: _Row, names: list[str], taken: list[Line]) -> Record | Unusable:
    for line in taken:
        if line.data is not None and not _is_utf8(line.data):
            way_out = "if it came from Excel, convert the file: iconv -f CP1252 -t UTF-8"
            return Unusable(row.line, f"the record is not valid UTF-8 in line {line.number}; {way_out}")
    missing = names[len(row) :]
    if any(role_of(name) in _ESSENTIAL for name in missing) or any(cell.strip() for cell in row[len(names) :]):
        return Unusable(row.line, f"the row has {len(row)} cells, the header {len(names)}")
    return Record(row.line, dict(zip(names, row, strict=False)))


def _unquoted(lines: _Lines, delimiter: str, width: int) -> list[str] | None:
    """Return the cells of a row whose quotes are part of its text, as many programs write TSV, or None."""
    data = lines.taken[0].data
    if delimiter != "\t" or data is None or not _is_utf8(data):
        return None
    cells = data.decode().rstrip("\r").split(delimiter)
    return cells if len(cells) == width else None


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _first_row(head: bytes, delimiter: str) -> list[str]:
    text = _TELLS_DELIMITER.sub(b"", head, count=1).decode(errors="replace").lstrip("\n")
    try:
        return next(csv.reader([text.partition("\n")[0].rstrip("\r")], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _recognised(head: bytes, delimiter: str) -> int:
    """Return how many columns the first row names that we know, 0 if the abstract is not among them."""
    roles = {role_of(name) for name in _first_row(head, delimiter)} - {None}
    return len(roles) if "abstract" in roles else 0


def _delimiter_of(head: bytes) -> str:
    return max(_DELIMITERS, key=lambda delimiter: _recognised(head, delimiter))


def looks_like(head: bytes, delimiters: tuple[str, ...] = _DELIMITERS) -> bool:
    """Whether the first row names an abstract and at least one other column that we know."""
    return any(_recognised(head, delimiter) > 1 for delimiter in delimiters)


CSV = Reader("csv", (".csv",), looks_like, records)
TSV = Reader("tsv", (".tsv", ".tab"), partial(looks_like, delimiters=("\t",)), partial(records, delimiter="\t"))
