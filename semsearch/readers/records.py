"""What does every format hand to the door?

A reader knows the shape of its format and nothing else: which fields stand at which line. What the fields mean is
decided in one place for all formats, `fields.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from semsearch.errors import SourceError
from semsearch.readers.streams import Stream


class Record(NamedTuple):
    """The raw fields of one record, and the line on which it begins."""

    line: int
    fields: dict[str, Any]


class Unusable(NamedTuple):
    """The line of something that is no record, and why not."""

    line: int
    reason: str


class WrongKindError(SourceError):
    """A file is not of the kind it was taken for: fatal if it was asked for by name, noted if it lay among others."""


@dataclass(frozen=True, slots=True)
class Reader:
    """One format: how files of it are named, how they begin, and how their records are cut out.

    `looks_like` sees the first bytes of the unpacked content, up to a line end, without a byte order mark.
    A reader that is not `sure_by_suffix` takes a file found in a folder only if it also looks like its format.
    """

    name: str
    suffixes: tuple[str, ...]
    looks_like: Callable[[bytes], bool]
    records: Callable[[Stream], Iterator[Record | Unusable]]
    sure_by_suffix: bool = True
