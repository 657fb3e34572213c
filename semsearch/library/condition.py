"""What in the file is not what was written, and what of that can be made anew?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semsearch.errors import LibraryDamageError, SemsearchError
from semsearch.library.rows import (
    CHANGE_COLUMNS,
    VERSION,
    check_change,
    content_digest,
    is_embedding,
    is_receipt,
    text_digest,
    version_of,
)

_BEFORE_ALL = -(2**63)  # no seq is less
_ROWS_PER_READ = 2_000
_SHOWN_BY_SQLITE = 20

Read = Callable[..., list[Any]]
"""Takes a statement and its values, returns the rows; raises our errors."""


@dataclass(slots=True)
class Mended:
    """What was made anew in a library, and what is damaged still, a line each; how many embeddings were dropped."""

    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    dropped: int = 0


def damage(read: Read, path: Path) -> Iterator[str]:
    """Yield one line for everything that is not what was written."""
    try:
        yield from _structure(read)
        yield from _damaged_changes(read, path)
        for number in _damaged_embeddings(read):
            yield f"embedding {number} fails its digest"
        yield from _damaged_receipts(read)
    except SemsearchError as error:
        yield f"{error}; what comes after it could not be read"


def misnamed(read: Read, path: Path) -> Iterator[str]:
    """Yield one line for every sound version whose digests do not name what it holds, by the rules of today."""
    for row in _changes(read):
        if row[1] != VERSION:
            continue
        try:
            check_change(row, path)
            version = version_of(row, path)
        except LibraryDamageError:
            continue  # which `damage` tells
        if row[4] != content_digest(row[7]):
            yield f"the content of paper {row[2]!r} (seq {row[0]}) is not what its digest names"
        if version.text_digest != text_digest(version.paper.text):
            yield f"the text of paper {row[2]!r} (seq {row[0]}) is not what its digest names"
        if version.paper.paper_id != row[2]:
            yield f"the content of seq {row[0]} calls paper {row[2]!r} {version.paper.paper_id!r}"


def mend(read: Read, path: Path, run: Callable[..., None]) -> Mended:
    """Make anew what can be: see `Library.mend`."""
    mended = Mended()
    damaged = list(_damaged_changes(read, path))
    mended.left += damaged
    if any(_structure(read)):
        run("REINDEX embeddings")
        if not damaged:  # else a damaged row would be known by its damaged id from now on
            run("REINDEX changes")
        left = list(_structure(read))
        mended.left += left
        if not left:
            mended.done.append("SQLite's indexes of the library were made anew")
    for number in list(_damaged_embeddings(read)):
        run("DELETE FROM embeddings WHERE embedding = ?", (number,))
        mended.dropped += 1
    if mended.dropped:
        mended.done.append(f"{mended.dropped:,} damaged embeddings were dropped")
    mended.left += _damaged_receipts(read)
    return mended


def _structure(read: Read) -> Iterator[str]:
    for (line,) in read(f"PRAGMA integrity_check({_SHOWN_BY_SQLITE})"):
        if line != "ok":
            yield f"SQLite: {line}"


def _changes(read: Read) -> Iterator[Any]:
    """Yield all changes that are there, by their seq: looked for by what is there, since a damaged one may be huge."""
    after = _BEFORE_ALL
    while rows := read(
        f"SELECT {CHANGE_COLUMNS} FROM changes c WHERE seq > ? ORDER BY seq LIMIT ?", (after, _ROWS_PER_READ)
    ):
        yield from rows
        after = rows[-1][0]


def _damaged_changes(read: Read, path: Path) -> Iterator[str]:
    before = 0
    for row in _changes(read):
        if row[0] > before + 1:
            missing = f"change {before + 1} is" if row[0] == before + 2 else f"changes {before + 1} to {row[0] - 1} are"
            yield f"{missing} missing"
        before = max(row[0], before)
        try:
            check_change(row, path)
        except LibraryDamageError as error:
            yield str(error)


def _damaged_embeddings(read: Read) -> Iterator[int]:
    after = 0
    while rows := read(
        "SELECT embedding, encoder, text_digest, tokens, vector, digest FROM embeddings "
        "WHERE embedding > ? ORDER BY embedding LIMIT ?",
        (after, _ROWS_PER_READ),
    ):
        yield from (row[0] for row in rows if not is_embedding(row[1:]))
        after = rows[-1][0]


def _damaged_receipts(read: Read) -> Iterator[str]:
    if read("SELECT 1 FROM sqlite_master WHERE name = 'receipts'"):
        for row in read("SELECT * FROM receipts"):
            if not is_receipt(row):
                yield "the receipt of a request fails its digest"
