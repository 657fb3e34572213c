"""What may a disk hold after its power was cut, given everything that was written to it?

Only what was brought to it by an fsync is sure: of a file its content, of a folder the names in it. Of the rest
anything may have come through. What was written to a file since its last fsync may be lost, be zeros, be there by
half, have a bit flipped, have its last 4 KiB zeroed, or be whole (the damages that Lucene's tests deal out). Of the
changes of names in a folder since its last fsync, only the first few may have come through; one that concerns two
folders, a rename, comes through in both or in none. That is less than any journaling file system promises.
"""

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from tracing import Call

Damage = Literal["lost", "zeroed", "halved", "whole", "flipped", "tail zeroed"]
DAMAGES: tuple[Damage, ...] = get_args(Damage)
_TAIL = 4_096
_AT_CREATION = 0o100  # O_CREAT
_TO_NOTHING = 0o1000  # O_TRUNC


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that went to a place in a file; with `size`, the file was cut or lengthened to that instead."""

    position: int
    data: bytes
    size: int | None = None

    def onto(self, content: bytearray) -> None:
        """Do it to a file's content."""
        if self.size is not None:
            del content[self.size :]
            content.extend(bytes(self.size - len(content)))
            return
        content.extend(bytes(max(0, self.position - len(content))))
        content[self.position : self.position + len(self.data)] = self.data


@dataclass(eq=False, slots=True)
class File:
    """A file: what is sure to be there, and what was done to it since."""

    durable: bytes = b""
    pending: list[Write] = field(default_factory=list)

    def sync(self) -> None:
        """Bring all of it to the disk."""
        self.durable, self.pending = self.after("whole", random.Random(0)), []

    def after(self, damage: Damage, dice: random.Random) -> bytes:
        """Return what it may hold after a power cut."""
        done, content = self.pending, bytearray(self.durable)
        if damage == "lost":
            done = []
        elif damage == "zeroed":
            done = [Write(each.position, bytes(len(each.data)), each.size) for each in done]
        elif damage == "halved" and done:
            *first, last = done[: (len(done) + 1) // 2]
            done = [*first, Write(last.position, last.data[: len(last.data) // 2], last.size)]
        for each in done:
            each.onto(content)
        written = [each for each in done if each.data]
        if damage == "flipped" and written:
            each = dice.choice(written)
            place = each.position + dice.randrange(len(each.data))
            if place < len(content):
                content[place] ^= 1 << dice.randrange(8)
        elif damage == "tail zeroed" and written:
            end = min(len(content), max(each.position + len(each.data) for each in written))
            start = max(0, end - _TAIL, min(each.position for each in written))
            content[start:end] = bytes(end - start)
        return bytes(content)


@dataclass(eq=False, slots=True)
class Folder:
    """A folder: the names that are there now, and those that are sure to be."""

    current: dict[str, "File | Folder"] = field(default_factory=dict)
    durable: dict[str, "File | Folder"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """Names that went and came in one step."""

    gone: tuple[tuple[Folder, str], ...] = ()
    come: tuple[tuple[Folder, str, "File | Folder"], ...] = ()

    @property
    def folders(self) -> list[Folder]:
        """The folders that it concerns."""
        return [*(folder for folder, _ in self.gone), *(folder for folder, _, _ in self.come)]


class Disk:
    """A folder tree to which calls are done one after the other."""

    def __init__(self, root: Path) -> None:
        """Begin with an empty folder at `root`, which is sure to be there."""
        self._root = root
        self._top = Folder()
        self._pending: list[Change] = []

    def do(self, call: Call) -> None:
        """Do what this call did, if it succeeded and concerns anything below the root."""
        if call.result < 0 or not any(path.is_relative_to(self._root) for path in call.paths):
            return
        path = call.paths[-1]
        match call.name:
            case "open" | "openat" if call.flags & _AT_CREATION and not call.existed:
                self._change(come=[(path, File())])
            case "open" | "openat" if call.flags & _TO_NOTHING:
                self._file(path).pending.append(Write(0, b"", 0))
            case "write" | "pwrite64":
                assert call.position is not None, "it is known for these"
                self._file(path).pending.append(Write(call.position, call.data[: call.result]))
            case "ftruncate":
                self._file(path).pending.append(Write(0, b"", call.arguments[1]))
            case "fsync" | "fdatasync":
                self._sync(self._at(path))
            case "mkdir" | "mkdirat":
                self._change(come=[(path, Folder())])
            case "unlink" | "unlinkat" | "rmdir":
                self._change(gone=[path])
            case "rename" | "renameat" | "renameat2":
                self._change(gone=[call.paths[0]], come=[(path, self._at(call.paths[0]))])
            case "link" | "linkat":
                self._change(come=[(path, self._at(call.paths[0]))])
            case "writev" | "fallocate" | "creat":
                raise NotImplementedError(f"a disk that knows {call.name}")

    def after_power_cut(self, dice: random.Random) -> dict[str, bytes | None]:
        """Return what may be there by relative path: the content of a file, None for a folder."""
        entries: dict[int, dict[str, File | Folder]] = {}
        cut: set[int] = set()
        for change in self._pending:
            ids = {id(folder) for folder in change.folders}
            if ids & cut or dice.random() < 0.5:
                cut |= ids
                continue
            for folder, name in change.gone:
                entries.setdefault(id(folder), dict(folder.durable)).pop(name, None)
            for folder, name, node in change.come:
                entries.setdefault(id(folder), dict(folder.durable))[name] = node
        found: dict[str, bytes | None] = {}
        contents: dict[int, bytes] = {}  # of one file under several names there is one content

        def walk(folder: Folder, prefix: str) -> None:
            for name, node in entries.get(id(folder), folder.durable).items():
                if isinstance(node, Folder):
                    found[prefix + name] = None
                    walk(node, f"{prefix}{name}/")
                else:
                    if id(node) not in contents:
                        contents[id(node)] = node.after(dice.choice(DAMAGES), dice)
                    found[prefix + name] = contents[id(node)]

        walk(self._top, "")
        return found

    def _at(self, path: Path) -> File | Folder:
        node: File | Folder = self._top
        for name in path.relative_to(self._root).parts:
            assert isinstance(node, Folder), "a file holds no names"
            node = node.current[name]
        return node

    def _file(self, path: Path) -> File:
        if path.name.endswith(" (deleted)"):
            return File()
        node = self._at(path)
        assert isinstance(node, File), "nobody writes to a folder"
        return node

    def _folder(self, path: Path) -> Folder:
        node = self._at(path)
        assert isinstance(node, Folder), "a name stands in a folder"
        return node

    def _change(self, gone: Iterable[Path] = (), come: Iterable[tuple[Path, File | Folder]] = ()) -> None:
        change = Change(
            tuple((self._folder(path.parent), path.name) for path in gone),
            tuple((self._folder(path.parent), path.name, node) for path, node in come),
        )
        for folder, name in change.gone:
            del folder.current[name]
        for folder, name, node in change.come:
            folder.current[name] = node
        self._pending.append(change)

    def _sync(self, node: File | Folder) -> None:
        if isinstance(node, File):
            node.sync()
            return
        left = []
        for change in self._pending:
            if node not in change.folders:
                left.append(change)
                continue
            for folder, name in change.gone:
                folder.durable.pop(name, None)
            for folder, name, new in change.come:
                folder.durable[name] = new
        self._pending = left


def write_out(found: dict[str, bytes | None], target: Path) -> None:
    """Make a folder that holds this."""
    target.mkdir(parents=True)
    for name, data in found.items():
        if data is None:
            os.mkdir(target / name)
        else:
            (target / name).write_bytes(data)
