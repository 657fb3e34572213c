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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from semsearch.durable import make_folder, name_file, sync_file, sync_folder
from semsearch.errors import (
    IndexBusyError,
    IndexMissingError,
    KeyUsedError,
    LibraryDamageError,
    NotEncodedError,
    SemsearchError,
)
from semsearch.papers import Paper

FORMAT_VERSION = 1
_APPLICATION_ID = 0x53656D53  # "SemS", so that `file` and we can tell a library from any other SQLite file
_BUSY_TIMEOUT_MILLISECONDS = 30_000
_IDS_PER_QUERY = 1_000
_ROWS_PER_READ = 2_000
_NO_END = 2**62  # greater than any seq
_DAYS_OF_RECEIPTS = 8
_SECONDS_PER_DAY = 86_400

DELETION, VERSION, PURGED = 0, 1, 2

_RECEIPTS = """
CREATE TABLE IF NOT EXISTS receipts (
    key     TEXT PRIMARY KEY,
    request BLOB NOT NULL,            -- digest of what was sent under this key
    answer  TEXT NOT NULL,
    day     INTEGER NOT NULL,         -- on which it was given, counted from 1970
    digest  BLOB NOT NULL             -- of all the above
) WITHOUT ROWID;
"""
"""A table that a library gets with its first receipt: most never do."""

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS changes (
    seq            INTEGER PRIMARY KEY,
    kind           INTEGER NOT NULL,  -- {DELETION} deletion, {VERSION} version, {PURGED} purged version
    paper_id       TEXT NOT NULL,
    origin         TEXT NOT NULL,     -- the import that this change came by
    content_digest BLOB,              -- names the content: equal digests, unchanged paper; NULL unless a version
    head_digest    BLOB NOT NULL,     -- of all the above, so that the index, which repeats it, is checked as well
    text_digest    BLOB,              -- names the text that is embedded
    content        TEXT,              -- the paper as canonical JSON
    digest         BLOB NOT NULL      -- of all the above, to notice damage
);
CREATE INDEX IF NOT EXISTS changes_by_paper ON changes (paper_id, origin, seq, kind, content_digest, head_digest);
CREATE TABLE IF NOT EXISTS encoders (
    encoder     INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS embeddings (
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
        self._is_log_named = False

    @classmethod
    def create(cls, path: Path) -> "Library":
        """Return the library at `path`, made empty first if there is none.

        :raises IndexMissingError: if there is none, but a log of one.
        :raises LibraryDamageError: if the file exists and is not a readable library.
        """
        make_folder(path.parent)
        if not path.exists():
            cls._make_empty(path)
        return cls._connected(path, may_create=True)

    @classmethod
    def _make_empty(cls, path: Path) -> None:
        """Bring an empty library to the disk in one step: a power cut must not leave half of one, which nobody reads.

        It is SQLite that puts the file together, so that is done aside.
        """
        if (
            path.with_name(f"{path.name}-wal").exists() and not path.exists()
        ):  # it may hold papers, and would be put into the new file
            raise IndexMissingError(f"{path} is missing although its log is there; restore it from a backup")
        with TemporaryDirectory(dir=path.parent, prefix=f"{path.name}-") as aside:
            made = Path(aside) / path.name
            cls._connected(made, may_create=True).close()
            sync_file(made)
            name_file(made, path)

    @classmethod
    def open(cls, path: Path) -> "Library":
        """Return the existing library at `path`.

        :raises IndexMissingError: if there is no such file.
        :raises LibraryDamageError: if the file is not a readable library.
        """
        if not path.is_file():
            raise IndexMissingError(
                f"there is no library at {path}; create one with: semsearch index --index {path.parent} FILE"
            )
        return cls._connected(path, may_create=False)

    @classmethod
    def _connected(cls, path: Path, *, may_create: bool) -> "Library":
        with _explained(path):
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.text_factory = _tolerant_text
        try:
            with _explained(path):
                connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MILLISECONDS}")
                _check_format(connection, path, may_be_empty=may_create)
                _use_write_ahead_log(connection, path)
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA fullfsync = ON")  # macOS: its fsync alone does not reach the disk
                connection.execute("PRAGMA checkpoint_fullfsync = ON")
                connection.execute("PRAGMA secure_delete = ON")  # purged text must not survive in free pages
                connection.execute("PRAGMA temp_store = FILE")  # a run's list of seen ids may outgrow memory
                if may_create and _is_empty(connection):
                    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
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

    @contextmanager
    def one_commit(self) -> Iterator[None]:
        """Make one transaction of all that is written within, durable when this ends and undone if it raises."""
        with self._transaction():
            yield

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

    def keep_receipt(self, receipt: Receipt) -> None:
        """Remember what was answered, for a week at least.

        :raises KeyUsedError: if there is an answer under this key already.
        """
        today = int(time.time() // _SECONDS_PER_DAY)
        row = (receipt.key, receipt.request, receipt.answer, today)
        with self._transaction() as cursor:
            cursor.execute(_RECEIPTS)
            cursor.execute("DELETE FROM receipts WHERE day < ?", (today - _DAYS_OF_RECEIPTS,))
            cursor.execute(
                "INSERT INTO receipts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", (*row, _receipt_digest(*row))
            )
            if not cursor.rowcount:
                raise KeyUsedError(f"the key {receipt.key!r} was used by another request meanwhile; send it again")

    def receipt(self, key: str) -> Receipt | None:
        """Return what was answered under this key, None if nothing was."""
        with self._lock, _explained(self.path):
            if not self._has_receipts():
                return None
            row = self._connection.execute("SELECT * FROM receipts WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        if not _matches(row[4], _receipt_digest, row[:4]):
            raise LibraryDamageError(f"{self.path}: the receipt of a request fails its digest; use another key")
        return Receipt(*row[:3])

    def _has_receipts(self) -> bool:
        found = self._connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'receipts'").fetchone()[0]
        return bool(found)

    def delete(self, paper_ids: Sequence[str], origin: str | None = None) -> list[str]:
        """Append a deletion for each of these papers that is live; return the ids that were.

        With `origin`, only what that import said of them is deleted: a paper that another import also holds stays.
        """
        deleted: dict[str, None] = {}
        with self._transaction() as cursor:
            seq = self._last_seq(cursor)
            for batch in _batches(paper_ids, _IDS_PER_QUERY):
                for head in self._heads(batch):
                    if head.kind == VERSION and origin in (None, head.origin):
                        seq += 1
                        cursor.execute(_INSERT_CHANGE, _bare_row(seq, DELETION, head.paper_id, head.origin))
                        deleted[head.paper_id] = None
        return list(deleted)

    def purge(self, paper_ids: Sequence[str]) -> int:
        """Erase the text and embeddings of deleted papers for good; return how many versions were erased.

        Rewrites the whole file, so this needs time and as much free space again as the file has.

        :raises SemsearchError: if one of the papers is live, or a reader keeps the old text in the write-ahead log.
        """
        with self._transaction() as cursor:
            if live := self.live_seqs(paper_ids):
                raise SemsearchError(f"{len(live)} of these papers are live, such as {min(live)!r}; delete them first")
            rows = cursor.execute(
                f"SELECT seq, paper_id, origin, hex(text_digest) FROM changes {_WHERE_IDS} AND kind = {VERSION}",
                (json.dumps(list(paper_ids)),),
            ).fetchall()
            for seq, paper_id, origin, _ in rows:
                cursor.execute("DELETE FROM changes WHERE seq = ?", (seq,))
                cursor.execute(_INSERT_CHANGE, _bare_row(seq, PURGED, paper_id, origin))
            cursor.execute(_DELETE_ORPHANS, {"texts": json.dumps(sorted({row[3] for row in rows}))})
        with self._lock, _explained(self.path):
            # Splitting and merging pages leaves copies of rows behind that secure_delete does not know of.
            self._connection.execute("VACUUM")
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise SemsearchError(
                "the papers are purged, but another process reads the library and keeps their text in its log; "
                "stop it and run the same purge again"
            )
        return len(rows)

    def encoder_number(self, fingerprint: str, name: str) -> int:
        """Return the library's number for the encoder with this fingerprint, registering it when new."""
        number = self.known_encoder(fingerprint)
        if number is None:
            with self._transaction() as cursor:
                cursor.execute(
                    "INSERT INTO encoders (fingerprint, name) VALUES (?, ?) ON CONFLICT DO NOTHING", (fingerprint, name)
                )
                number = self.known_encoder(fingerprint)
        assert number is not None, "the encoder was registered"
        return number

    def known_encoder(self, fingerprint: str) -> int | None:
        """Return the library's number for the encoder with this fingerprint, None if it has never met it."""
        with self._lock, _explained(self.path):
            row = self._connection.execute(
                "SELECT encoder FROM encoders WHERE fingerprint = ?", (fingerprint,)
            ).fetchone()
        return row[0] if row else None

    # One run of an import: which ids its source holds. A temporary table, so that memory stays bounded.

    def start_sightings(self) -> None:
        """Forget which papers were seen, at the start of a run."""
        with self._lock, _explained(self.path):
            self._connection.execute("DROP TABLE IF EXISTS temp.sightings")
            self._connection.execute(
                "CREATE TEMP TABLE sightings (origin TEXT, paper_id TEXT, place TEXT, PRIMARY KEY (origin, paper_id))"
                " WITHOUT ROWID"
            )

    def sight(self, origin: str, places: Mapping[str, str]) -> dict[str, str]:
        """Note where this run saw these papers; return, for those it had seen before, where that was."""
        with self._transaction("DEFERRED") as cursor:
            before = dict(
                cursor.execute(
                    "SELECT paper_id, place FROM temp.sightings WHERE origin = ? AND place IS NOT NULL "
                    "AND paper_id IN (SELECT value FROM json_each(?))",
                    (origin, json.dumps(list(places))),
                ).fetchall()
            )
            fresh = [(origin, paper_id, place) for paper_id, place in places.items() if paper_id not in before]
            cursor.executemany("INSERT OR REPLACE INTO temp.sightings VALUES (?, ?, ?)", fresh)
            return before

    def glimpse(self, origin: str, paper_ids: Iterable[str]) -> None:
        """Note that this run met these papers, but only in records that are no papers."""
        with self._transaction("DEFERRED") as cursor:
            cursor.executemany(
                "INSERT OR IGNORE INTO temp.sightings VALUES (?, ?, NULL)", [(origin, each) for each in paper_ids]
            )

    def unsighted(self, origin: str) -> list[str]:
        """Return the ids that this import holds in the library but that this run did not see."""
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                f"SELECT {_HEAD_COLUMNS} FROM changes c INDEXED BY changes_by_paper WHERE origin = :origin AND "
                "paper_id NOT IN (SELECT paper_id FROM temp.sightings WHERE origin = :origin)"
                " ORDER BY paper_id, origin, seq",
                {"origin": origin},
            )
            return [head.paper_id for head in _last_of_each(self._checked_heads(rows)) if head.kind == VERSION]

    # Reading

    def last_seq(self) -> int:
        """Return the seq of the newest change, 0 for an empty library."""
        with self._lock, _explained(self.path):
            return self._last_seq(self._connection.cursor())

    def change_name(self, seq: int) -> str:
        """Return what tells this change from any other that could have this seq; "" for seq 0."""
        row = self._head_row(seq)
        return row[5].hex() if row else ""

    def is_change(self, seq: int, name: str) -> bool:
        """Return whether the change with this seq is the one of this name; a purged one is believed to be."""
        row = self._head_row(seq)
        return (row[5].hex() == name or row[1] == PURGED) if row else not name

    def _head_row(self, seq: int) -> Any:
        with self._lock, _explained(self.path):
            rows = self._connection.execute(f"SELECT {_HEAD_COLUMNS} FROM changes c WHERE seq = ?", (seq,)).fetchall()
        for _ in self._checked_heads(rows):
            return rows[0]
        return None

    def counts(self) -> LibraryCounts:
        """Return how much the library holds."""
        with self._lock, _explained(self.path):
            papers = len(self.all_live_seqs(self.last_seq()))
            row = self._connection.execute(
                "SELECT (SELECT count(*) FROM changes), (SELECT count(*) FROM embeddings)"
            ).fetchone()
        return LibraryCounts(papers, *row)

    def known_contents(self, origin: str, paper_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the content digest of this import's last version of each of these papers that it holds."""
        return {
            head.paper_id: head.content_digest
            for batch in _batches(paper_ids, _IDS_PER_QUERY)
            for head in self._heads(batch)
            if head.origin == origin and head.content_digest is not None  # a deletion has no content
        }

    def live_seqs(self, paper_ids: Sequence[str], up_to: int | None = None) -> dict[str, int]:
        """Return the seq of the version that is live, or was at seq `up_to`, of each of these papers that has one.

        Live is the newest among the last words of each import, deletions aside.
        """
        found: dict[str, int] = {}
        for batch in _batches(paper_ids, _IDS_PER_QUERY):
            found.update(_live(self._heads(batch, up_to)))
        return found

    def all_live_seqs(self, up_to: int) -> NDArray[np.int64]:
        """Return the seqs of all papers live at seq `up_to`, ascending.

        :raises LibraryDamageError: if any change up to there is damaged or missing.
        """
        tally = _Tally(0, up_to)
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                f"SELECT {_HEAD_COLUMNS} FROM changes c INDEXED BY changes_by_paper WHERE seq <= ? "
                "ORDER BY paper_id, origin, seq",
                (up_to,),
            )
            heads = _last_of_each(tally.counted(self._checked_heads(rows)))
            live = np.fromiter((seq for _, seq in _live(heads)), dtype=np.int64)
        tally.check(self.path)
        return np.sort(live)

    def main_encoder(self) -> str | None:
        """Return the name of the encoder that most embeddings come from, None if there are no embeddings."""
        with self._lock, _explained(self.path):
            row = self._connection.execute(
                "SELECT name FROM embeddings JOIN encoders USING (encoder) "
                "GROUP BY encoder ORDER BY count(*) DESC LIMIT 1"
            ).fetchone()
        return row[0] if row else None

    def unencoded_seqs(self, encoder: int, after: int) -> list[int]:
        """Return the seqs after `after` of the last versions of each import without an embedding of this encoder.

        Not only of the live ones: a version of another import comes back to life when the live one is deleted.
        """
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                f"SELECT seq, paper_id FROM changes c WHERE seq > ? AND kind = {VERSION} AND NOT EXISTS "
                "(SELECT 1 FROM embeddings e WHERE e.encoder = ? AND e.text_digest = c.text_digest)",
                (after, encoder),
            ).fetchall()
        lacking = {row[0] for row in rows}
        paper_ids = sorted({row[1] for row in rows})
        heads = (head for batch in _batches(paper_ids, _IDS_PER_QUERY) for head in self._heads(batch))
        return sorted(lacking.intersection(head.seq for head in heads))

    def touched_after(self, seq: int, up_to: int) -> dict[str, list[int]]:
        """Return the papers that changed after `seq`, up to `up_to`, each with the seqs of all its versions, ascending.

        :raises LibraryDamageError: if one of these changes is damaged or missing.
        """
        tally = _Tally(seq, up_to)
        touched: dict[str, list[int]] = {}
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                f"SELECT {_HEAD_COLUMNS} FROM changes c INDEXED BY changes_by_paper WHERE paper_id IN "
                "(SELECT paper_id FROM changes WHERE seq > ? AND seq <= ?) AND seq <= ?",
                (seq, up_to, up_to),
            )
            for head in tally.counted(self._checked_heads(rows)):
                if head.kind != DELETION:
                    touched.setdefault(head.paper_id, []).append(head.seq)
        tally.check(self.path)
        return {paper_id: sorted(seqs) for paper_id, seqs in touched.items()}

    def has_met(self, paper_id: str) -> bool:
        """Return whether there is any change to this paper, deletions and purged versions counted."""
        return bool(self._heads([paper_id]))

    def versions_of(self, paper_id: str) -> list[int]:
        """Return the seqs of all versions of this paper that still have their text, oldest first."""
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                f"SELECT {_HEAD_COLUMNS} FROM changes c INDEXED BY changes_by_paper WHERE paper_id = ?", (paper_id,)
            ).fetchall()
        return sorted(head.seq for head in self._checked_heads(rows) if head.kind == VERSION)

    def ids_at(self, seqs: Sequence[int]) -> dict[int, str]:
        """Return the paper id of each of these changes.

        :raises LibraryDamageError: naming the paper, if a row fails its digest or is not there.
        """
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                f"SELECT {_HEAD_COLUMNS} FROM changes c WHERE seq IN (SELECT value FROM json_each(?))",
                (json.dumps(list(seqs)),),
            ).fetchall()
        if lost := set(seqs) - {row[0] for row in rows}:
            raise self._lost(lost)
        return {head.seq: head.paper_id for head in self._checked_heads(rows)}

    def _heads(self, paper_ids: Sequence[str], up_to: int | None = None) -> list["_Head"]:
        """Return the last change of each import to each of these papers, up to seq `up_to` if that is given."""
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                f"SELECT {_HEAD_COLUMNS} FROM changes c INDEXED BY changes_by_paper {_WHERE_IDS} AND seq <= ? "
                "ORDER BY paper_id, origin, seq",
                (json.dumps(list(paper_ids)), _NO_END if up_to is None else up_to),
            ).fetchall()
        return list(_last_of_each(self._checked_heads(rows)))

    def _checked_heads(self, rows: Iterable[Sequence[Any]]) -> Iterator["_Head"]:
        for row in rows:
            head = _Head(*row[:5])
            if not _matches(row[5], _head_digest, head):
                raise LibraryDamageError(_damaged_row(self.path, head.paper_id, head.seq))
            yield head

    def versions_at(self, seqs: Sequence[int]) -> dict[int, Version]:
        """Return the versions with these seqs; purged ones are left out.

        :raises LibraryDamageError: naming the paper, if a row fails its digest or is not there.
        """
        with self._lock, _explained(self.path):
            rows = self._connection.execute(
                f"SELECT {_CHANGE_COLUMNS} FROM changes c WHERE seq IN (SELECT value FROM json_each(?))",
                (json.dumps(list(seqs)),),
            ).fetchall()
        if lost := set(seqs) - {row[0] for row in rows}:
            raise self._lost(lost)
        for row in rows:
            _check_change(row, self.path)
        return {row[0]: _version(row, self.path) for row in rows if row[1] != PURGED}

    def _lost(self, seqs: set[int]) -> LibraryDamageError:
        return LibraryDamageError(
            f"{self.path} has lost {len(seqs)} changes that it held, such as seq {min(seqs)}; restore it from a backup"
        )

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
            if lost := set(batch) - set(vectors):
                raise self._lost(lost)
            yield np.array(batch, dtype=np.int64), np.stack([vectors[seq] for seq in batch])

    def truncated(self, seqs: Sequence[int], encoder: int, max_tokens: int) -> int:
        """Return how many of these versions have more tokens than the encoder reads."""
        with self._lock, _explained(self.path):
            total = 0
            for batch in _batches(list(seqs), _ROWS_PER_READ):
                total += self._connection.execute(
                    "SELECT count(*) FROM changes c JOIN embeddings e "
                    "ON e.encoder = ? AND e.text_digest = c.text_digest"
                    " WHERE e.tokens > ? AND c.seq IN (SELECT value FROM json_each(?))",
                    (encoder, max_tokens, json.dumps(batch)),
                ).fetchone()[0]
            return total

    def damage(self) -> Iterator[str]:
        """Yield one line for everything in the file that is not what was written; nothing for a sound library."""
        try:
            with self._lock, _explained(self.path):
                found = [row[0] for row in self._connection.execute("PRAGMA integrity_check(20)").fetchall()]
                last = self._last_seq(self._connection.cursor())
            yield from (f"SQLite: {line}" for line in found if line != "ok")
            for start in range(1, last + 1, _ROWS_PER_READ):
                yield from self._damaged_changes(start, min(last, start + _ROWS_PER_READ - 1))
            yield from self._damaged_embeddings()
            yield from self._damaged_receipts()
        except SemsearchError as error:
            yield f"{error}; what comes after it could not be read"

    def _damaged_changes(self, first: int, last: int) -> Iterator[str]:
        with self._lock, _explained(self.path):
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
            with self._lock, _explained(self.path):
                rows = self._connection.execute(
                    "SELECT embedding, encoder, text_digest, tokens, vector, digest FROM embeddings "
                    "WHERE embedding > ? ORDER BY embedding LIMIT ?",
                    (after, _ROWS_PER_READ),
                ).fetchall()
            if not rows:
                return
            for number, *fields, digest in rows:
                if not _matches(digest, _embedding_digest, fields):
                    yield f"embedding {number} fails its digest"
            after = rows[-1][0]

    def _damaged_receipts(self) -> Iterator[str]:
        with self._lock, _explained(self.path):
            rows = self._connection.execute("SELECT * FROM receipts").fetchall() if self._has_receipts() else []
        for *fields, digest in rows:
            if not _matches(digest, _receipt_digest, fields):
                yield "the receipt of a request fails its digest"

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Cursor]:
        with self._lock, _explained(self.path):
            cursor = self._connection.cursor()
            if self._connection.in_transaction:  # of this thread's, which holds the lock
                yield cursor
                return
            cursor.execute(f"BEGIN {kind}")
            try:
                if not self._is_log_named:  # SQLite does that, too, but says nothing where it fails
                    sync_folder(self.path.parent)
                    self._is_log_named = True
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
_HEAD_COLUMNS = "c.seq, c.kind, c.paper_id, c.origin, c.content_digest, c.head_digest"
_CHANGE_COLUMNS = f"{_HEAD_COLUMNS}, c.text_digest, c.content, c.digest"
_INSERT_CHANGE = "INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE_ORPHANS = """
    WITH texts AS (SELECT value AS name FROM json_each(:texts)),
         kept AS (SELECT hex(text_digest) AS name FROM changes WHERE hex(text_digest) IN (SELECT name FROM texts))
    DELETE FROM embeddings WHERE hex(text_digest) IN (SELECT name FROM texts EXCEPT SELECT name FROM kept)
"""
_INSERT_EMBEDDING = (
    "INSERT INTO embeddings (encoder, text_digest, tokens, vector, digest) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)

_Item = TypeVar("_Item")
_ChangeRow = tuple[int, int, str, str, bytes | None, bytes, bytes | None, str | None, bytes]


class _Head(NamedTuple):
    """What a change says without its content."""

    seq: int
    kind: int
    paper_id: str
    origin: str
    content_digest: bytes | None


@dataclass(slots=True)
class _Tally:
    """Counts the changes that come by, to tell whether all of a range did."""

    after: int
    up_to: int
    count: int = 0
    total: int = 0

    def counted(self, heads: Iterable[_Head]) -> Iterator[_Head]:
        """Yield the same heads."""
        for head in heads:
            if self.after < head.seq <= self.up_to:
                self.count += 1
                self.total += head.seq
            yield head

    def check(self, path: Path) -> None:
        """Do nothing if every seq after `after`, up to `up_to`, came by once.

        :raises LibraryDamageError: if not.
        """
        expected = self.up_to - self.after
        if (self.count, self.total) != (expected, expected * (self.after + self.up_to + 1) // 2):
            raise LibraryDamageError(
                f"{path} has lost some of the changes {self.after + 1} to {self.up_to}; restore it from a backup"
            )


def _last_of_each(heads: Iterable[_Head]) -> Iterator[_Head]:
    """Yield the last change of each import to each paper, out of heads ordered by paper, import and seq."""
    for _, changes in groupby(heads, key=lambda head: (head.paper_id, head.origin)):
        *_, last = changes
        yield last


def _live(heads: Iterable[_Head]) -> Iterator[tuple[str, int]]:
    """Yield (paper id, seq) of the live version of each paper that has one, out of the last changes by paper."""
    for paper_id, last_words in groupby(heads, key=lambda head: head.paper_id):
        if versions := [head.seq for head in last_words if head.kind == VERSION]:
            yield paper_id, max(versions)


def _version_row(seq: int, paper: Paper, origin: str) -> _ChangeRow:
    content = paper.to_json()
    return _row(_Head(seq, VERSION, paper.paper_id, origin, content_digest(content)), text_digest(paper.text), content)


def _bare_row(seq: int, kind: int, paper_id: str, origin: str) -> _ChangeRow:
    return _row(_Head(seq, kind, paper_id, origin, None), None, None)


def _row(head: _Head, text: bytes | None, content: str | None) -> _ChangeRow:
    digest = _head_digest(*head)
    return (*head, digest, text, content, _change_digest(digest, text, content))


def content_digest(content: str) -> bytes:
    """Return the 16 bytes that name a paper's canonical JSON: the head of its SHA-256."""
    return hashlib.sha256(content.encode()).digest()[:16]


def _head_digest(seq: int, kind: int, paper_id: str, origin: str, content_digest: bytes | None) -> bytes:
    return xxhash.xxh3_64_digest(f"{seq}\0{kind}\0{paper_id}\0{origin}\0".encode() + (content_digest or b""))


def _change_digest(head_digest: bytes, text_digest: bytes | None, content: str | None) -> bytes:
    return xxhash.xxh3_128_digest(head_digest + (text_digest or b"") + (content or "").encode())


def _embedding_row(encoder: int, embedding: Embedding) -> tuple[int, bytes, int, bytes, bytes]:
    vector = embedding.vector.astype("<f4").tobytes()
    digest = _embedding_digest(encoder, embedding.text_digest, embedding.tokens, vector)
    return encoder, embedding.text_digest, embedding.tokens, vector, digest


def _embedding_digest(encoder: int, text: bytes, tokens: int, vector: bytes) -> bytes:
    return xxhash.xxh3_128_digest(f"{encoder}\0{tokens}\0".encode() + text + vector)


def _receipt_digest(key: str, request: bytes, answer: str, day: int) -> bytes:
    return xxhash.xxh3_128_digest(f"{key}\0{answer}\0{day}\0".encode() + request)


def _matches(digest: object, compute: Callable[..., bytes], fields: Iterable[object]) -> bool:
    """Return whether the fields have this digest; damage may have made them of any type."""
    try:
        return compute(*fields) == digest
    except (TypeError, AttributeError, UnicodeError):
        return False


def _damaged_row(path: Path, paper_id: object, seq: object) -> str:
    return (
        f"{path}: the stored row of paper {paper_id!r} (seq {seq}) fails its digest; restore the file from a backup, "
        "or index the paper's source again under another --origin"
    )


def _check_change(row: _ChangeRow, path: Path) -> None:
    if not (_matches(row[5], _head_digest, row[:5]) and _matches(row[8], _change_digest, row[5:8])):
        raise LibraryDamageError(_damaged_row(path, row[2], row[0]))


def _version(row: _ChangeRow, path: Path) -> Version:
    if row[1] != VERSION or row[6] is None or row[7] is None:
        raise LibraryDamageError(f"{path}: seq {row[0]} is no version of a paper")
    return Version(row[0], Paper.from_json(row[7]), row[6])


def _checked_vector(row: Sequence[object], encoder: int, path: Path) -> NDArray[np.float32]:
    change: _ChangeRow = tuple(row[:9])  # type: ignore[assignment]
    _check_change(change, path)
    vector, tokens, digest = row[9:]
    if vector is None:
        raise NotEncodedError(
            f"paper {change[2]!r} (seq {change[0]}) has no embedding of this encoder; encode and publish it with: "
            f"semsearch index --index {path.parent}"
        )
    if not isinstance(vector, bytes) or not _matches(digest, _embedding_digest, (encoder, change[6], tokens, vector)):
        raise LibraryDamageError(f"{path}: the embedding of paper {change[2]!r} (seq {change[0]}) fails its digest")
    return np.frombuffer(vector, dtype="<f4")


def _check_format(connection: sqlite3.Connection, path: Path, *, may_be_empty: bool) -> None:
    """Refuse a file that is not a library of this format, before anything in it is touched."""
    if may_be_empty and _is_empty(connection):
        return
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise LibraryDamageError(f"{path} is not a semsearch library")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT_VERSION:
        raise LibraryDamageError(
            f"{path} has library format {version}, this semsearch reads {FORMAT_VERSION}; "
            "use the semsearch that wrote it"
        )


def _is_empty(connection: sqlite3.Connection) -> bool:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return bool(application == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0)


def _use_write_ahead_log(connection: sqlite3.Connection, path: Path) -> None:
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise SemsearchError(
            f"{path} cannot have a write-ahead log (SQLite keeps to {mode!r}), which a library needs; "
            "keep the index on a local disk that can be written"
        )


def _tolerant_text(data: bytes) -> str:
    """Return the text; damaged UTF-8 becomes lone surrogates, so that the digest refuses the row, by its id."""
    return data.decode("utf-8", "surrogateescape")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, with the way out."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a mistake of the caller's, such as using a closed library
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise SemsearchError(
                f"{path}: {error}; even to be read, a library must stand in a folder that this user can write"
            ) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise IndexBusyError(f"{path}: another process is writing it; run the same command again later") from error
        if code == sqlite3.SQLITE_FULL:
            raise SemsearchError(f"{path}: the disk is full; free some space and run the same command again") from error
        raise SemsearchError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise LibraryDamageError(f"{path}: {error}; restore it from a backup") from error
    except UnicodeDecodeError as error:  # in what SQLite says of a damaged schema, which it quotes
        raise LibraryDamageError(f"{path}: its schema is damaged; restore it from a backup") from error


def _batches(items: Sequence[_Item], size: int) -> Iterator[list[_Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
