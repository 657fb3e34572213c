"""What stands in a row, and how is damage of it noticed?

Every row and every vector carries a digest that is checked whenever it is read, because SQLite itself notices a flipped
bit only by luck.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from semsearch.errors import LibraryDamageError, NotEncodedError
from semsearch.papers import Paper

DELETION, VERSION, PURGED = 0, 1, 2
HEAD_COLUMNS = "c.seq, c.kind, c.paper_id, c.origin, c.content_digest, c.head_digest"
CHANGE_COLUMNS = f"{HEAD_COLUMNS}, c.text_digest, c.content, c.digest"


@dataclass(frozen=True, slots=True)
class Embedding:
    """One vector, shape (dimension,), float32, unit length, of the text with this digest; `tokens` before any cut."""

    text_digest: bytes
    vector: NDArray[np.float32]
    tokens: int


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a paper as the library holds it."""

    seq: int
    paper: Paper
    text_digest: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was answered to a request, named by its sender's key and by the digest of what was sent."""

    key: str
    request: bytes
    answer: str


ChangeRow = tuple[int, int, str, str, bytes | None, bytes, bytes | None, str | None, bytes]


def text_digest(text: str) -> bytes:
    """Return the 16 bytes that name this exact text: the head of its SHA-256."""
    return hashlib.sha256(text.encode()).digest()[:16]


class Head(NamedTuple):
    """What a change says without its content."""

    seq: int
    kind: int
    paper_id: str
    origin: str
    content_digest: bytes | None


def version_row(seq: int, paper: Paper, origin: str) -> ChangeRow:
    """Return the row of a paper's version."""
    content = paper.to_json()
    return _row(Head(seq, VERSION, paper.paper_id, origin, content_digest(content)), text_digest(paper.text), content)


def bare_row(seq: int, kind: int, paper_id: str, origin: str) -> ChangeRow:
    """Return the row of a change without content: a deletion, or what purging leaves."""
    return _row(Head(seq, kind, paper_id, origin, None), None, None)


def _row(head: Head, text: bytes | None, content: str | None) -> ChangeRow:
    digest = head_digest(*head)
    return (*head, digest, text, content, change_digest(digest, text, content))


def content_digest(content: str) -> bytes:
    """Return the 16 bytes that name a paper's canonical JSON: the head of its SHA-256."""
    return hashlib.sha256(content.encode()).digest()[:16]


def head_digest(seq: int, kind: int, paper_id: str, origin: str, content_digest: bytes | None) -> bytes:
    """Return the digest of a change without its content."""
    return xxhash.xxh3_64_digest(f"{seq}\0{kind}\0{paper_id}\0{origin}\0".encode() + (content_digest or b""))


def change_digest(head_digest: bytes, text_digest: bytes | None, content: str | None) -> bytes:
    """Return the digest of a whole change."""
    return xxhash.xxh3_128_digest(head_digest + (text_digest or b"") + (content or "").encode())


def embedding_row(encoder: int, embedding: Embedding) -> tuple[int, bytes, int, bytes, bytes]:
    """Return the row of an embedding, without its number."""
    vector = embedding.vector.astype("<f4").tobytes()
    digest = embedding_digest(encoder, embedding.text_digest, embedding.tokens, vector)
    return encoder, embedding.text_digest, embedding.tokens, vector, digest


def embedding_digest(encoder: int, text: bytes, tokens: int, vector: bytes) -> bytes:
    """Return the digest of an embedding."""
    return xxhash.xxh3_128_digest(f"{encoder}\0{tokens}\0".encode() + text + vector)


def receipt_digest(key: str, request: bytes, answer: str, day: int) -> bytes:
    """Return the digest of a receipt."""
    return xxhash.xxh3_128_digest(f"{key}\0{answer}\0{day}\0".encode() + request)


def matches(digest: object, compute: Callable[..., bytes], fields: Iterable[object]) -> bool:
    """Return whether the fields have this digest; damage may have made them of any type."""
    try:
        return compute(*fields) == digest
    except (TypeError, AttributeError, UnicodeError):
        return False


def damaged_row(path: Path, paper_id: object, seq: object) -> str:
    """Return what to say of a change that fails its digest."""
    return (
        f"{path}: the stored row of paper {paper_id!r} (seq {seq}) fails its digest; restore the file from a backup, "
        "or index the paper's source again under another --origin"
    )


def checked_head(row: Sequence[Any], path: Path) -> Head:
    """Return what a change says without its content; the row has the head's fields and then its digest.

    :raises LibraryDamageError: naming the paper, if it fails its digest.
    """
    head = Head(*row[:5])
    if not matches(row[5], head_digest, head):
        raise LibraryDamageError(damaged_row(path, head.paper_id, head.seq))
    return head


def is_embedding(row: Sequence[Any]) -> bool:
    """Return whether encoder, text digest, tokens, vector and digest are what was written."""
    return matches(row[4], embedding_digest, row[:4])


def is_receipt(row: Sequence[Any]) -> bool:
    """Return whether key, request, answer, day and digest are what was written."""
    return matches(row[4], receipt_digest, row[:4])


def check_change(row: ChangeRow, path: Path) -> None:
    """Do nothing for a change that is what was written.

    :raises LibraryDamageError: naming the paper, if it is not.
    """
    if not (matches(row[5], head_digest, row[:5]) and matches(row[8], change_digest, row[5:8])):
        raise LibraryDamageError(damaged_row(path, row[2], row[0]))


def version_of(row: ChangeRow, path: Path) -> Version:
    """Return the version that this row, which was checked, holds.

    :raises LibraryDamageError: if it holds none.
    """
    if row[1] != VERSION or row[6] is None or row[7] is None:
        raise LibraryDamageError(f"{path}: seq {row[0]} is no version of a paper")
    return Version(row[0], Paper.from_json(row[7]), row[6])


def checked_vector(row: Sequence[object], encoder: int, path: Path) -> NDArray[np.float32]:
    """Return the vector beside a change: the change's columns, then vector, tokens and digest of the embedding.

    :raises LibraryDamageError: naming the paper, if either fails its digest.
    :raises NotEncodedError: if there is no embedding.
    """
    change: ChangeRow = tuple(row[:9])  # type: ignore[assignment]
    check_change(change, path)
    vector, tokens, digest = row[9:]
    if vector is None:
        raise NotEncodedError(
            f"paper {change[2]!r} (seq {change[0]}) has no embedding of this encoder; encode and publish it with: "
            f"semsearch index --index {path.parent}"
        )
    if not isinstance(vector, bytes) or not matches(digest, embedding_digest, (encoder, change[6], tokens, vector)):
        raise LibraryDamageError(f"{path}: the embedding of paper {change[2]!r} (seq {change[0]}) fails its digest")
    return np.frombuffer(vector, dtype="<f4")
