"""What may become of a file?"""

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

_PAGE = 4_096

Damage = Callable[[Path, random.Random], None]


def _flip(path: Path, dice: random.Random, bits: int = 1) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(bits):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def _zero(path: Path, start: int, end: int) -> None:
    data = bytearray(path.read_bytes())
    data[start:end] = bytes(len(data[start:end]))
    path.write_bytes(data)


def _zero_tail(path: Path, dice: random.Random) -> None:
    size = path.stat().st_size
    _zero(path, max(0, size - dice.choice([1, 8, 64, 512, _PAGE])), size)


def _zero_page(path: Path, dice: random.Random) -> None:
    start = dice.randrange(-(-path.stat().st_size // _PAGE)) * _PAGE
    _zero(path, start, start + _PAGE)


def _cut(path: Path, dice: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size)])


def _lengthen(path: Path, dice: random.Random) -> None:
    path.write_bytes(path.read_bytes() + dice.randbytes(1))


def _repeat_page(path: Path, dice: random.Random) -> None:
    """A write that went to the wrong place: one piece of the file stands where another should."""
    data = bytearray(path.read_bytes())
    piece = min(_PAGE, len(data) // 2)
    source, target = (dice.randrange(len(data) - piece + 1) for _ in range(2))
    data[target : target + piece] = data[source : source + piece]
    path.write_bytes(data)


def _swap(path: Path, dice: random.Random) -> None:
    others = [file for file in path.parent.iterdir() if file.is_file() and file != path]
    other = dice.choice(sorted(others))
    mine, theirs = path.read_bytes(), other.read_bytes()
    for file, data in ((path, theirs), (other, mine)):
        file.unlink()
        file.write_bytes(data)


def _extra(path: Path, dice: random.Random) -> None:
    (path.parent / f"{path.name}{dice.choice(['.bak', '.tmp', '.lock', '~'])}").write_bytes(path.read_bytes())


def _become_a_folder(path: Path, dice: random.Random) -> None:
    path.unlink()
    path.mkdir()


KINDS: dict[str, Damage] = {
    "one bit": _flip,
    "eight bits": partial(_flip, bits=8),
    "zero tail": _zero_tail,
    "zero page": _zero_page,
    "all zero": lambda path, dice: _zero(path, 0, path.stat().st_size),
    "cut": _cut,
    "cut to nothing": lambda path, dice: os.truncate(path, 0),
    "one byte more": _lengthen,
    "misplaced write": _repeat_page,
    "swapped": _swap,
    "deleted": lambda path, dice: path.unlink(),
    "a folder": _become_a_folder,
    "extra file": _extra,
}
