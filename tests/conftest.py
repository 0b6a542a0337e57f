"""Databases for the tests: SQLite always, PostgreSQL where there is one or one can be started."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from sqlalchemy import Engine, create_engine, text

from latency_service.storage.engine import make_engine
from latency_service.storage.migrate import upgrade

# Generated tests are the same in every run; --hypothesis-profile=explore looks further.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL database to make schemas in.

    LATENCY_SERVICE_TEST_POSTGRES_URL, or a server of our own that ends with the tests.
    """
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    given = os.environ.get("LATENCY_SERVICE_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL: neither its programs nor LATENCY_SERVICE_TEST_POSTGRES_URL")
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    # Not tmp_path: others cannot enter it, and the path of a socket is short.
    folder = Path(tempfile.mkdtemp(prefix="latency-pg-", dir="/tmp"))
    try:
        if user is not None:
            try:
                shutil.chown(folder, user, user)
            except LookupError:
                pytest.skip("as root, PostgreSQL needs a system user called postgres")
        data = str(folder / "data")
        made_by = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [programs / "initdb", "-D", data, *made_by],
            user=user,
            cwd="/",
            check=True,
            capture_output=True,
        )
        options = f"-F -k {folder} -c listen_addresses= -c max_connections=100".split()
        with (
            (folder / "log").open("w") as log,
            subprocess.Popen(
                [programs / "postgres", "-D", data, *options],
                user=user,
                cwd="/",
                stdout=log,
                stderr=log,
            ) as server,
        ):
            try:
                url = f"postgresql+psycopg://postgres@/postgres?host={folder}"
                _wait_for(url, server, folder / "log")
                yield url
            finally:
                server.send_signal(2)  # SIGINT: end the sessions, then stop
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL schema of this test's own."""
    schema = f"test_{uuid.uuid4().hex}"
    admin = create_engine(postgres_server)
    with admin.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    joint = "&" if "?" in postgres_server else "?"
    yield f"{postgres_server}{joint}options=-csearch_path%3D{schema}"
    with admin.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    admin.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'latency.db'}"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine over a migrated, empty database, once of each kind."""
    engine = make_engine(database_url)
    upgrade(engine)
    yield engine
    engine.dispose()


def _postgres_programs() -> Path | None:
    """The folder of initdb and postgres; on Debian not on the PATH, newest version first."""
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    for folder in [*([Path(on_path).resolve().parent] if on_path else []), *debian]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


def _version(folder: Path) -> float:
    name = folder.parent.name
    return float(name) if name.replace(".", "", 1).isdigit() else 0.0


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    give_up_at = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url.replace("+psycopg", "")).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > give_up_at:
                pytest.fail(f"PostgreSQL did not start:\n{log.read_text()}")
            time.sleep(0.05)
