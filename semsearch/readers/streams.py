"""What bytes does a source hold, and where do its lines end?

Plain, gzip and Zstandard content, told apart by their first bytes. Whatever the size of the source, no more than one
record (8 MiB) and one slice of unpacked content are held at a time.
"""

import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from semsearch.errors import SourceError

MAX_RECORD_BYTES = 8 * 1024 * 1024
MAX_RECORD_REASON = "the record has more than 8 MiB"
HEAD_BYTES = 16 * 1024

FREE_UNPACKED_BYTES = 64 * 1024 * 1024
MAX_UNPACKING_RATIO = 100

_BLOCK_BYTES = 64 * 1024
_SLICE_BYTES = 1024
"""Fed to the unpacker at once. Zstandard can unpack 4 bytes to 128 KiB, so that one slice becomes 32 MiB at worst."""
_CHUNK_BYTES = 1024 * 1024
_MAX_ZSTD_WINDOW = 128 * 1024 * 1024

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"  # from the second byte on
_FOREIGN_MAGIC = {
    b"PK\x03\x04": "a ZIP archive; unpack it first",
    b"\xfd7zXZ\x00": "packed with xz; unpack it first",
    b"BZh91AY&SY": "packed with bzip2; unpack it first",
    _GZIP_MAGIC: "packed twice; unpack it once first",
    _ZSTD_MAGIC: "packed twice; unpack it once first",
    b"%PDF-": "a PDF, not a list of papers",
    b"\xff\xfe": "encoded in UTF-16; convert it to UTF-8, for example with: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "encoded in UTF-16; convert it to UTF-8, for example with: iconv -f UTF-16 -t UTF-8",
}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """One line without its newline; `data` is None where the line has more than 8 MiB."""

    number: int
    data: bytes | None


class Stream:
    """The unpacked content of one file, to be read once.

    `name` is how messages call the file. `wrong_kind` says what the content is if it cannot be text in UTF-8, else it
    is None.
    """

    def __init__(self, name: str, chunks: Iterator[bytes]) -> None:
        self.name = name
        self._chunks = chunks
        self._ahead: list[bytes] = []
        self._failure: SourceError | None = None
        start = self._look_ahead()
        self.wrong_kind = _wrong_kind(start)
        self._drop_byte_order_mark()
        self._head = self._ahead[0][:HEAD_BYTES] if self._ahead else b""

    @property
    def head(self) -> bytes:
        """The first bytes, not consumed: up to 16 KiB, cut after a newline if there is one and more may follow."""
        if len(self._head) < HEAD_BYTES:
            return self._head
        return self._head[: self._head.rfind(b"\n") + 1] or self._head

    def chunks(self) -> Iterator[bytes]:
        """Return the content in pieces of at most 1 MiB.

        :raises SourceError: where the file is damaged, after what came before the damage.
        """
        yield from _recut(self._ahead)
        self._ahead = []
        if self._failure:
            raise self._failure
        yield from _recut(self._chunks)

    def lines(self) -> Iterator[Line]:
        r"""Return the lines, split at \n only and numbered from 1.

        :raises SourceError: where the file is damaged; a line that the damage cut is not returned.
        """
        number, size, held = 1, 0, list[bytes]()
        for chunk in self.chunks():
            pieces = chunk.split(b"\n")
            for piece in pieces[:-1]:
                if size:
                    held.append(piece)
                    yield Line(number, b"".join(held) if size + len(piece) <= MAX_RECORD_BYTES else None)
                    size, held = 0, []
                else:
                    yield Line(number, piece)
                number += 1
            if pieces[-1]:
                size += len(pieces[-1])
                if size <= MAX_RECORD_BYTES:
                    held.append(pieces[-1])
                else:
                    held.clear()
        if size:
            yield Line(number, b"".join(held) if size <= MAX_RECORD_BYTES else None)

    def _look_ahead(self) -> bytes:
        """Return the first 16 KiB or more; damage found on the way is kept for when it is reached."""
        size = 0
        try:
            while size < HEAD_BYTES and (chunk := next(self._chunks, None)) is not None:
                self._ahead.append(chunk)
                size += len(chunk)
        except SourceError as error:
            self._failure = error
        self._ahead = [b"".join(self._ahead)] if size else []
        return self._ahead[0] if self._ahead else b""

    def _drop_byte_order_mark(self) -> None:
        if self._ahead and self._ahead[0].startswith(_BYTE_ORDER_MARK):
            self._ahead[0] = self._ahead[0].removeprefix(_BYTE_ORDER_MARK)


@contextmanager
def opened(path: Path | None, on_read: Callable[[int], None] = lambda size: None) -> Iterator[Stream]:
    """Return the unpacked stream of a file, or of standard input for None.

    :param on_read: told the size in bytes of every piece of the file as it is read, still packed.

    :raises SourceError: if the file cannot be opened.
    """
    if path is None:
        buffer = getattr(sys.stdin, "buffer", None)
        if buffer is None:
            raise SourceError("there is no standard input; name a file or a folder")
        yield Stream("standard input", _unpacked(buffer, "standard input", on_read))
        return
    name = printable(str(path))
    try:
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise SourceError(f"{name} cannot be opened: {why(error)}") from error
    with file:
        yield Stream(name, _unpacked(file, name, on_read))


def printable(name: str) -> str:
    """Return the name with what cannot be shown (control characters, undecodable bytes) as escapes."""
    if name.isprintable():
        return name
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in name
    )


def why(error: OSError | ValueError) -> str:
    """Return the operating system's word on an error, without number and path."""
    return getattr(error, "strerror", None) or str(error)


def _blocks(file: BinaryIO, name: str, on_read: Callable[[int], None]) -> Iterator[bytes]:
    while True:
        try:
            block = file.read(_BLOCK_BYTES)
        except (OSError, ValueError) as error:
            raise SourceError(f"{name} cannot be read on: {why(error)}; nothing after this point was read") from error
        if not block:
            return
        on_read(len(block))
        yield block


class _Unpacker(Protocol):
    """What zlib's and Zstandard's unpacking objects have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _unpacked(file: BinaryIO, name: str, on_read: Callable[[int], None]) -> Iterator[bytes]:
    blocks = _blocks(file, name, on_read)
    first = next(blocks, b"")
    if first.startswith(_GZIP_MAGIC):
        return _inflated(first, blocks, lambda: zlib.decompressobj(wbits=31), zlib.error, name)
    if first.startswith(_ZSTD_MAGIC) or first[1:4] == _ZSTD_SKIPPABLE_MAGIC:
        import zstandard  # here, so that reading plain files does not need it

        context = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
        return _inflated(first, blocks, context.decompressobj, zstandard.ZstdError, name)
    return _chain(first, blocks)


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _inflated(
    first: bytes, rest: Iterator[bytes], new: Callable[[], _Unpacker], error_class: type[Exception], name: str
) -> Iterator[bytes]:
    """Return the unpacked content of one or more packed parts (gzip members, Zstandard frames) laid end to end."""
    unpacker = new()
    taken = given = 0
    for block in _chain(first, rest):
        for start in range(0, len(block), _SLICE_BYTES):
            packed = block[start : start + _SLICE_BYTES]
            taken += len(packed)
            while packed:
                if unpacker.eof:
                    packed = packed.lstrip(b"\x00")  # tape and block tools pad with zeros behind the last part
                    if not packed:
                        break
                    unpacker = new()
                try:
                    content = unpacker.decompress(packed)
                except error_class as error:
                    raise SourceError(
                        f"{name} is damaged: it cannot be unpacked past {given:,} bytes of content ({error}); "
                        "fetch or pack it again"
                    ) from error
                given += len(content)
                if given > FREE_UNPACKED_BYTES and given > MAX_UNPACKING_RATIO * taken:
                    raise SourceError(
                        f"{name} unpacks to more than {MAX_UNPACKING_RATIO} times its size, as a decompression bomb "
                        "does; if it is genuine, unpack it and read the plain file"
                    )
                if content:
                    yield content
                packed = unpacker.unused_data
    if not unpacker.eof:
        raise SourceError(
            f"{name} is cut off: its packed content has no end after {given:,} bytes of content; fetch or pack it again"
        )


def _recut(chunks: Iterator[bytes] | list[bytes]) -> Iterator[bytes]:
    """Return the same content in pieces of bounded size, so that splitting one into lines stays small."""
    for chunk in chunks:
        if len(chunk) <= _CHUNK_BYTES:
            yield chunk
        else:
            for start in range(0, len(chunk), _CHUNK_BYTES):
                yield chunk[start : start + _CHUNK_BYTES]


def _wrong_kind(start: bytes) -> str | None:
    if start.startswith(b"PK\x03\x04") and b"[Content_Types].xml" in start:
        return "an Excel workbook or another document of Office; save it as CSV in UTF-8"
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    for magic, kind in _FOREIGN_MAGIC.items():
        if start.startswith(magic):
            return kind
    sample = start[: HEAD_BYTES // 2 * 2]
    if len(sample) >= 4 and {sample[0::2].count(0), sample[1::2].count(0)} == {0, len(sample) // 2}:
        return _FOREIGN_MAGIC[b"\xff\xfe"]  # UTF-16 without its mark: Latin text has every other byte zero
    return None
