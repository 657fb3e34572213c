"""Which files does a source name, and in which order are they read?"""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from semsearch.errors import SourceError
from semsearch.readers.streams import printable, why

STDIN = "-"
PACKING_SUFFIXES = (".gz", ".gzip", ".zst", ".zstd")
_OTHER_PACKING_SUFFIXES = (".bz2", ".xz", ".zip")  # not read, but not passed over either: a reason says so


class SourceFile(NamedTuple):
    """One file to read: its path (None for standard input) and the name by which entries refer to it."""

    path: Path | None
    name: str


class Files(NamedTuple):
    """The files of one source; `alone` if the source named just this one."""

    files: list[SourceFile]
    alone: bool


def files_of(source: str | Path, suffixes: tuple[str, ...]) -> Files:
    """Return the files that a source names, in natural order: chunk_2 before chunk_10.

    A folder stands for the files below it with one of the `suffixes`, packed or not, and for packed ones without any;
    what is hidden is skipped. A glob pattern stands for all files that it matches.

    :raises SourceError: if there is no such path, or no file to read in it.
    """
    text = str(source)
    if text == STDIN:
        return Files([SourceFile(None, "stdin")], alone=True)
    try:
        if text and os.path.isdir(text):
            return Files(_files_below(Path(text), suffixes), alone=False)
        if text and os.path.lexists(text):
            return Files([SourceFile(Path(text), printable(Path(text).name))], alone=True)
        if glob.has_magic(text):
            return Files(_files_matching(text), alone=False)
    except (OSError, ValueError) as error:
        raise SourceError(f"{printable(text)} cannot be read: {why(error)}") from error
    raise SourceError(f"there is no file or folder {printable(text)!r}; check the path, or write - for standard input")


def origin_of(source: str | Path, suffixes: tuple[str, ...]) -> str:
    """Return the name of what is read, as `readers.origin_of` explains."""
    text = str(source)
    if text == STDIN:
        return "stdin"
    path = Path(text)
    if glob.has_magic(text) and not os.path.lexists(text):
        folder = _fixed_folder(text)
        return printable(path.name if folder == Path() else folder.resolve().name)
    if os.path.isdir(text):
        return printable(path.resolve().name or text)
    return printable(bare_name(path.name, suffixes) or text)


def bare_name(name: str, suffixes: tuple[str, ...]) -> str:
    """Return a file name without its packing suffix and then without its format suffix."""
    name = _without(name, PACKING_SUFFIXES)
    return _without(name, suffixes)


def suffix_of(name: str) -> str:
    """Return the last suffix of a file name below its packing suffix, in lower case: ".jsonl" for "a.JSONL.gz"."""
    return Path(_without(name, PACKING_SUFFIXES)).suffix.lower()


def _without(name: str, suffixes: tuple[str, ...]) -> str:
    for suffix in suffixes:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _files_below(folder: Path, suffixes: tuple[str, ...]) -> list[SourceFile]:
    def refuse(error: OSError) -> None:
        raise SourceError(f"the folder {printable(str(error.filename))} cannot be read: {why(error)}") from error

    paths = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(place, name) for name in names if not name.startswith(".") and _may_hold_papers(name, suffixes)]
    files = _in_natural_order(paths, folder)
    if not files:
        raise SourceError(f"the folder {printable(str(folder))} holds no file of a known format: {', '.join(suffixes)}")
    return files


def _may_hold_papers(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a name is that of a known format, packed or not, or that of something packed without saying what."""
    bare = _without(name, _OTHER_PACKING_SUFFIXES)
    suffix = suffix_of(bare)
    return suffix in suffixes or (bare.lower().endswith(PACKING_SUFFIXES) and not suffix)


def _files_matching(pattern: str) -> list[SourceFile]:
    paths = [Path(match) for match in glob.iglob(pattern, recursive=True)]
    files = _in_natural_order(paths, _fixed_folder(pattern))
    if not files:
        raise SourceError(f"no file matches {printable(pattern)!r}; check the folder and the pattern")
    return files


def _in_natural_order(paths: list[Path], base: Path) -> list[SourceFile]:
    # A pipe or device among the files would block for ever; a link that leads nowhere is no file either.
    names = {path: path.relative_to(base).as_posix() for path in paths if path.is_file()}
    return [SourceFile(path, printable(names[path])) for path in sorted(names, key=lambda path: _natural(names[path]))]


_DIGITS = re.compile(r"([0-9]+)")


def _natural(name: str) -> tuple[list[list[tuple[int, int, str]]], str]:
    """Return a sort key: folder by folder, numbers by value, letters without regard to case; the name breaks ties."""
    return [list(_natural_parts(part)) for part in name.split("/")], name


def _natural_parts(part: str) -> Iterator[tuple[int, int, str]]:
    for piece in _DIGITS.split(part):
        if piece.isdigit():
            digits = piece.lstrip("0")
            yield 0, len(digits), digits  # longer is greater: no number is too long to compare
        elif piece:
            yield 1, 0, piece.casefold()


def _fixed_folder(pattern: str) -> Path:
    """Return the folder before the first part of a pattern that is not literal."""
    parts = Path(pattern).parts
    literal = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:literal])
