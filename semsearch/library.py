"""What is known about every paper, and which embeddings were ever computed?

The library is one SQLite file and the only truth of an index: everything else can be rebuilt from it without encoding
anything. It only ever appends: a version of a paper, or its deletion, is a row with its own `seq`; nothing is rewritten
in place except by `purge`, whose purpose that is. A commit that returned is on the disk (WAL, synchronous=FULL).

Every row and every vector carries a digest that is checked whenever it is read, because SQLite itself notices a flipped
bit only by luck.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from semsearch.errors import IndexMissingError, LibraryDamageError, SemsearchError
from semsearch.papers import Paper

FORMAT_VERSION = 1
_APPLICATION_ID = 0x53656D53  # "SemS", so that `file` and we can tell a library from any other SQLite file
_BUSY_TIMEOUT_MILLISECONDS = 30_000
_IDS_PER_QUERY = 1_000
_ROWS_PER_READ = 2_000

DELETION, VERSION, PURGED = 0, 1, 2

_SCHEMA = f"""
CREATE TABLE changes (
    seq            INTEGER PRIMARY KEY,
    kind           INTEGER NOT NULL,  -- {DELETION} deletion, {VERSION} version, {PURGED} purged version
    paper_id       TEXT NOT NULL,
    origin         TEXT NOT NULL,     -- the import that this change came by
    content        TEXT,              -- the paper as canonical JSON; NULL unless a version
    content_digest BLOB,              -- names the content: equal digests, unchanged paper
    text_digest    BLOB,              -- names the text that is embedded
    digest         BLOB NOT NULL      -- of all the above, to notice damage
);
CREATE INDEX changes_by_paper ON changes (paper_id, origin, seq, kind, content_digest);
CREATE TABLE encoders (
    encoder     INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL
);
CREATE TABLE embeddings (
    embedding   INTEGER PRIMARY KEY,
    encoder     INTEGER NOT NULL REFERENCES encoders,
    text_digest BLOB NOT NULL,
    tokens      INTEGER NOT NULL,     -- of the whole text, before the encoder's limit cuts it
    vector      BLOB NOT NULL,        -- float32, little-endian
    digest      BLOB NOT NULL,
    UNIQUE (encoder, text_digest)
);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {FORMAT_VERSION};
"""

# The last change of each import to each paper; SQLite takes `kind` from the row that holds the maximum.
_HEADS = """
    SELECT paper_id, origin, max(seq) AS seq, kind, content_digest FROM changes
    {where} GROUP BY paper_id, origin
"""


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
class LibraryCounts:
    """How much the library holds: live papers, changes of all kinds, embeddings of all encoders."""

    papers: int
    changes: int
    embeddings: int


def text_digest(text: str) -> bytes:
    """Return the 16 bytes that name this exact text: the head of its SHA-256."""
    return hashlib.sha256(text.encode()).digest()[:16]


class Library:
    """All papers of one index; safe to share between threads, and between processes through the file."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Take over an open connection; use `open` or `create`."""
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()

    @classmethod
    def create(cls, path: Path) -> "Library":
        """Return the library at `path`, made empty first if there is none.

        :raises LibraryDamageError: if the file exists and is not a readable library.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls._connected(path, may_create=True)

    @classmethod
    def open(cls, path: Path) -> "Library":
        """Return the existing library at `path`.

        :raises IndexMissingError: if there is no such file.
        :raises LibraryDamageError: if the file is not a readable library.
        """
        if not path.is_file():
            raise IndexMissingError(f"there is no library at {path}; create one with: semsearch index FILE")
        return cls._connected(path, may_create=False)

    @classmethod
    def _connected(cls, path: Path, *, may_create: bool) -> "Library":
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with _explained(path):
                connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MILLISECONDS}")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA fullfsync = ON")  # macOS: its fsync alone does not reach the disk
                connection.execute("PRAGMA checkpoint_fullfsync = ON")
                connection.execute("PRAGMA secure_delete = ON")  # purged text must not survive in free pages
                connection.execute("PRAGMA temp_store = FILE")  # a run's list of seen ids may outgrow memory
                _prepare_schema(connection, path, may_create=may_create)
        except BaseException:
            connection.close()
            raise
        return cls(path, connection)

    def close(self) -> None:
        """Close the file; the library cannot be used afterwards."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        """Return the library itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the library."""
        self.close()

    # Writing: each call is one transaction, durable when it returns.

    def add_versions(self, origin: str, papers: Sequence[Paper], embeddings: Iterable[Embedding], encoder: int) -> None:
        """Append one version per paper together with the embeddings that were computed for them."""
        with self._transaction() as cursor:
            first_seq = self._last_seq(cursor) + 1
            cursor.executemany(_INSERT_EMBEDDING, [_embedding_row(encoder, embedding) for embedding in embeddings])
            cursor.executemany(
                _INSERT_CHANGE,
                [_version_row(seq, paper, origin) for seq, paper in enumerate(papers, first_seq)],
            )

    def add_embeddings(self, embeddings: Iterable[Embedding], encoder: int) -> None:
        """Store embeddings of texts that the library already holds."""
        with self._transaction() as cursor:
            cursor.executemany(_INSERT_EMBEDDING, [_embedding_row(encoder, embedding) for embedding in embeddings])

    def delete(self, paper_ids: Sequence[str], origin: str | None = None) -> list[str]:
        """Append a deletion for each of these papers that is live; return the ids that were.

        With `origin`, only what that import said of them is deleted: a paper that another import also holds stays.
        """
        deleted: list[str] = []
        with self._transaction() as cursor:
            seq = self._last_seq(cursor)
            for batch in _batches(paper_ids, _IDS_PER_QUERY):
                heads = cursor.execute(_HEADS.format(where=_WHERE_IDS), (json.dumps(batch),)).fetchall()
                for paper_id, head_origin, _, kind, _ in heads:
                    if kind == VERSION and origin in (None, head_origin):
                        seq += 1
                        cursor.execute(_INSERT_CHANGE, _deletion_row(seq, paper_id, head_origin))
                        deleted.append(paper_id)
        return list(dict.fromkeys(deleted))

    def purge(self, paper_ids: Sequence[str]) -> int:
        """Erase the text and embeddings of deleted papers for good; return how many versions were erased.

        :raises SemsearchError: if one of the papers is live, or a reader keeps the old text in the write-ahead log.
        """
        live = self.live_seqs(paper_ids)
        if live:
            raise SemsearchError(f"{len(live)} of these papers are live, such as {min(live)!r}; delete them first")
        with self._transaction() as cursor:
            rows = cursor.execute(
                f"SELECT seq, paper_id, origin, text_digest FROM changes {_WHERE_IDS} AND kind = {VERSION}",
                (json.dumps(list(paper_ids)),),
            ).fetchall()
            for seq, paper_id, origin, _ in rows:
                cursor.execute("DELETE FROM changes WHERE seq = ?", (seq,))
                cursor.execute(_INSERT_CHANGE, _bare_row(seq, PURGED, paper_id, origin))
            orphans = {row[3] for row in rows}
            for digest in orphans:
                cursor.execute(
                    "DELETE FROM embeddings WHERE text_digest = ? "
                    "AND NOT EXISTS (SELECT 1 FROM changes WHERE text_digest = ?)",
                    (digest, digest),
                )
        with self._lock:
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise SemsearchError(
                "the papers are purged, but another process reads the library and keeps their text in its log; "
                "stop it and run the same purge again"
            )
        return len(rows)

    def encoder_number(self, fingerprint: str, name: str) -> int:
        """Return the library's number for the encoder with this fingerprint, registering it when new."""
        with self._transaction() as cursor:
            cursor.execute(
                "INSERT INTO encoders (fingerprint, name) VALUES (?, ?) ON CONFLICT DO NOTHING", (fingerprint, name)
            )
            number: int = cursor.execute(
                "SELECT encoder FROM encoders WHERE fingerprint = ?", (fingerprint,)
            ).fetchone()[0]
            return number

    # One run of an import: which ids its source holds. A temporary table, so that memory stays bounded.

    def start_sightings(self) -> None:
        """Forget which papers were seen, at the start of a run."""
        with self._lock:
            self._connection.execute("DROP TABLE IF EXISTS temp.sightings")
            self._connection.execute(
                "CREATE TEMP TABLE sightings (origin TEXT, paper_id TEXT, place TEXT, PRIMARY KEY (origin, paper_id))"
                " WITHOUT ROWID"
            )

    def sight(self, origin: str, places: Mapping[str, str]) -> dict[str, str]:
        """Note where this run saw these papers; return, for those it had seen before, where that was."""
        with self._lock:
            before = dict(
                self._connection.execute(
                    "SELECT paper_id, place FROM temp.sightings WHERE origin = ? "
                    "AND paper_id IN (SELECT value FROM json_each(?))",
                    (origin, json.dumps(list(places))),
                ).fetchall()
            )
            fresh = [(origin, paper_id, place) for paper_id, place in places.items() if paper_id not in before]
            self._connection.execute("BEGIN")
            self._connection.executemany("INSERT INTO temp.sightings VALUES (?, ?, ?)", fresh)
            self._connection.execute("COMMIT")
            return before

    def unsighted(self, origin: str) -> list[str]:
        """Return the ids that this import holds in the library but that this run did not see."""
        heads = _HEADS.format(where="WHERE origin = :origin")
        with self._lock:
            return [
                paper_id
                for (paper_id,) in self._connection.execute(
                    f"SELECT paper_id FROM ({heads}) WHERE kind = {VERSION} AND paper_id NOT IN "
                    "(SELECT paper_id FROM temp.sightings WHERE origin = :origin) ORDER BY paper_id",
                    {"origin": origin},
                )
            ]

    # Reading

    def last_seq(self) -> int:
        """Return the seq of the newest change, 0 for an empty library."""
        with self._lock:
            return self._last_seq(self._connection.cursor())

    def counts(self) -> LibraryCounts:
        """Return how much the library holds."""
        heads = _HEADS.format(where="")
        with self._lock, _explained(self.path):
            row = self._connection.execute(
                f"SELECT (SELECT count(DISTINCT paper_id) FROM ({heads}) WHERE kind = {VERSION}),"
                " (SELECT count(*) FROM changes), (SELECT count(*) FROM embeddings)"
            ).fetchone()
        return LibraryCounts(*row)

    def known_contents(self, origin: str, paper_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the content digest of this import's last version of each of these papers that it holds."""
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                "SELECT j.value, (SELECT content_digest FROM changes WHERE paper_id = j.value AND origin = ?"
                " ORDER BY seq DESC LIMIT 1) FROM json_each(?) AS j",
                (origin, json.dumps(list(paper_ids))),
            ).fetchall()
        return {paper_id: digest for paper_id, digest in rows if digest is not None}  # a deletion has no content

    def live_seqs(self, paper_ids: Sequence[str]) -> dict[str, int]:
        """Return the seq of the live version of each of these papers that has one.

        Live is the newest among the last words of each import, deletions aside.
        """
        found: dict[str, int] = {}
        with self._lock, _explained(self.path):
            for batch in _batches(paper_ids, _IDS_PER_QUERY):
                found.update(
                    self._connection.execute(
                        f"SELECT paper_id, max(seq) FROM ({_HEADS.format(where=_WHERE_IDS)}) WHERE kind = {VERSION} "
                        "GROUP BY paper_id",
                        (json.dumps(batch),),
                    )
                )
        return found

    def all_live_seqs(self, up_to: int) -> NDArray[np.int64]:
        """Return the seqs of all papers live at seq `up_to`, ascending."""
        heads = _HEADS.format(where="WHERE seq <= ?")
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                f"SELECT max(seq) FROM ({heads}) WHERE kind = {VERSION} GROUP BY paper_id", (up_to,)
            )
            return np.sort(np.fromiter((row[0] for row in rows), dtype=np.int64))

    def touched_after(self, seq: int, up_to: int) -> dict[str, list[int]]:
        """Return the papers that changed after `seq`, up to `up_to`, each with the seqs of all its versions."""
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                "SELECT paper_id, seq FROM changes WHERE paper_id IN "
                "(SELECT paper_id FROM changes WHERE seq > ? AND seq <= ?)"
                f" AND seq <= ? AND kind != {DELETION}",
                (seq, up_to, up_to),
            ).fetchall()
        touched: dict[str, list[int]] = {}
        for paper_id, version in rows:
            touched.setdefault(paper_id, []).append(version)
        return touched

    def versions_of(self, paper_id: str) -> list[int]:
        """Return the seqs of all versions of this paper that still have their text, oldest first."""
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                f"SELECT seq FROM changes WHERE paper_id = ? AND kind = {VERSION} ORDER BY seq", (paper_id,)
            ).fetchall()
        return [row[0] for row in rows]

    def ids_at(self, seqs: Sequence[int]) -> dict[int, str]:
        """Return the paper id of each of these changes."""
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                "SELECT seq, paper_id FROM changes WHERE seq IN (SELECT value FROM json_each(?))",
                (json.dumps(list(seqs)),),
            ).fetchall()
        return dict(rows)

    def versions_at(self, seqs: Sequence[int]) -> dict[int, Version]:
        """Return the versions with these seqs; purged ones are left out.

        :raises LibraryDamageError: naming the paper, if a row fails its digest or is not there.
        """
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                f"SELECT {_CHANGE_COLUMNS} FROM changes c WHERE seq IN (SELECT value FROM json_each(?))",
                (json.dumps(list(seqs)),),
            ).fetchall()
        if len(rows) != len(set(seqs)):
            missing = sorted(set(seqs) - {row[0] for row in rows})
            raise LibraryDamageError(f"{self.path} has lost changes that it held, such as seq {missing[0]}")
        return {row[0]: _checked_version(row, self.path) for row in rows if row[1] != PURGED}

    def missing_texts(self, texts: Sequence[bytes], encoder: int) -> set[bytes]:
        """Return those of these text digests for which this encoder has no embedding yet."""
        present: set[bytes] = set()
        with self._lock, _explained(self.path):
            for batch in _batches(list(texts), 500):
                marks = ",".join("?" * len(batch))
                rows = self._connection.execute(
                    f"SELECT text_digest FROM embeddings WHERE encoder = ? AND text_digest IN ({marks})",
                    (encoder, *batch),
                )
                present.update(row[0] for row in rows)
        return set(texts) - present

    def vectors_at(self, seqs: Sequence[int], encoder: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield (seqs, vectors) of these versions in the order given: shapes (n,) and (n, dimension), n bounded.

        :raises LibraryDamageError: naming the paper, if a row or a vector is missing or fails its digest.
        """
        for batch in _batches(list(seqs), _ROWS_PER_READ):
            with self._lock, _explained(self.path):
                rows = self._connection.execute(
                    f"SELECT {_CHANGE_COLUMNS}, e.vector, e.tokens, e.digest FROM changes c LEFT JOIN embeddings e "
                    "ON e.encoder = ? AND e.text_digest = c.text_digest"
                    " WHERE c.seq IN (SELECT value FROM json_each(?))",
                    (encoder, json.dumps(batch)),
                ).fetchall()
            vectors = {row[0]: _checked_vector(row, encoder, self.path) for row in rows}
            if lost := [seq for seq in batch if seq not in vectors]:
                raise LibraryDamageError(f"{self.path} has lost changes that it held, such as seq {lost[0]}")
            yield np.array(batch, dtype=np.int64), np.stack([vectors[seq] for seq in batch])

    def truncated(self, seqs: Sequence[int], encoder: int, max_tokens: int) -> int:
        """Return how many of these versions have more tokens than the encoder reads."""
        with self._lock, _explained(self.path):
            total = 0
            for batch in _batches(list(seqs), _ROWS_PER_READ):
                total += self._connection.execute(
                    "SELECT count(*) FROM changes c JOIN embeddings e ON e.encoder = ? AND e.text_digest = c.text_digest"
                    " WHERE e.tokens > ? AND c.seq IN (SELECT value FROM json_each(?))",
                    (encoder, max_tokens, json.dumps(batch)),
                ).fetchone()[0]
            return total

    def damage(self) -> Iterator[str]:
        """Yield one line for everything in the file that is not what was written; nothing for a sound library."""
        with self._lock:
            try:
                for (line,) in self._connection.execute("PRAGMA integrity_check(20)").fetchall():
                    if line != "ok":
                        yield f"SQLite: {line}"
                last = self._last_seq(self._connection.cursor())
            except sqlite3.Error as error:
                yield f"SQLite: {error}"
                return
        for start in range(1, last + 1, _ROWS_PER_READ):
            yield from self._damaged_changes(start, min(last, start + _ROWS_PER_READ - 1))
        yield from self._damaged_embeddings()

    def _damaged_changes(self, first: int, last: int) -> Iterator[str]:
        with self._lock:
            rows = self._connection.execute(
                f"SELECT {_CHANGE_COLUMNS} FROM changes c WHERE seq BETWEEN ? AND ?", (first, last)
            ).fetchall()
        for seq in sorted(set(range(first, last + 1)) - {row[0] for row in rows}):
            yield f"change {seq} is missing"
        for row in rows:
            try:
                _check_change(row, self.path)
            except LibraryDamageError as error:
                yield str(error)

    def _damaged_embeddings(self) -> Iterator[str]:
        after = 0
        while True:
            with self._lock:
                rows = self._connection.execute(
                    "SELECT embedding, encoder, text_digest, tokens, vector, digest FROM embeddings "
                    "WHERE embedding > ? ORDER BY embedding LIMIT ?",
                    (after, _ROWS_PER_READ),
                ).fetchall()
            if not rows:
                return
            for number, encoder, text, tokens, vector, digest in rows:
                if _embedding_digest(encoder, text, tokens, vector) != digest:
                    yield f"embedding {number} fails its digest"
            after = rows[-1][0]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._lock, _explained(self.path):
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise

    @staticmethod
    def _last_seq(cursor: sqlite3.Cursor) -> int:
        last: int = cursor.execute("SELECT coalesce(max(seq), 0) FROM changes").fetchone()[0]
        return last


_WHERE_IDS = "WHERE paper_id IN (SELECT value FROM json_each(?))"
_CHANGE_COLUMNS = "c.seq, c.kind, c.paper_id, c.origin, c.content, c.content_digest, c.text_digest, c.digest"
_INSERT_CHANGE = "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_EMBEDDING = (
    "INSERT INTO embeddings (encoder, text_digest, tokens, vector, digest) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)

_Item = TypeVar("_Item")
_ChangeRow = tuple[int, int, str, str, str | None, bytes | None, bytes | None, bytes]


def _version_row(seq: int, paper: Paper, origin: str) -> _ChangeRow:
    content = paper.to_json()
    fields = (seq, VERSION, paper.paper_id, origin, content, content_digest(content), text_digest(paper.text))
    return (*fields, _change_digest(*fields))


def _deletion_row(seq: int, paper_id: str, origin: str) -> _ChangeRow:
    return _bare_row(seq, DELETION, paper_id, origin)


def _bare_row(seq: int, kind: int, paper_id: str, origin: str) -> _ChangeRow:
    return (
        seq,
        kind,
        paper_id,
        origin,
        None,
        None,
        None,
        _change_digest(seq, kind, paper_id, origin, None, None, None),
    )


def content_digest(content: str) -> bytes:
    """Return the 16 bytes that name a paper's canonical JSON: the head of its SHA-256."""
    return hashlib.sha256(content.encode()).digest()[:16]


def _change_digest(
    seq: int,
    kind: int,
    paper_id: str,
    origin: str,
    content: str | None,
    content_digest: bytes | None,
    text_digest: bytes | None,
) -> bytes:
    head = f"{seq}\0{kind}\0{paper_id}\0{origin}\0{content}\0".encode()
    return xxhash.xxh3_128_digest(head + (content_digest or b"") + (text_digest or b""))


def _embedding_row(encoder: int, embedding: Embedding) -> tuple[int, bytes, int, bytes, bytes]:
    vector = embedding.vector.astype("<f4").tobytes()
    digest = _embedding_digest(encoder, embedding.text_digest, embedding.tokens, vector)
    return encoder, embedding.text_digest, embedding.tokens, vector, digest


def _embedding_digest(encoder: int, text: bytes, tokens: int, vector: bytes) -> bytes:
    return xxhash.xxh3_128_digest(f"{encoder}\0{tokens}\0".encode() + text + vector)


def _check_change(row: _ChangeRow, path: Path) -> None:
    try:
        sound = _change_digest(*row[:7]) == row[7]
    except (TypeError, UnicodeError):
        sound = False
    if not sound:
        raise LibraryDamageError(
            f"{path}: the stored row of paper {row[2]!r} (seq {row[0]}) fails its digest; restore the file from a backup, "
            "or index the paper's source again under another --origin"
        )


def _checked_version(row: _ChangeRow, path: Path) -> Version:
    _check_change(row, path)
    if row[1] != VERSION or row[4] is None or row[6] is None:
        raise LibraryDamageError(f"{path}: seq {row[0]} is no version of a paper")
    return Version(row[0], Paper.from_json(row[4]), row[6])


def _checked_vector(row: Sequence[object], encoder: int, path: Path) -> NDArray[np.float32]:
    change: _ChangeRow = tuple(row[:8])  # type: ignore[assignment]
    _check_change(change, path)
    vector, tokens, digest = row[8:]
    if not isinstance(vector, bytes) or not isinstance(tokens, int) or change[6] is None:
        raise LibraryDamageError(f"{path}: paper {change[2]!r} (seq {change[0]}) has no embedding of this encoder")
    if _embedding_digest(encoder, change[6], tokens, vector) != digest:
        raise LibraryDamageError(f"{path}: the embedding of paper {change[2]!r} (seq {change[0]}) fails its digest")
    return np.frombuffer(vector, dtype="<f4")


def _prepare_schema(connection: sqlite3.Connection, path: Path, *, may_create: bool) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application == 0 and tables == 0 and may_create:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
    elif application != _APPLICATION_ID:
        raise LibraryDamageError(f"{path} is not a semsearch library")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT_VERSION:
        raise LibraryDamageError(
            f"{path} has library format {version}, this semsearch reads {FORMAT_VERSION}; use the semsearch that wrote it"
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, with the way out."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
            raise SemsearchError(f"{path}: the disk is full; free some space and run the same command again") from error
        raise SemsearchError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise LibraryDamageError(f"{path}: {error}; restore it from a backup") from error


def _batches(items: Sequence[_Item], size: int) -> Iterator[list[_Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
