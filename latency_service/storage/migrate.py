"""Bringing a database to the schema of this release: Alembic without its command line."""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from latency_service.core.errors import DatabaseError
from latency_service.storage.engine import LOCK_MIGRATIONS, reading, shown, writing

# Alembic keeps the migration in progress in module globals.
_one_at_a_time = threading.Lock()


def upgrade(engine: Engine) -> None:
    """Apply the migrations that the database lacks; nothing if there are none.

    Several processes may do it at once: one applies, the others wait and find nothing to do. A
    migration that fails leaves the database as it was.

    Raises:
        DatabaseError: if the database cannot be used, or was made by a newer release.
    """
    if not pending(engine):
        return
    with _one_at_a_time, writing(engine, lock=LOCK_MIGRATIONS) as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def is_current(engine: Engine) -> bool:
    """Whether the database has exactly the schema of this release.

    Raises:
        DatabaseError: if the database cannot be reached.
    """
    with reading(engine) as connection:
        return _applied(connection) == set(_scripts().get_heads())


def pending(engine: Engine) -> list[str]:
    """The migrations that the database lacks, in the order in which they are applied.

    Raises:
        DatabaseError: if the database cannot be reached, or was made by a newer release.
    """
    with reading(engine) as connection:
        applied = _applied(connection)
    scripts = _scripts()
    try:
        lacking = scripts.iterate_revisions("heads", tuple(applied) or "base")
        return [script.revision for script in lacking][::-1]
    except (CommandError, RevisionError) as error:
        raise DatabaseError(
            f"database {shown(engine.url)} has schema {', '.join(sorted(applied))}, which this "
            "release of latency-service does not know: a newer one made it. Upgrade this one"
        ) from error


def _applied(connection: Connection) -> set[str]:
    return set(MigrationContext.configure(connection).get_current_heads())


def _config() -> Config:
    config = Config()
    # A percent sign in the path would be read as an interpolation.
    folder = str(Path(__file__).parent / "migrations").replace("%", "%%")
    config.set_main_option("script_location", folder)
    return config


@lru_cache(maxsize=1)
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
