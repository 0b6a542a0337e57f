"""One database, two kinds of transaction: reading and writing.

On SQLite a transaction that reads first and then writes fails with "database is locked" as soon as
another one wrote in between, and no time-out helps. So a writer takes the write lock at its BEGIN,
where it can wait for it; readers take none and, with a write-ahead log, never wait.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import QueuePool

from latency_service.core.errors import DatabaseError, MissingExtraError

SETTING = "LATENCY_SERVICE_DATABASE_URL"

_SQLITE_BUSY_S = 20
_POSTGRES_CONNECT_S = 10
_IMMEDIATE = "latency_service_immediate"
_UNDEFINED_TABLE = "42P01"  # PostgreSQL's code
_SECRET_PARAMETERS = {"password", "sslpassword"}

# Keys of PostgreSQL advisory locks: any numbers, so long as nobody else uses them.
LOCK_MIGRATIONS = 0x6C617401
LOCK_REVISIONS = 0x6C617402
LOCK_GRAPHS = 0x6C617403


def make_engine(url: str) -> Engine:
    """An engine for a SQLite or PostgreSQL URL; connects on first use.

    Args:
        url: `sqlite:///path` (the folder is made when missing), or `postgresql://...`, also
            `postgres://` and `postgresql+psycopg://`.

    Raises:
        DatabaseError: if the URL is malformed, of another database, or the folder cannot be made.
        MissingExtraError: if it is PostgreSQL and psycopg is not installed.
    """
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        # The text is not repeated: a URL that cannot be parsed cannot be stripped of its password.
        raise DatabaseError(
            f"{SETTING} is not a database URL; it must look like sqlite:////data/latency.db or "
            "postgresql://user:password@host/name"
        ) from error
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite(parsed)
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return _postgresql(parsed.set(drivername="postgresql+psycopg"))
    raise DatabaseError(
        f"{SETTING} names the database {parsed.drivername!r}; use sqlite:///path or "
        "postgresql://user:password@host/name"
    )


@contextmanager
def reading(engine: Engine, *, snapshot: bool = False) -> Iterator[Connection]:
    """A connection that only reads, and takes no lock that a writer would wait for.

    Args:
        engine: from `make_engine`.
        snapshot: whether all its statements see one state of the database (on SQLite always).

    Raises:
        DatabaseError: if the database cannot be reached or read.
    """
    with _errors_explained(engine), engine.connect() as connection:
        if snapshot and engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


@contextmanager
def writing(engine: Engine, *, lock: int | None = None) -> Iterator[Connection]:
    """A transaction that may write: committed at the end, rolled back by any error.

    On SQLite it waits for its turn: there is one writer at a time.

    Args:
        engine: from `make_engine`.
        lock: on PostgreSQL, let only one transaction with this number run at a time.

    Raises:
        DatabaseError: if the database cannot be reached or written.
    """
    with _errors_explained(engine), engine.connect() as connection:
        connection = connection.execution_options(**{_IMMEDIATE: True})
        with connection.begin():
            if lock is not None:
                lock_for_all(connection, lock)
            yield connection


def lock_for_all(connection: Connection, lock: int) -> None:
    """Wait until no other transaction holds this lock, then hold it to the end of this one.

    On SQLite a transaction that writes is the only one anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(lock)))


def shown(url: URL) -> str:
    """The URL without its password."""
    hidden = {name: "***" for name in url.query if name in _SECRET_PARAMETERS}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


@contextmanager
def _errors_explained(engine: Engine) -> Iterator[None]:
    """Turn the failures that an operator can mend into a DatabaseError.

    Broken constraints and impossible values pass: they are for the caller to explain.
    """
    try:
        yield
    except (exc.IntegrityError, exc.DataError):
        raise
    except (exc.DBAPIError, exc.TimeoutError) as error:
        cause = error.orig if isinstance(error, exc.DBAPIError) else error
        reason = str(cause).strip()
        if "no such table" in reason or getattr(cause, "sqlstate", None) == _UNDEFINED_TABLE:
            raise DatabaseError(
                f"database {shown(engine.url)} has not got the tables of this release: {reason}. "
                "Run: latency-service database upgrade"
            ) from error
        raise DatabaseError(
            f"database {shown(engine.url)} cannot be used: {reason}. Check that it is there, "
            f"that this process may read and write it, and that {SETTING} names the right one"
        ) from error


def _sqlite(url: URL) -> Engine:
    in_memory = not url.database or url.database == ":memory:" or "mode=memory" in url.database
    options: dict[str, Any] = {"pool_size": 10, "max_overflow": 30}
    if in_memory:
        # The database is the connection: one for all threads, taken in turns.
        options = {"pool_size": 1, "max_overflow": 0}
    elif url.database and not url.database.startswith("file:"):
        folder = Path(url.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(
                f"the folder {folder} of the database cannot be made: {error.strerror}. Make it, "
                f"or let {SETTING} or LATENCY_SERVICE_DATA_DIRECTORY name another"
            ) from error
    engine = create_engine(
        url,
        poolclass=QueuePool,
        hide_parameters=True,
        connect_args={"check_same_thread": False, "timeout": _SQLITE_BUSY_S},
        **options,
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql(url: URL) -> Engine:
    timeout = {} if "connect_timeout" in url.query else {"connect_timeout": _POSTGRES_CONNECT_S}
    try:
        return create_engine(
            url,
            hide_parameters=True,
            # Appending relies on seeing, behind its lock, what was committed while it waited.
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            connect_args=timeout,
        )
    except ImportError as error:
        raise MissingExtraError(
            f"{SETTING} names a PostgreSQL database, whose driver psycopg is not installed "
            f"({error}). Run: pip install 'latency-service[postgres]'"
        ) from error


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver opens no transactions of its own accord: _begin_sqlite does.
    connection.isolation_level = None
    _use_write_ahead_log(connection)
    for pragma in (
        "foreign_keys = ON",
        # Durable against a crash of the process; a power cut may lose the last commits, and
        # damages nothing.
        "synchronous = NORMAL",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch a new file to WAL; SQLite does not wait for this lock of its own accord."""
    give_up_at = time.monotonic() + _SQLITE_BUSY_S
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] in ("wal", "memory"):
                return
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up_at:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get(_IMMEDIATE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
