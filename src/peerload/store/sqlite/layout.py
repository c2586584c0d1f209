"""The tables, and the only way to a connection to them.

A generation is a row id, so an entry, its blob and its beat are found by one integer. The beats have a narrow table of
their own because they change all the time: ten thousand of them fit on fifteen pages. The log is the feed; its row
ids are the revisions, and AUTOINCREMENT never gives one twice. Its first id is the time of creation in microseconds, so
a file that was removed and made anew does not repeat revisions either.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from peerload.errors import InvalidArgument, Unavailable

__all__ = [
    "APPLICATION_ID",
    "BUSY_SECONDS",
    "LAYOUT_VERSION",
    "WRITING_KIB",
    "connect",
    "prepare",
    "transaction",
    "translated",
]

APPLICATION_ID: Final = 0x506C6F61  # "Ploa"
LAYOUT_VERSION: Final = 1
READING_KIB: Final = 2_048
"""SQLite forgets its pages at every transaction after somebody wrote: what a reader keeps serves that one transaction, and the
kernel has the file's pages besides."""
WRITING_KIB: Final = 32_768
BUSY_SECONDS: Final = 4.0
"""How long a transaction waits for another process's before it gives up."""

_TABLES: Final = (
    """CREATE TABLE entries (
        generation INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        revision INTEGER NOT NULL,
        blob_size INTEGER,
        value TEXT NOT NULL
    )""",
    "CREATE TABLE blobs (generation INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "CREATE TABLE beats (generation INTEGER PRIMARY KEY, stamp INTEGER NOT NULL, load REAL)",
    # kind 'put' and 'delete' have a key; 'beats' has the raised beats as JSON: [[key, generation, stamp, load], …]
    """CREATE TABLE log (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        kind TEXT NOT NULL,
        key TEXT,
        beats TEXT
    )""",
    # epoch: names this file's feed in positions. trimmed: the last log id that is no longer there.
    "CREATE TABLE feed (only INTEGER PRIMARY KEY CHECK (only = 1), epoch TEXT NOT NULL, trimmed INTEGER NOT NULL)",
)


def prepare(path: Path, wall_ms: int) -> None:
    """Create the tables in an empty file, or check that they are ours.

    Raises `InvalidArgument` for a file that is not a store or of a newer layout, `Unavailable` for anything else.
    """
    with translated(path), contextlib.closing(_open(path)) as connection:
        with transaction(connection):  # one moment: another process may be creating the tables
            ours = _is_ours(path, connection)
        if not ours:
            # Page size and journal mode are set before the first write; both may meet another process that does it.
            connection.execute("PRAGMA page_size=16384")
            _use_wal(connection)
            with transaction(connection, "IMMEDIATE"):
                if not _is_ours(path, connection):
                    _create(connection, wall_ms)
        else:
            _use_wal(connection)  # it is kept in the file, but a person's tool may have changed it
            # A file that cannot be written to says so now: SQLite itself would open it, to read.
            _begin_writing(connection)
            connection.execute("UPDATE feed SET trimmed = trimmed")
            connection.execute("ROLLBACK")


def connect(path: Path, *, cache_kib: int = READING_KIB) -> sqlite3.Connection:
    """A connection to prepared tables, to be used by one thread at a time; `cache_kib` bounds the pages that it keeps in
    memory. Raises `Unavailable`."""
    with translated(path):
        connection = _open(path)
        try:
            connection.execute(f"PRAGMA cache_size=-{cache_kib}")
            connection.execute("PRAGMA journal_size_limit=67108864")
            connection.execute("SELECT epoch FROM feed").fetchone()
        except sqlite3.Error:
            connection.close()
            raise
        return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "DEFERRED") -> Iterator[None]:
    """Everything in the block, or nothing of it. An IMMEDIATE one is the only one that writes."""
    if kind == "IMMEDIATE":
        _begin_writing(connection)
    else:
        connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some errors (a full disk) have ended the transaction already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns what SQLite raises into `Unavailable` (or `InvalidArgument` for what is no database at all)."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_NOTADB:
            raise InvalidArgument("store", f"{path} is not an SQLite file") from error
        raise Unavailable(f"the store in {path} does not answer: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    # mode=rw: a file that has gone is an outage, not a new store.
    uri = f"{path.as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _is_ours(path: Path, connection: sqlite3.Connection) -> bool:
    """True for our tables, False for an empty file; raises `InvalidArgument` for anything else."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID:
        if version != LAYOUT_VERSION:
            raise InvalidArgument(
                "store",
                f"{path} has layout version {version}, and this release knows {LAYOUT_VERSION}: use a newer release",
            )
        return True
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application or version or tables:
        raise InvalidArgument("store", f"{path} is an SQLite file of another program")
    return False


def _begin_writing(connection: sqlite3.Connection) -> None:
    """Wait for one's turn to write.

    SQLite's own waiting backs off to 100 ms, and a process that commits all the time leaves gaps of a tenth of a
    millisecond: asking often is what keeps the others from starving.
    """
    connection.execute("PRAGMA busy_timeout=0")
    try:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.0005)
    finally:
        connection.execute(f"PRAGMA busy_timeout={round(BUSY_SECONDS * 1_000)}")


def _create(connection: sqlite3.Connection, wall_ms: int) -> None:
    first = wall_ms * 1_000 + secrets.randbelow(1_000)
    for table in _TABLES:
        connection.execute(table)
    connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('log', ?)", (first,))
    connection.execute("INSERT INTO feed (only, epoch, trimmed) VALUES (1, ?, ?)", (secrets.token_hex(4), first))
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={LAYOUT_VERSION}")


def _use_wal(connection: sqlite3.Connection) -> None:
    # Changing the mode does not wait for other connections as everything else does, so this waits.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise sqlite3.OperationalError(f"its file system allows no write-ahead log (journal mode {mode})")
        return
