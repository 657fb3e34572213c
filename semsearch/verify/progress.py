"""How far has a check of many rows come?"""

from collections.abc import Callable
from contextlib import suppress

from semsearch.errors import SemsearchError
from semsearch.library import Library

OnRows = Callable[[str, int, int], None]
"""Is told what is read, how many of its rows have been, and how many there are, 0 where that is not known."""

Passed = Callable[[int], None]
"""Is told how many more rows have been read."""


def passing(what: str, of: int, on_rows: OnRows | None) -> Passed:
    """Return what adds up the rows and tells the sum."""
    done = 0

    def passed(rows: int) -> None:
        nonlocal done
        done += rows
        if on_rows:
            on_rows(what, min(done, of), of)

    return passed


def passing_library(library: Library, on_rows: OnRows | None) -> Passed:
    """Return what tells how much of a library has been read, even if it is too damaged for its rows to be counted."""
    of = 0
    if on_rows:
        with suppress(SemsearchError):
            counts = library.counts()
            of = counts.changes + counts.embeddings
    return passing("rows of the library", of, on_rows)
