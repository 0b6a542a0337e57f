"""From an empty database to this release's schema."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, text

from latency_service.core.errors import DatabaseError
from latency_service.storage.engine import make_engine, reading, writing
from latency_service.storage.graphs import GraphStore
from latency_service.storage.migrate import is_current, pending, upgrade
from latency_service.storage.tables import metadata


@pytest.fixture
def empty(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def test_an_empty_database_is_upgraded_once(empty: Engine) -> None:
    assert not is_current(empty)
    assert pending(empty) == ["0001"]
    upgrade(empty)
    assert is_current(empty)
    assert pending(empty) == []
    upgrade(empty)
    assert GraphStore(empty).count() == 0


def test_the_migrations_lead_to_the_tables(empty: Engine) -> None:
    upgrade(empty)
    with reading(empty) as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_several_processes_may_upgrade_at_once(database_url: str) -> None:
    barrier = Barrier(4)

    def start(_: int) -> bool:
        own = make_engine(database_url)
        try:
            barrier.wait()
            upgrade(own)
            return is_current(own)
        finally:
            own.dispose()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(start, range(4))) == [True] * 4


def test_a_migration_that_fails_leaves_nothing_behind(empty: Engine) -> None:
    with writing(empty) as connection:
        connection.execute(text("CREATE TABLE tokens (id INTEGER)"))
    with pytest.raises(DatabaseError, match="already exists"):
        upgrade(empty)
    assert pending(empty) == ["0001"]
    with pytest.raises(DatabaseError, match="database upgrade"):
        GraphStore(empty).count()
    with writing(empty) as connection:
        connection.execute(text("DROP TABLE tokens"))
    upgrade(empty)
    assert is_current(empty)


def test_a_database_of_a_newer_release_is_refused(empty: Engine) -> None:
    upgrade(empty)
    with writing(empty) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert not is_current(empty)
    for do in (pending, upgrade):
        with pytest.raises(DatabaseError, match="schema 9999"):
            do(empty)


def test_a_database_without_tables_says_how_to_make_them(empty: Engine) -> None:
    with pytest.raises(DatabaseError, match="latency-service database upgrade"):
        GraphStore(empty).count()
