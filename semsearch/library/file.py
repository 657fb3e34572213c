"""How is the file opened, and what does SQLite say of it?"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semsearch.errors import DiskFullError, IndexBusyError, LibraryDamageError, SemsearchError
from semsearch.library.rows import DELETION, PURGED, VERSION

FORMAT_VERSION = 1
_APPLICATION_ID = 0x53656D53  # "SemS", so that `file` and we can tell a library from any other SQLite file
_BUSY_TIMEOUT_MILLISECONDS = 30_000

RECEIPTS = """
CREATE TABLE IF NOT EXISTS receipts (
    key     TEXT PRIMARY KEY,
    request BLOB NOT NULL,            -- digest of what was sent under this key
    answer  TEXT NOT NULL,
    day     INTEGER NOT NULL,         -- on which it was given, counted from 1970
    digest  BLOB NOT NULL             -- of all the above
) WITHOUT ROWID;
"""
"""A table that a library gets with its first receipt: most never do."""

SCHEMA = f"""
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


def connected(path: Path, *, may_create: bool) -> sqlite3.Connection:
    """Return the file open, made a library first if it is empty and may become one.

    :raises LibraryDamageError: if it is not a readable library.
    """
    with explained(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.text_factory = tolerant_text
    try:
        with explained(path):
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MILLISECONDS}")
            check_format(connection, path, may_be_empty=may_create)
            use_write_ahead_log(connection, path)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # macOS: its fsync alone does not reach the disk
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
            connection.execute("PRAGMA secure_delete = ON")  # purged text must not survive in free pages
            connection.execute("PRAGMA temp_store = FILE")  # a run's list of seen ids may outgrow memory
            if may_create and is_empty(connection):
                connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def check_format(connection: sqlite3.Connection, path: Path, *, may_be_empty: bool) -> None:
    """Refuse a file that is not a library of this format, before anything in it is touched."""
    if may_be_empty and is_empty(connection):
        return
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise LibraryDamageError(f"{path} is not a semsearch library")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT_VERSION:
        raise LibraryDamageError(
            f"{path} has library format {version}, this semsearch reads {FORMAT_VERSION}; "
            "use the semsearch that wrote it"
        )


def is_empty(connection: sqlite3.Connection) -> bool:
    """Return whether nothing was ever put into this file."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    return bool(application == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0)


def use_write_ahead_log(connection: sqlite3.Connection, path: Path) -> None:
    """Let readers and a writer work at once; refuse a folder where they cannot."""
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise SemsearchError(
            f"{path} cannot have a write-ahead log (SQLite keeps to {mode!r}), which a library needs; "
            "keep the index on a local disk that can be written"
        )


def tolerant_text(data: bytes) -> str:
    """Return the text; damaged UTF-8 becomes lone surrogates, so that the digest refuses the row, by its id."""
    return data.decode("utf-8", "surrogateescape")


@contextmanager
def explained(path: Path) -> Iterator[None]:
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
            raise DiskFullError(f"{path}: the disk is full; free some space and run the same command again") from error
        raise SemsearchError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise LibraryDamageError(f"{path}: {error}; restore it from a backup") from error
    except UnicodeDecodeError as error:  # in what SQLite says of a damaged schema, which it quotes
        raise LibraryDamageError(f"{path}: its schema is damaged; restore it from a backup") from error
