"""What records does one JSON text hold, however long it is?

Unlike JSON Lines, a list of papers need not have a line each. The list is therefore cut at its own commas by counting
brackets outside of strings, and each piece is parsed alone: memory stays bounded, and a piece that is not valid JSON
costs itself only, as long as its brackets and quotes are in pairs.
"""

import re
from collections.abc import Iterator

from semsearch.errors import SourceError
from semsearch.readers import jsonl
from semsearch.readers.records import Reader, Record, Unusable
from semsearch.readers.streams import MAX_RECORD_BYTES, MAX_RECORD_REASON, Line, Stream

_MARKS = re.compile(rb'[\[\]{}",]')
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)  # up to the closing quote, or the end of the chunk
_OPENING = b"[{"
_WRAPPERS = {name.encode(): {tells.encode() for tells in of_a_paper} for name, of_a_paper in jsonl.WRAPPERS.items()}
_TELLING = frozenset[bytes]().union(*_WRAPPERS.values())
_ENVELOPES = frozenset(name.lower().encode() for name in jsonl.ENVELOPES)
_MAX_KEY_BYTES = 64

_STRAY = "there is text outside of the JSON list or object"


def records(stream: Stream) -> Iterator[Record | Unusable]:
    """Return the objects of a list, of the list that an object wraps, or the objects that follow one another.

    :raises SourceError: if the text ends inside a list or an object.
    """
    if jsonl.looks_like(stream.head):
        yield from jsonl.records(stream)
        return
    cutter = _Cutter()
    for chunk in stream.chunks():
        for piece in cutter.cut(chunk):
            if isinstance(piece, Unusable):
                yield piece
            elif piece.data is None:
                yield Unusable(piece.number, MAX_RECORD_REASON)
            else:
                yield jsonl.record_at(piece.number, piece.data)
    if cutter.is_inside:
        raise SourceError(
            f"{stream.name} is cut off: in line {cutter.line} a list or an object has no end; fetch it again"
        )


def looks_like(head: bytes) -> bool:
    """Whether the text begins as a list or an object does."""
    return head.lstrip()[:1] in (b"[", b"{")


class _Cutter:
    """Cuts a JSON text that arrives in chunks into its records.

    `depth` counts open brackets. `list_depth` is the depth inside the list whose items are records, or None. While a
    top-level object is open and has shown no such list, it is held as a record itself: a list is one only if it begins
    with an object, and nothing that only a paper has stands before it.
    """

    def __init__(self) -> None:
        self.line = 1
        self.depth = 0
        self.list_depth: int | None = None
        self.quoted = False
        self._wrapped = False
        self._may_wrap = False  # the mark before this one opened a list that may hold the records
        self._envelope_depth = 1  # of the objects in which such a list may stand
        self._keys: set[bytes] = set()  # of the top-level object, those that may tell that it is a paper
        self._is_key = False  # of the string that is open
        self._mark = b""  # the last one
        self._stray_told = False
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._held_line = 1
        self._key = b""
        self._chunk = b""
        self._start = 0  # in the chunk: where what is to be held begins
        self._counted = 0  # in the chunk: up to where `line` has counted newlines
        self._resume = 0  # in the next chunk: 1 if a backslash ended this one

    @property
    def is_inside(self) -> bool:
        """Whether a list, an object or a string is open."""
        return self.quoted or self.depth > 0

    def cut(self, chunk: bytes) -> Iterator[Line | Unusable]:
        """Return the records that end in this chunk."""
        self._chunk, self._start, self._counted = chunk, 0, 0
        position, self._resume = self._resume, 0
        while position < len(chunk):
            if self.quoted:
                position = self._after_string(position)
                continue
            match = _MARKS.search(chunk, position)
            at = match.start() if match else len(chunk)
            if self.depth == 0 and not _is_blank(chunk[position:at]):
                yield from self._stray(at)
            position = at + 1
            if not match:
                break
            mark = match[0]
            self._may_wrap = self._may_wrap and mark == b"{"
            before, self._mark = self._mark, mark
            if self.depth == 0 and mark not in _OPENING:
                yield from self._stray(at)
            if mark == b'"':
                self.quoted, self._key, self._is_key = True, b"", before in (b"{", b",")
            elif mark in _OPENING:
                self._open(mark, at)
            elif mark != b",":
                yield from self._close(at)
            elif self.depth == self.list_depth:
                yield from self._item(at, is_last=False)
        # Inside a wrapping object but outside of its list there is nothing to hold, nor between top-level values.
        if self.depth > 0 and (self.list_depth is not None or not self._wrapped):
            self._hold(len(chunk))
        self._line_at(len(chunk))

    def _after_string(self, position: int) -> int:
        """Return where the chunk goes on behind the string that is open at a position."""
        match = _STRING.match(self._chunk, position)
        end = match.end() if match else position
        self._key = (self._key + self._chunk[position:end][:_MAX_KEY_BYTES])[:_MAX_KEY_BYTES]
        if end < len(self._chunk):
            self.quoted = self._chunk[end] != ord('"')
            self._resume = int(self.quoted)  # a backslash ends the chunk; what it escapes begins the next one
            if self.depth == 1 and self._is_key and not self.quoted:
                self._keys |= {self._key.lower()} & _TELLING
        return end + 1

    def _open(self, mark: bytes, at: int) -> None:
        if self.depth == 0:
            self._stray_told = False
            self._begin(at)
            if mark == b"[":
                self.list_depth = 1
                self._begin(at + 1)
            self._may_wrap, self._keys, self._envelope_depth = False, set(), 1
        elif self.list_depth is None:
            self._look_for_list(mark, at)
        self.depth += 1

    def _look_for_list(self, mark: bytes, at: int) -> None:
        """See whether the records' list begins here, inside a top-level object."""
        if mark == b"{" and self._may_wrap:
            self.list_depth, self._wrapped = self.depth, True
            self._begin(at)
        elif mark == b"{" and self.depth == 1 and self._key.lower() in _ENVELOPES:
            self._envelope_depth = 2
        of_a_paper = _WRAPPERS.get(self._key.lower(), self._keys)
        is_here = mark == b"[" and self.depth == self._envelope_depth
        self._may_wrap = is_here and self._key.lower() in _WRAPPERS and of_a_paper.isdisjoint(self._keys)

    def _close(self, at: int) -> Iterator[Line | Unusable]:
        if self.depth == 0:
            return
        self.depth -= 1
        if self.depth == 1:
            self._envelope_depth = 1
        if self.list_depth == self.depth + 1:
            yield from self._item(at, is_last=True)
            self.list_depth = None
        elif self.depth == 0 and not self._wrapped:
            yield self._taken(at + 1)
        self._wrapped = self._wrapped and self.depth > 0

    def _item(self, end: int, *, is_last: bool) -> Iterator[Line | Unusable]:
        piece = self._taken(end)
        if piece.data is None or piece.data:
            yield piece
        elif not is_last:
            yield Unusable(piece.number, "the list has nothing between two commas")
        self._begin(end + 1)

    def _stray(self, at: int) -> Iterator[Unusable]:
        if not self._stray_told:
            self._stray_told = True
            yield Unusable(self._line_at(at), _STRAY)

    def _begin(self, at: int) -> None:
        self._held, self._held_bytes, self._start = [], 0, at
        self._held_line = self._line_at(at)

    def _hold(self, end: int) -> None:
        piece = self._chunk[self._start : end]
        if not self._held_bytes:
            content = piece.lstrip()
            self._held_line += piece.count(b"\n", 0, len(piece) - len(content))
            piece = content
        self._held_bytes += len(piece)
        if self._held_bytes <= MAX_RECORD_BYTES:
            self._held.append(piece)
        else:
            self._held.clear()

    def _taken(self, end: int) -> Line:
        self._hold(end)
        return Line(self._held_line, b"".join(self._held) if self._held_bytes <= MAX_RECORD_BYTES else None)

    def _line_at(self, at: int) -> int:
        self.line += self._chunk.count(b"\n", self._counted, at)
        self._counted = max(at, self._counted)
        return self.line


def _is_blank(data: bytes) -> bool:
    return not data or data.isspace()


READER = Reader("json", (".json",), looks_like, records)
