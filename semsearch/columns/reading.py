"""Which rows of one segment meet a condition, and what do they carry?"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semsearch.columns.form import (
    FIRST_DAY,
    LAST_DAY,
    NAME_PARTS,
    NAMED_FIELDS,
    author_needles,
    day_number,
    label_needles,
    mapped_arrays,
    title_key,
)
from semsearch.errors import GenerationDamageError
from semsearch.filters import Author, Filter, HasDoi, LabelField, Labelled, Published


class Columns:
    """The columns of one segment, mapped read-only from their file; immutable, safe to share between threads.

    `first_day` and `last_day`, of shape (rows,), are the days YYYYMMDD that a paper's date may mean; a paper without a
    date has a first day behind its last, and 0 as its last. `title_words`, of the same shape, are the numbers of
    different words in the titles, up to 255.
    """

    def __init__(self, path: Path) -> None:
        """Map the file, which must already have passed its digest: only its form is checked here.

        :raises GenerationDamageError: if it has not the form of columns.
        """
        try:
            arrays = mapped_arrays(path)
        except ValueError as error:
            raise GenerationDamageError(f"{path} holds no columns: {error}") from error
        self.first_day: NDArray[np.int32] = arrays["first_day"]
        self.last_day: NDArray[np.int32] = arrays["last_day"]
        self._title: NDArray[np.uint64] = arrays["title"]
        self._title_rows: NDArray[np.int32] = arrays["title_rows"]
        self.title_words: NDArray[np.uint8] = arrays["title_words"]
        self._has_doi: NDArray[np.bool_] = arrays["has_doi"].view(np.bool_)
        self._id_starts: NDArray[np.int64] = arrays["id.starts"]
        self._id_text: NDArray[np.uint8] = arrays["id.text"]
        self._names = {field: _Names(*(arrays[f"{field}.{part}"] for part in NAME_PARTS)) for field in NAMED_FIELDS}
        self.rows = len(self.first_day)
        whole = all(names.is_whole() for names in self._names.values())
        whole &= len(self._id_starts) > 0 and int(self._id_starts[-1]) == len(self._id_text)
        lengths = {
            len(self.last_day),
            len(self._has_doi),
            len(self._title),
            len(self._title_rows),
            len(self.title_words),
            len(self._id_starts) - 1,
        }
        if not whole or lengths != {self.rows}:
            raise GenerationDamageError(f"{path} holds columns that do not belong together")

    def ids_at(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the paper ids of these rows."""
        starts, ends, text = self._id_starts[rows].tolist(), self._id_starts[rows + 1].tolist(), self._id_text.data
        return [str(text[start:end], "utf-8") for start, end in zip(starts, ends, strict=True)]

    def titled(self, title: str) -> NDArray[np.int64]:
        """Return the rows that have this title, however it is typed, ascending."""
        key = np.uint64(title_key(title))  # of its own type, or numpy would make another array of all of them
        first, last = np.searchsorted(self._title, key, "left"), np.searchsorted(self._title, key, "right")
        return self._title_rows[first:last].astype(np.int64) if key else np.empty(0, dtype=np.int64)

    def matches(self, condition: Filter) -> NDArray[np.bool_]:
        """Return which rows meet one condition that is no list of ids and no combination, shape (rows,)."""
        match condition:
            case Published(first, last):
                low, high = day_number(first) if first else FIRST_DAY, day_number(last) if last else LAST_DAY
                return (self.first_day <= high) & (self.last_day >= low)
            case HasDoi():
                return self._has_doi
            case Labelled(field):
                return self._carrying(field, label_needles(condition))
            case Author(names):
                return self._carrying("author", [author_needles(name) for name in names])
        raise TypeError(f"{type(condition).__name__} is no condition of one segment's columns")

    def _carrying(self, field: str, alternatives: Iterable[Counter[str]]) -> NDArray[np.bool_]:
        matching = np.zeros(self.rows, dtype=np.bool_)
        matching[self._names[field].rows_with(alternatives)] = True
        return matching

    def years(self, among: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """Yield each year among these rows and how many of them it has."""
        days = self.first_day[among]
        counts = np.bincount(days[days <= LAST_DAY] // 10_000)
        years = np.flatnonzero(counts)
        yield from zip(years.tolist(), counts[years].tolist(), strict=True)

    def year_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the year of each of these rows, 0 for one without, shape (n,)."""
        days = self.first_day[rows].astype(np.int64)
        return np.where(days <= LAST_DAY, days // 10_000, 0)

    def labels_of(
        self, field: LabelField, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], list[tuple[str, str]]]:
        """Return what these rows carry: places in `rows`, an entry's number beside each, and the entries.

        An entry is its key and its label.
        """
        return self._names[field].entries_of(rows)

    def labels(self, field: LabelField, among: NDArray[np.bool_]) -> Iterator[tuple[str, str, int]]:
        """Yield the key, the label and how many of these rows carry it; a key may come more than once."""
        yield from self._names[field].counts(among)


@dataclass(frozen=True, slots=True)
class _Names:
    """What papers carry by name in one field.

    `text` holds the entries, each behind a line break, and a last line break; `starts` are the positions of all of
    them. Paper `rows[i]` carries entry `codes[i]`.
    """

    starts: NDArray[np.int64]
    text: NDArray[np.uint8]
    rows: NDArray[np.int32]
    codes: NDArray[np.int32]

    def is_whole(self) -> bool:
        """Return whether the four parts fit each other."""
        return len(self.starts) > 0 and self.starts[-1] == len(self.text) - 1 and len(self.rows) == len(self.codes)

    def rows_with(self, alternatives: Iterable[Counter[str]]) -> NDArray[np.int32]:
        """Return the rows that carry an entry with all needles of an alternative, as often as it counts them.

        A row may come several times.
        """
        wanted = np.zeros(len(self.starts) - 1, dtype=np.bool_)
        for needles in alternatives:
            wanted[self._codes_with(needles)] = True
        # np.take and flatnonzero: three times as fast as the same with two subscripts
        return self.rows[np.flatnonzero(np.take(wanted, self.codes))]

    def counts(self, among: NDArray[np.bool_]) -> Iterator[tuple[str, str, int]]:
        """Yield the two halves of each entry that these rows carry, and how many of them do."""
        counts = np.bincount(self.codes[np.take(among, self.rows)])
        codes = np.flatnonzero(counts)
        for (key, label), count in zip(self._entries(codes), counts[codes].tolist(), strict=True):
            yield key, label, count

    def entries_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], list[tuple[str, str]]]:
        """Return places in `rows`, the number of an entry that the row there carries, and the entries' halves."""
        first, last = np.searchsorted(self.rows, rows, "left"), np.searchsorted(self.rows, rows, "right")
        many = last - first
        places = np.repeat(np.arange(len(rows)), many)
        within = np.arange(len(places)) - np.repeat(np.cumsum(many) - many, many)
        codes, numbers = np.unique(self.codes[np.repeat(first, many) + within], return_inverse=True)
        return places, numbers, list(self._entries(codes))

    def _entries(self, codes: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
        text = self.text.data
        for start, end in zip(self.starts[codes].tolist(), self.starts[codes + 1].tolist(), strict=True):
            key, _, label = bytes(text[start + 1 : end]).decode().partition("\t")
            yield key, label

    def _codes_with(self, needles: Counter[str]) -> NDArray[np.int64]:
        longest = max(needles, key=len)
        codes = np.unique(_owners(self.starts, _positions(self.text, longest.encode())))
        codes = codes[codes < len(self.starts) - 1]  # the last line break begins no entry
        if needles.total() == 1:
            return codes
        starts, text = self._excerpt(codes)
        enough = np.ones(len(codes), dtype=np.bool_)
        for needle, count in needles.items():
            owners = _owners(starts, _positions(text, needle.encode()))
            enough &= np.bincount(owners, minlength=len(codes)) >= count
        return codes[enough]

    def _excerpt(self, codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return where each of these entries starts in a text of them alone, and that text."""
        lengths = self.starts[codes + 1] - self.starts[codes]
        starts = np.cumsum(lengths) - lengths
        shifts = np.repeat(self.starts[codes] - starts, lengths)
        return starts, self.text[np.arange(len(shifts)) + shifts]


def _owners(starts: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.searchsorted(starts, positions, side="right") - 1


def _positions(text: NDArray[np.uint8], needle: bytes) -> NDArray[np.int64]:
    """Return where the needle begins in the text, ascending.

    Two of its bytes are looked for everywhere, then the places are sifted. The first byte is a mark that stands before
    every entry or word, so the two behind it are rarer.
    """
    end = max(len(text) - len(needle) + 1, 0)
    first = 1 if len(needle) > 2 else 0
    found = text[first : first + end] == needle[first]
    if len(needle) > 1:
        found &= text[first + 1 : first + 1 + end] == needle[first + 1]
    positions = np.flatnonzero(found)
    for offset, byte in enumerate(needle):
        positions = positions[text[positions + offset] == byte]
    return positions
