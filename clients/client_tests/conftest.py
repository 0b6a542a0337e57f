"""A service in this process for the tests of its clients."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from hypothesis import settings as hypothesis_settings

from latency_client.cache import Cache
from latency_client.service import HttpService
from latency_service.api.app import create_app
from latency_service.settings import Settings

# Generated tests are the same in every run.
hypothesis_settings.register_profile("clients", derandomize=True, deadline=None, database=None)
hypothesis_settings.load_profile("clients")


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service with the profiles that are shipped and an empty database."""
    settings = Settings(data_directory=tmp_path_factory.mktemp("service"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = uvicorn.Config(
        create_app(settings), host="127.0.0.1", port=port, log_level="error", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    give_up_at = time.monotonic() + 60
    while not server.started:
        if time.monotonic() > give_up_at or not thread.is_alive():
            pytest.fail("the service did not start")
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def service(service_url: str) -> HttpService:
    """The same as a source of answers, without a cache."""
    return HttpService(service_url, timeout_s=60)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")
