"""What is known about every paper, and which embeddings were ever computed?

The library is one SQLite file and the only truth of an index: everything else can be rebuilt from it without encoding
anything. It only ever appends: a version of a paper, or its deletion, is a row with its own `seq`; nothing is rewritten
in place except by `purge`, whose purpose that is. A commit that returned is on the disk (WAL, synchronous=FULL).

Every row and every vector carries a digest that is checked whenever it is read, because SQLite itself notices a flipped
bit only by luck.
"""

import json
import os
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
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from semsearch.durable import make_folder, name_file, sync_file, sync_folder
from semsearch.errors import IndexBusyError, IndexMissingError, KeyUsedError, LibraryDamageError, SemsearchError
from semsearch.library import condition
from semsearch.library.file import RECEIPTS, connected, explained
from semsearch.library.rows import (
    CHANGE_COLUMNS,
    DELETION,
    HEAD_COLUMNS,
    PURGED,
    VERSION,
    Embedding,
    Head,
    Receipt,
    Version,
    bare_row,
    check_change,
    checked_head,
    checked_vector,
    embedding_row,
    is_receipt,
    receipt_digest,
    version_of,
    version_row,
)
from semsearch.papers import Paper

_IDS_PER_QUERY = 1_000
_ROWS_PER_READ = 2_000
_NO_END = 2**62  # greater than any seq
_DAYS_OF_RECEIPTS = 8
_SECONDS_PER_DAY = 86_400
_PAGES_PER_STEP = 2_000  # of 4 KB


@dataclass(frozen=True, slots=True)
class LibraryCounts:
    """How much the library holds: changes of all kinds, embeddings of all encoders."""

    changes: int
    embeddings: int


class Library:
    """All papers of one index; safe to share between threads, and between processes through the file."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Take over an open connection; use `open` or `create`."""
        self.path = path
        self._connection = connection
        self._file = path.stat()
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
        return cls(path, connected(path, may_create=may_create))

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
            cursor.executemany(_INSERT_EMBEDDING, [embedding_row(encoder, embedding) for embedding in embeddings])
            cursor.executemany(
                _INSERT_CHANGE,
                [version_row(seq, paper, origin) for seq, paper in enumerate(papers, first_seq)],
            )

    def add_embeddings(self, embeddings: Iterable[Embedding], encoder: int) -> None:
        """Store embeddings of texts that the library already holds."""
        with self._transaction() as cursor:
            cursor.executemany(_INSERT_EMBEDDING, [embedding_row(encoder, embedding) for embedding in embeddings])

    def keep_receipt(self, receipt: Receipt) -> None:
        """Remember what was answered, for a week at least.

        :raises KeyUsedError: if there is an answer under this key already.
        """
        today = int(time.time() // _SECONDS_PER_DAY)
        row = (receipt.key, receipt.request, receipt.answer, today)
        with self._transaction() as cursor:
            cursor.execute(RECEIPTS)
            cursor.execute("DELETE FROM receipts WHERE day < ?", (today - _DAYS_OF_RECEIPTS,))
            cursor.execute(
                "INSERT INTO receipts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", (*row, receipt_digest(*row))
            )
            if not cursor.rowcount:
                raise KeyUsedError(f"the key {receipt.key!r} was used by another request meanwhile; send it again")

    def receipt(self, key: str) -> Receipt | None:
        """Return what was answered under this key, None if nothing was."""
        with self._lock, explained(self.path):
            if not self._has_receipts():
                return None
            row = self._connection.execute("SELECT * FROM receipts WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        if not is_receipt(row):
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
                        cursor.execute(_INSERT_CHANGE, bare_row(seq, DELETION, head.paper_id, head.origin))
                        deleted[head.paper_id] = None
        return list(deleted)

    def last_deletion(self, after: int, up_to: int) -> int:
        """Return the seq of the last deletion after `after`, up to `up_to`, 0 if there is none."""
        ((seq,),) = self._rows(
            f"SELECT max(seq) FROM changes WHERE seq > ? AND seq <= ? AND kind = {DELETION}", (after, up_to)
        )
        return seq or 0

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
                cursor.execute(_INSERT_CHANGE, bare_row(seq, PURGED, paper_id, origin))
            cursor.execute(_DELETE_ORPHANS, {"texts": json.dumps(sorted({row[3] for row in rows}))})
        with self._lock, explained(self.path):
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
        with self._lock, explained(self.path):
            row = self._connection.execute(
                "SELECT encoder FROM encoders WHERE fingerprint = ?", (fingerprint,)
            ).fetchone()
        return row[0] if row else None

    # One run of an import: which ids its source holds. A temporary table, so that memory stays bounded.

    def start_sightings(self) -> None:
        """Forget which papers were seen, at the start of a run."""
        with self._lock, explained(self.path):
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
        with self._lock, explained(self.path):
            rows = self._connection.execute(
                f"SELECT {HEAD_COLUMNS} FROM changes c INDEXED BY changes_by_paper WHERE origin = :origin AND "
                "paper_id NOT IN (SELECT paper_id FROM temp.sightings WHERE origin = :origin)"
                " ORDER BY paper_id, origin, seq",
                {"origin": origin},
            )
            return [head.paper_id for head in _last_of_each(self._checked_heads(rows)) if head.kind == VERSION]

    # Reading

    def check_in_place(self) -> None:
        """Do nothing if this is the file that stands at its path.

        :raises IndexBusyError: if another was put there since it was opened: what comes next is for that.
        """
        if not self.path.exists() or not os.path.samestat(self.path.stat(), self._file):
            raise IndexBusyError(f"another library was put into the place of {self.path}; run the same command again")

    def last_seq(self) -> int:
        """Return the seq of the newest change, 0 for an empty library."""
        with self._lock, explained(self.path):
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
        with self._lock, explained(self.path):
            rows = self._connection.execute(f"SELECT {HEAD_COLUMNS} FROM changes c WHERE seq = ?", (seq,)).fetchall()
        for _ in self._checked_heads(rows):
            return rows[0]
        return None

    def counts(self) -> LibraryCounts:
        """Return how much the library holds."""
        (row,) = self._rows("SELECT (SELECT count(*) FROM changes), (SELECT count(*) FROM embeddings)")
        return LibraryCounts(*row)

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
        with self._lock, explained(self.path):
            rows = self._connection.execute(
                f"SELECT {HEAD_COLUMNS} FROM changes c INDEXED BY changes_by_paper WHERE seq <= ? "
                "ORDER BY paper_id, origin, seq",
                (up_to,),
            )
            heads = _last_of_each(tally.counted(self._checked_heads(rows)))
            live = np.fromiter((seq for _, seq in _live(heads)), dtype=np.int64)
        tally.check(self.path)
        return np.sort(live)

    def encoder_name(self, fingerprint: str) -> str | None:
        """Return the name of the encoder with this fingerprint, None if the library has never met it."""
        rows = self._rows("SELECT name FROM encoders WHERE fingerprint = ?", (fingerprint,))
        return rows[0][0] if rows else None

    def main_encoder(self) -> str | None:
        """Return the name of the encoder that most embeddings come from, None if there are no embeddings."""
        with self._lock, explained(self.path):
            row = self._connection.execute(
                "SELECT name FROM embeddings JOIN encoders USING (encoder) "
                "GROUP BY encoder ORDER BY count(*) DESC LIMIT 1"
            ).fetchone()
        return row[0] if row else None

    def unencoded_seqs(self, encoder: int, after: int, up_to: int) -> NDArray[np.int64]:
        """Return which versions lack an embedding of this encoder: seqs after `after`, up to `up_to`, ascending.

        Those that were the last of their import at `up_to`. Not only the live ones: a version of another import comes
        back to life when the live one is deleted.
        """
        found = [np.empty(0, dtype=np.int64)]
        while rows := self._rows(
            f"SELECT seq, paper_id FROM changes c WHERE seq > ? AND seq <= ? AND kind = {VERSION} AND NOT EXISTS "
            "(SELECT 1 FROM embeddings e WHERE e.encoder = ? AND e.text_digest = c.text_digest) ORDER BY seq LIMIT ?",
            (after, up_to, encoder, _IDS_PER_QUERY),
        ):
            heads = self._heads(sorted({paper_id for _, paper_id in rows}), up_to)
            found.append(np.intersect1d([seq for seq, _ in rows], [head.seq for head in heads]).astype(np.int64))
            after = rows[-1][0]
        return np.concatenate(found)

    def touched_after(self, seq: int, up_to: int) -> dict[str, list[int]]:
        """Return the papers that changed after `seq`, up to `up_to`, each with the seqs of all its versions, ascending.

        :raises LibraryDamageError: if one of these changes is damaged or missing.
        """
        tally = _Tally(seq, up_to)
        touched: dict[str, list[int]] = {}
        with self._lock, explained(self.path):
            rows = self._connection.execute(
                f"SELECT {HEAD_COLUMNS} FROM changes c INDEXED BY changes_by_paper WHERE paper_id IN "
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
        with self._lock, explained(self.path):
            rows = self._connection.execute(
                f"SELECT {HEAD_COLUMNS} FROM changes c INDEXED BY changes_by_paper WHERE paper_id = ?", (paper_id,)
            ).fetchall()
        return sorted(head.seq for head in self._checked_heads(rows) if head.kind == VERSION)

    def ids_at(self, seqs: Sequence[int]) -> dict[int, str]:
        """Return the paper id of each of these changes.

        :raises LibraryDamageError: naming the paper, if a row fails its digest or is not there.
        """
        with self._lock, explained(self.path):
            rows = self._connection.execute(
                f"SELECT {HEAD_COLUMNS} FROM changes c WHERE seq IN (SELECT value FROM json_each(?))",
                (json.dumps(list(seqs)),),
            ).fetchall()
        if lost := set(seqs) - {row[0] for row in rows}:
            raise self._lost(lost)
        return {head.seq: head.paper_id for head in self._checked_heads(rows)}

    def _heads(self, paper_ids: Sequence[str], up_to: int | None = None) -> list["Head"]:
        """Return the last change of each import to each of these papers, up to seq `up_to` if that is given."""
        with self._lock, explained(self.path):
            rows = self._connection.execute(
                f"SELECT {HEAD_COLUMNS} FROM changes c INDEXED BY changes_by_paper {_WHERE_IDS} AND seq <= ? "
                "ORDER BY paper_id, origin, seq",
                (json.dumps(list(paper_ids)), _NO_END if up_to is None else up_to),
            ).fetchall()
        return list(_last_of_each(self._checked_heads(rows)))

    def _checked_heads(self, rows: Iterable[Sequence[Any]]) -> Iterator["Head"]:
        for row in rows:
            yield checked_head(row, self.path)

    def purged_among(self, seqs: Sequence[int]) -> list[int]:
        """Return which of these versions have been purged, ascending."""
        rows = self._rows(
            f"SELECT seq FROM changes WHERE kind = {PURGED} AND seq IN (SELECT value FROM json_each(?)) ORDER BY seq",
            (json.dumps(list(seqs)),),
        )
        return [row[0] for row in rows]

    def versions_at(self, seqs: Sequence[int]) -> dict[int, Version]:
        """Return the versions with these seqs; purged ones are left out.

        :raises LibraryDamageError: naming the paper, if a row fails its digest or is not there.
        """
        with self._lock, explained(self.path):
            rows = self._connection.execute(
                f"SELECT {CHANGE_COLUMNS} FROM changes c WHERE seq IN (SELECT value FROM json_each(?))",
                (json.dumps(list(seqs)),),
            ).fetchall()
        if lost := set(seqs) - {row[0] for row in rows}:
            raise self._lost(lost)
        for row in rows:
            check_change(row, self.path)
        return {row[0]: version_of(row, self.path) for row in rows if row[1] != PURGED}

    def _lost(self, seqs: set[int]) -> LibraryDamageError:
        return LibraryDamageError(
            f"{self.path} has lost {len(seqs)} changes that it held, such as seq {min(seqs)}; restore it from a backup"
        )

    def missing_texts(self, texts: Sequence[bytes], encoder: int) -> set[bytes]:
        """Return those of these text digests for which this encoder has no embedding yet."""
        present: set[bytes] = set()
        with self._lock, explained(self.path):
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
            with self._lock, explained(self.path):
                rows = self._connection.execute(
                    f"SELECT {CHANGE_COLUMNS}, e.vector, e.tokens, e.digest FROM changes c LEFT JOIN embeddings e "
                    "ON e.encoder = ? AND e.text_digest = c.text_digest"
                    " WHERE c.seq IN (SELECT value FROM json_each(?))",
                    (encoder, json.dumps(batch)),
                ).fetchall()
            vectors = {row[0]: checked_vector(row, encoder, self.path) for row in rows}
            if lost := set(batch) - set(vectors):
                raise self._lost(lost)
            yield np.array(batch, dtype=np.int64), np.stack([vectors[seq] for seq in batch])

    def truncated(self, seqs: Sequence[int], encoder: int, max_tokens: int) -> int:
        """Return how many of these versions have more tokens than the encoder reads."""
        with self._lock, explained(self.path):
            total = 0
            for batch in _batches(list(seqs), _ROWS_PER_READ):
                total += self._connection.execute(
                    "SELECT count(*) FROM changes c JOIN embeddings e "
                    "ON e.encoder = ? AND e.text_digest = c.text_digest"
                    " WHERE e.tokens > ? AND c.seq IN (SELECT value FROM json_each(?))",
                    (encoder, max_tokens, json.dumps(batch)),
                ).fetchone()[0]
            return total

    def damage(self, passed: Callable[[int], None] | None = None) -> Iterator[str]:
        """Yield one line for everything in the file that is not what was written; nothing for a sound library.

        :param passed: is told of every block of rows how many it has.
        """
        return condition.damage(self._rows_telling(passed), self.path)

    def disagreements(self) -> Iterator[str]:
        """Yield one line for every version whose digests do not name what it holds."""
        return condition.misnamed(self._rows, self.path)

    def mend(self, passed: Callable[[int], None] | None = None) -> condition.Mended:
        """Make anew in this file what can be, and tell what was done and what is still damaged.

        Embeddings that are damaged are dropped: they can be computed again. SQLite's indexes are made anew from the
        rows, if these are sound. No row of a paper is touched.

        :param passed: is told of every block of rows how many it has.
        """
        with self._lock:
            return condition.mend(self._rows_telling(passed), self.path, self._run)

    def copy_to(self, path: Path, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Write all that is committed now into a new file, while others go on to read and write this one.

        :param on_progress: is told how many of SQLite's pages are done, of how many.
        :raises LibraryDamageError: if SQLite cannot read the file to its end.
        """
        with self._lock, explained(self.path):
            target = sqlite3.connect(path, isolation_level=None)
            try:
                self._connection.execute("BEGIN")  # one state, from its first page to its last
                self._connection.execute("SELECT count(*) FROM encoders").fetchone()
                self._connection.backup(
                    target,
                    pages=_PAGES_PER_STEP,
                    progress=lambda _, left, total: on_progress(total - left, total) if on_progress else None,
                )
            finally:
                target.close()
                self._connection.execute("ROLLBACK")
        sync_file(path)

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        with self._lock, explained(self.path):
            return self._connection.execute(statement, values).fetchall()

    def _rows_telling(self, passed: Callable[[int], None] | None) -> condition.Read:
        def read(statement: str, values: Sequence[object] = ()) -> list[Any]:
            rows = self._rows(statement, values)
            if passed:
                passed(len(rows))
            return rows

        return read

    def _run(self, statement: str, values: Sequence[object] = ()) -> None:
        with self._transaction() as cursor:
            cursor.execute(statement, values)

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Cursor]:
        with self._lock, explained(self.path):
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


@dataclass(slots=True)
class _Tally:
    """Counts the changes that come by, to tell whether all of a range did."""

    after: int
    up_to: int
    count: int = 0
    total: int = 0

    def counted(self, heads: Iterable[Head]) -> Iterator[Head]:
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


def _last_of_each(heads: Iterable[Head]) -> Iterator[Head]:
    """Yield the last change of each import to each paper, out of heads ordered by paper, import and seq."""
    for _, changes in groupby(heads, key=lambda head: (head.paper_id, head.origin)):
        *_, last = changes
        yield last


def _live(heads: Iterable[Head]) -> Iterator[tuple[str, int]]:
    """Yield (paper id, seq) of the live version of each paper that has one, out of the last changes by paper."""
    for paper_id, last_words in groupby(heads, key=lambda head: head.paper_id):
        if versions := [head.seq for head in last_words if head.kind == VERSION]:
            yield paper_id, max(versions)


def _batches(items: Sequence[_Item], size: int) -> Iterator[list[_Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
