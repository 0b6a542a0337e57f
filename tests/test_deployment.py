"""What the compose file and the image run exists; no engine is needed to know."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from latency_service.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_three_services_start_in_order() -> None:
    services = COMPOSE["services"]

    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert services["migrate"]["command"] == ["database", "upgrade"]
    waits_for = services["api"]["depends_on"]["migrate"]["condition"]
    assert waits_for == "service_completed_successfully"
    assert services["api"]["command"][0] == "serve"
    assert int(services["api"]["command"][-1]) > 1


@pytest.mark.parametrize("service", ["migrate", "api"])
def test_every_setting_in_the_compose_file_exists(service: str) -> None:
    environment = COMPOSE["services"][service]["environment"]
    known = {f"LATENCY_SERVICE_{name.upper()}" for name in Settings.model_fields}

    assert {name for name in environment if name.startswith("LATENCY_SERVICE_")} <= known
    assert environment["LATENCY_SERVICE_MIGRATE_AT_START"] == "false"
    assert environment["LATENCY_SERVICE_DATABASE_URL"].startswith("postgresql+psycopg://")


def test_no_password_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()

    assert text.count("${POSTGRES_PASSWORD:?") == text.count("${POSTGRES_PASSWORD")


def test_the_image_copies_what_is_there_and_does_not_run_as_root() -> None:
    for line in DOCKERFILE.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
    assert "USER 10001" in DOCKERFILE
    assert 'ENTRYPOINT ["latency-service"]' in DOCKERFILE
