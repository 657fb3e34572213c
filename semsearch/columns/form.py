r"""What stands in a file of columns?

Arrays in numpy's own format laid end to end, in the order of `LAYOUT`, mapped read-only. A day is the number YYYYMMDD,
which orders as days do and gives its year by a division; a paper without a date has the empty interval, which overlaps
nothing. What papers carry by name (categories, authors ...) is a list of pairs of row and code, rows ascending, and a
code is the number of an entry in one text:

    \n key \t label           a category, venue or source: what is compared, and its first spelling, to be shown
    \n<geoffrey><e><hinton>   an author: the folded words, which hold no such brackets

So a condition on a name is a search for a few bytes in that text: "\ncs.cl\t", "\nstat.", "<hinton>", "<g".

The papers' own ids are one text too, without borders: row r has `id.text[id.starts[r] : id.starts[r + 1]]`. Of its
title there is the number of different words, for a question that is nearly one. The hashes of all titles, for a
question that is just one, ascend in `title`, and `title_rows` says of which row each is.
"""

import re
from collections import Counter
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import xxhash
from numpy.typing import NDArray

from semsearch.filters import LabelField, Labelled, days_of, fold_label, fold_name, fold_title

LABEL_FIELDS: tuple[LabelField, ...] = get_args(LabelField)
NAMED_FIELDS = (*LABEL_FIELDS, "author")
NAME_PARTS = ("starts", "text", "rows", "codes")
LAYOUT = {
    **{f"{field}.starts": "q" for field in (*NAMED_FIELDS, "id")},
    "title": "Q",
    **{f"{field}.{part}": "i" for field in NAMED_FIELDS for part in ("rows", "codes")},
    "title_rows": "i",
    **{"first_day": "i", "last_day": "i", "has_doi": "B", "title_words": "B"},
    **{f"{field}.text": "B" for field in (*NAMED_FIELDS, "id")},
}
"""Each array and the type code of its numbers. The widest come first, so that all stand aligned behind their headers"""

_HEADER_BYTES = 128
_COUNT = re.compile(rb"\((\d{1,18}),\)")

NO_DAYS = (2**31 - 1, 0)
FIRST_DAY, LAST_DAY = 1, 9999_12_31


def day_number(day: date) -> int:
    """Return the day as YYYYMMDD."""
    return day.year * 10_000 + day.month * 100 + day.day


@lru_cache(maxsize=1 << 14)
def day_numbers(published: str | None) -> tuple[int, int]:
    """Return the first and the last day that this date of a paper may mean."""
    if published is None:
        return NO_DAYS
    first, last = days_of(published)
    return day_number(first), day_number(last)


def label_entry(label: str) -> tuple[str, str]:
    """Return the key of a category, venue or source, "" if there is none, and its entry without the line break."""
    key = fold_label(label)
    return key, f"{key}\t{' '.join(label.split())}"


def label_needles(condition: Labelled) -> list[Counter[str]]:
    """Return what an entry must hold to meet the condition: an alternative each."""
    exact = [f"\n{label}\t" for label in condition.exact]
    return [Counter([needle]) for needle in (*exact, *(f"\n{prefix}" for prefix in condition.prefixes))]


def author_entry(name: str) -> tuple[str, str]:
    """Return the key of an author, "" if there is none, and the entry without the line break."""
    key = fold_name(name)
    return key, "".join(f"<{word}>" for word in key.split())


def author_needles(name: str) -> Counter[str]:
    """Return what an author's entry must hold to meet this folded name, and how often.

    Each word typed stands for a word of its own, so "g goodman" asks for two words that begin with g.

    >>> author_needles("g goodman")
    Counter({'<g': 2, '<goodman>': 1})
    """
    words = name.split()
    initials = {word for word in words if len(word) == 1}
    needles = Counter(f"<{word}>" for word in words if word not in initials)
    needles.update(f"<{word[0]}" for word in words if word[0] in initials)
    return needles


def title_words(title: str) -> int:
    """Return how many different words a title has, 255 for more."""
    return min(len(set(fold_name(title).split())), 255)


def title_key(title: str) -> int:
    """Return the hash (XXH3-64) by which the same title is told however it is typed, 0 if there is nothing in it."""
    letters = fold_title(title)
    return xxhash.xxh3_64_intdigest(letters.encode()) if letters else 0


def header(typecode: str, count: int) -> bytes:
    """Return what stands before this many numbers: numpy's header, version 1.0, always of 128 bytes.

    Made here to be the same whatever the version of numpy, so that a reader can compare it whole.
    """
    described = f"{{'descr': '{np.dtype(typecode).str}', 'fortran_order': False, 'shape': ({count},), }}"
    return b"\x93NUMPY\x01\x00\x76\x00" + described.encode().ljust(_HEADER_BYTES - 11) + b"\n"


def mapped_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of the file, read-only.

    :raises ValueError: if it is no such file.
    """
    mapped = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    arrays: dict[str, NDArray[Any]] = {}
    end = 0
    for name, typecode in LAYOUT.items():
        found = mapped[end : end + _HEADER_BYTES].tobytes()
        count = int(match[1]) if (match := _COUNT.search(found)) else 0
        if found != header(typecode, count):
            raise ValueError(f"{name} does not begin at byte {end:,}")
        start = end + _HEADER_BYTES
        end = start + count * np.dtype(typecode).itemsize
        if end > len(mapped):
            raise ValueError(f"it ends within {name}")
        arrays[name] = mapped[start:end].view(typecode)
    if end != len(mapped):
        raise ValueError("something stands behind its last array")
    return arrays
