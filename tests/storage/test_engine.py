"""Opening a database, and what happens when it cannot be."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, exc, text

from latency_service.core.errors import DatabaseError, MissingExtraError
from latency_service.storage.engine import make_engine, reading, shown, writing
from latency_service.storage.migrate import is_current, upgrade
from latency_service.storage.profiles import ProfileRepository
from tests.contracts.builders import profile

SETTING = "LATENCY_SERVICE_DATABASE_URL"


def test_a_sqlite_database_is_made_with_its_folder(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'a' / 'b' / 'latency.db'}")
    with reading(engine) as connection:
        for pragma, value in (("journal_mode", "wal"), ("foreign_keys", 1), ("synchronous", 1)):
            assert connection.execute(text(f"PRAGMA {pragma}")).scalar() == value
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 20_000
    assert (tmp_path / "a" / "b" / "latency.db").exists()
    engine.dispose()


def test_a_database_in_memory_is_shared_by_threads() -> None:
    engine = make_engine("sqlite://")
    upgrade(engine)
    repository = ProfileRepository(engine)
    with ThreadPoolExecutor(5) as pool:
        appended = pool.map(
            lambda n: repository.append(profile(flops_per_s=n + 1), "datasheet")[0].revision,
            range(11),
        )
        assert sorted(appended) == list(range(1, 12))
    engine.dispose()


def test_reading_then_writing_waits_its_turn_instead_of_failing(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE counter (n INTEGER)"))
        connection.execute(text("INSERT INTO counter VALUES (0)"))
    for_update = " FOR UPDATE" if engine.dialect.name == "postgresql" else ""

    def count(_: int) -> None:
        with writing(engine) as connection:
            n = connection.execute(text(f"SELECT n FROM counter{for_update}")).scalar_one()
            connection.execute(text("UPDATE counter SET n = :n"), {"n": n + 1})

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(120)))
    with reading(engine) as connection:
        assert connection.execute(text("SELECT n FROM counter")).scalar() == 120


def test_an_error_rolls_everything_back(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("CREATE TABLE notes (n INTEGER PRIMARY KEY)"))

    def write(*values: int) -> None:
        with writing(engine) as connection:
            for value in values:
                connection.execute(text(f"INSERT INTO notes VALUES ({6 // value})"))

    with pytest.raises(ZeroDivisionError):
        write(2, 0)
    with pytest.raises(exc.IntegrityError):
        write(2, 2)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM notes")).scalar() == 0


def test_a_snapshot_sees_one_state(engine: Engine) -> None:
    repository = ProfileRepository(engine)
    upgrade(engine)
    count = text("SELECT count(*) FROM revisions")
    with reading(engine, snapshot=True) as connection:
        assert connection.execute(count).scalar() == 0
        repository.append(profile(), "datasheet")
        assert connection.execute(count).scalar() == 0
    with reading(engine) as connection:
        assert connection.execute(count).scalar() == 1


@pytest.mark.parametrize("driver", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_uses_psycopg_3(driver: str) -> None:
    pytest.importorskip("psycopg")
    engine = make_engine(f"{driver}://me:secret@db.example/latency")
    assert engine.dialect.driver == "psycopg"


@pytest.mark.postgres
@pytest.mark.parametrize("driver", ["postgres", "postgresql"])
def test_a_postgresql_url_connects(postgres_url: str, driver: str) -> None:
    engine = make_engine(postgres_url.replace("postgresql+psycopg", driver))
    upgrade(engine)
    assert is_current(engine)
    engine.dispose()


def test_without_psycopg_the_error_gives_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'latency-service\[postgres\]'"):
        make_engine("postgresql://me:secret@db.example/latency")


@pytest.mark.parametrize(
    "url",
    ["", "no url with secret", "mysql://me:secret@host/x", "postgresql+psycopg2://me:secret@h/x",
     "postgresql://me:secret@host:port/x"],
)  # fmt: skip
def test_another_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(DatabaseError, match=SETTING) as caught:
        make_engine(url)
    assert "secret" not in str(caught.value)


def test_an_unreachable_server_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg")
    engine = make_engine("postgresql://me:secret@127.0.0.1:1/latency?sslpassword=secret")
    with pytest.raises(DatabaseError, match=SETTING) as caught:
        ProfileRepository(engine).epoch()
    assert "127.0.0.1:1/latency" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "secret" not in shown(engine.url)
    engine.dispose()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latency.db"
    path.write_bytes(b"not a database, whatever its name" * 100)
    engine = make_engine(f"sqlite:///{path}")
    for use in (ProfileRepository(engine).epoch, lambda: upgrade(engine)):
        with pytest.raises(DatabaseError, match=SETTING) as caught:
            use()
        assert str(path) in str(caught.value)
        assert "not a database" in str(caught.value)
    engine.dispose()


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latency.db"
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    ProfileRepository(engine).append(profile(), "datasheet")
    engine.dispose()
    header = 4096
    whole = path.read_bytes()
    path.write_bytes(whole[:header] + b"\xff" * (len(whole) - header))
    with pytest.raises(DatabaseError, match="malformed") as caught:
        ProfileRepository(engine).catalogue()
    assert str(path) in str(caught.value)
    engine.dispose()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatabaseError, match="cannot be made"):
        make_engine(f"sqlite:///{tmp_path / 'file' / 'latency.db'}")


def test_a_path_that_is_a_folder_is_named(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}")
    with pytest.raises(DatabaseError, match="unable to open database file"):
        ProfileRepository(engine).epoch()
    engine.dispose()
