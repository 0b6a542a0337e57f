from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from latency_service.api.app import create_app
from latency_service.settings import Settings
from latency_service.usecases import Workbench


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        data_directory=tmp_path_factory.mktemp("data"),
        max_body_bytes=2**20,
        max_model_bytes=2**22,
        max_layers=500,
        max_score_rows=1000,
        profile_refresh_s=0,
    )


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as running:
        yield running


@pytest.fixture
def bench(client: TestClient) -> Workbench:
    found: Workbench = client.app.state.workbench  # type: ignore[attr-defined]
    return found


@pytest.fixture(scope="session")
def examples() -> Path:
    return Path(__file__).parents[2] / "examples"
