"""The contract as a whole: OpenAPI is complete, errors have a status, probes answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from latency_service.api import openapi
from latency_service.api.app import create_app
from latency_service.api.problems import STATUS
from latency_service.core.errors import LatencyServiceError
from latency_service.settings import Settings
from latency_service.usecases import open_workbench
from tests.api.graphs import two_layer

SNAPSHOT = Path(__file__).parents[2] / "docs" / "openapi.json"


def subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_error_has_a_status() -> None:
    assert set(subclasses(LatencyServiceError)) == set(STATUS)


def test_openapi_is_the_one_under_docs() -> None:
    assert SNAPSHOT.read_text() == openapi.document(), (
        "the API has changed: python -m latency_service.api.openapi > docs/openapi.json"
    )


def test_every_answer_in_openapi_is_described(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()

    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], path
            for status, answer in operation["responses"].items():
                assert answer["description"], (path, status)
                if status.startswith("4"):
                    assert "application/problem+json" in answer["content"], (path, status)
            if path.startswith("/v1"):
                assert "401" in operation["responses"], path
            if method == "post":
                assert operation["requestBody"]["content"], path


def test_every_reference_in_openapi_resolves(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    names = set(schema["components"]["schemas"])

    def references(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for child in value.values():
                yield from references(child)
        elif isinstance(value, list):
            for child in value:
                yield from references(child)

    for reference in references(schema):
        assert reference.removeprefix("#/components/schemas/") in names


def test_requests_are_counted_by_route(client: TestClient) -> None:
    client.get("/v1/devices/v100")

    text = client.get("/metrics").text

    assert 'route="/v1/devices/{device}"' in text
    assert "latency_service_request_seconds_bucket" in text


def test_an_empty_database_is_not_ready(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path, migrate_at_start=False)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        assert client.get("/healthz").status_code == 200
        reply = client.get("/readyz")
        assert reply.status_code == 503
        assert "database upgrade" in reply.json()["detail"]


def test_closed_reads_need_a_token(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path, open_reads=False)
    bench = open_workbench(settings)
    _, secret = bench.tokens.create("reader")
    bench.close()
    body = {"device": "v100", "graph": two_layer()}
    with TestClient(create_app(settings)) as client:
        assert client.get("/v1/devices").status_code == 401
        assert client.post("/v1/coefficients", json=body).status_code == 401
        headers = {"Authorization": f"Bearer {secret}"}
        assert client.get("/v1/devices", headers=headers).status_code == 200
        assert client.post("/v1/coefficients", json=body, headers=headers).status_code == 200
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("url", ["postgresql://nobody:secret@127.0.0.1:1/none", "nonsense"])
def test_an_unusable_database_is_told_without_its_password(url: str) -> None:
    with pytest.raises(LatencyServiceError, match="LATENCY_SERVICE_DATABASE_URL") as caught:
        open_workbench(Settings(database_url=url))

    assert "secret" not in str(caught.value)
