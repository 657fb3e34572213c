"""How do papers become a file of columns, however many they are?"""

from array import array
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Self

import numpy as np

from semsearch.columns.form import (
    LABEL_FIELDS,
    LAYOUT,
    NAME_PARTS,
    author_entry,
    day_numbers,
    header,
    label_entry,
    title_key,
    title_words,
)
from semsearch.papers import Paper

_BLOCK_ROWS = 1 << 12
_BLOCK_BYTES = 1 << 20
_REMEMBERED_NAMES = 1 << 18


def write_columns(papers: Iterable[Paper], write: Callable[[bytes], int], scratch: Path) -> int:
    """Give the columns of these papers, in the order of their rows, to `write`, piece by piece; return how many came.

    This takes some tens of megabytes of memory, and while the titles are sorted twenty bytes for each paper.

    :param scratch: a folder for unnamed temporary files, which together grow as large as what is written.
    """
    rows = 0
    with ExitStack() as stack:
        spools = {name: stack.enter_context(_Spool(typecode, scratch)) for name, typecode in LAYOUT.items()}
        writer = _ColumnsWriter(spools)
        for row, paper in enumerate(papers):
            if row % _BLOCK_ROWS == 0:
                writer.flush()
            writer.add(row, paper)
            rows = row + 1
        writer.finish()
        for spool in spools.values():
            spool.write_to(write)
    return rows


class _Spool:
    """The numbers of one array until all are there and with them the header: in memory, or in a file if many."""

    def __init__(self, typecode: str, scratch: Path) -> None:
        self.pending = array(typecode)
        self._file = SpooledTemporaryFile(max_size=_BLOCK_BYTES, dir=str(scratch))  # noqa: SIM115
        self._count = 0

    def flush(self) -> None:
        self._file.write(self.pending.tobytes())
        self._count += len(self.pending)
        del self.pending[:]

    def write_to(self, write: Callable[[bytes], int]) -> None:
        self.flush()
        write(header(self.pending.typecode, self._count))
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            write(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class _ColumnsWriter:
    """Turns papers into numbers."""

    def __init__(self, spools: dict[str, _Spool]) -> None:
        self._spools = spools
        self._first_day, self._last_day, self._has_doi = (
            spools[name].pending for name in ("first_day", "last_day", "has_doi")
        )
        self._title_keys, self._title_words = array("Q"), spools["title_words"].pending
        self._id_starts, self._id_text = spools["id.starts"].pending, spools["id.text"].pending
        self._id_bytes = 0
        self._category, self._venue, self._source = (_NamesWriter(field, spools, label_entry) for field in LABEL_FIELDS)
        self._author = _NamesWriter("author", spools, author_entry)

    def add(self, row: int, paper: Paper) -> None:
        self._title_keys.append(title_key(paper.title))
        self._title_words.append(title_words(paper.title))
        data = paper.paper_id.encode()
        self._id_starts.append(self._id_bytes)
        self._id_text.frombytes(data)
        self._id_bytes += len(data)
        first_day, last_day = day_numbers(paper.published)
        self._first_day.append(first_day)
        self._last_day.append(last_day)
        self._has_doi.append(paper.doi is not None)
        self._category.add(row, paper.categories)
        self._venue.add(row, (paper.venue,) if paper.venue else ())
        self._source.add(row, (paper.source,) if paper.source else ())
        self._author.add(row, paper.authors)

    def flush(self) -> None:
        for spool in self._spools.values():
            spool.flush()

    def finish(self) -> None:
        self._id_starts.append(self._id_bytes)
        keys = np.array(self._title_keys, dtype=np.uint64)
        rows = np.argsort(keys, kind="stable").astype(np.int32)
        self._spools["title"].pending.frombytes(keys[rows].tobytes())
        self._spools["title_rows"].pending.frombytes(rows.tobytes())
        for names in (self._category, self._venue, self._source, self._author):
            names.finish()


class _NamesWriter:
    """Numbers the names of one field as they come.

    It forgets what it knows when that is much, so that memory stays bounded: a name that comes again gets another code.
    Readers therefore expect equal entries.
    """

    def __init__(self, field: str, spools: dict[str, _Spool], entry_of: Callable[[str], tuple[str, str]]) -> None:
        self._starts, self._text, self._rows, self._row_codes = (
            spools[f"{field}.{part}"].pending for part in NAME_PARTS
        )
        self._entry_of = entry_of
        self._codes: dict[str, int | None] = {}
        self._codes_of_keys: dict[str, int] = {}
        self._count = 0
        self._bytes = 0

    def add(self, row: int, names: tuple[str, ...]) -> None:
        if len(self._codes) >= _REMEMBERED_NAMES:  # never within a row, where a name counts once
            self._codes.clear()
            self._codes_of_keys.clear()
        for code in sorted({code for name in names if (code := self._code_of(name)) is not None}):
            self._rows.append(row)
            self._row_codes.append(code)

    def finish(self) -> None:
        self._starts.append(self._bytes)
        self._text.frombytes(b"\n")

    def _code_of(self, name: str) -> int | None:
        try:
            return self._codes[name]
        except KeyError:
            code = self._codes[name] = self._new_code(name)
            return code

    def _new_code(self, name: str) -> int | None:
        key, entry = self._entry_of(name)
        if not key:  # there is no letter in it: nobody can ask for it
            return None
        code = self._codes_of_keys.setdefault(key, self._count)
        if code == self._count:
            data = b"\n" + entry.encode()
            self._starts.append(self._bytes)
            self._text.frombytes(data)
            self._bytes += len(data)
            self._count += 1
        return code
