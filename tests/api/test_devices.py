import copy

import pytest
from fastapi.testclient import TestClient

from latency_service.usecases import Workbench


@pytest.fixture
def token(bench: Workbench, request: pytest.FixtureRequest) -> dict[str, str]:
    _, secret = bench.tokens.create(request.node.name)
    return {"Authorization": f"Bearer {secret}"}


def profile_of(client: TestClient, device: str):
    return copy.deepcopy(client.get(f"/v1/devices/{device}").json()["default"]["profile"])


def test_all_shipped_devices_are_listed(client: TestClient) -> None:
    page = client.get("/v1/devices").json()

    assert page["total"] >= 100
    v100 = next(row for row in page["devices"] if row["name"] == "v100-sxm2-16gb")
    assert v100["peak_flops_per_s"] == 125e12
    assert (v100["peak_dtype"], v100["peak_math"]) == ("float32", "float16")
    assert v100["bytes_per_s"] == 900e9
    assert "v100" in v100["aliases"]


def test_devices_are_found_by_name_and_kind_and_paged(client: TestClient) -> None:
    found = client.get("/v1/devices", params={"q": "TESLA", "kind": "gpu"}).json()
    page = client.get("/v1/devices", params={"q": "tesla", "limit": 2, "offset": 1}).json()

    assert found["total"] == page["total"] > 3
    assert [r["name"] for r in page["devices"]] == [r["name"] for r in found["devices"][1:3]]
    assert client.get("/v1/devices", params={"kind": "abacus"}).status_code == 422


def test_a_device_shows_every_rate_with_its_source(client: TestClient) -> None:
    device = client.get("/v1/devices/Tesla-P100").json()

    assert device["name"] == "p100-pcie-16gb"
    profile = device["default"]["profile"]
    assert profile["memory"]["bytes_per_s"] == 732e9
    for rate in [*profile["compute"], profile["memory"]]:
        assert rate["origin"]
        assert rate["source"]


def test_another_runtime_of_a_device(client: TestClient) -> None:
    device = client.get("/v1/devices/t4", params={"runtime": "morphnet"}).json()

    assert device["default"]["profile"]["memory"]["bytes_per_s"] == 300e9
    assert device["runtimes"] == ["ideal", "morphnet", "pytorch-eager-cuda"]


def test_appending_needs_a_calibrate_token(client: TestClient, bench: Workbench) -> None:
    body = {"profile": profile_of(client, "a100-pcie-40gb")}
    url = "/v1/devices/a100-pcie-40gb/revisions"
    name = "revoked"
    token_id, secret = bench.tokens.create(name)
    bench.tokens.revoke(token_id)

    for headers in (
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": f"Bearer {secret}"},
    ):
        reply = client.post(url, json=body, headers=headers)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"


def test_a_calibration_is_appended_once_and_becomes_the_default(
    client: TestClient, token: dict[str, str]
) -> None:
    profile = profile_of(client, "rtx-3070")
    profile["runtime"] = "pytorch-eager-cuda"
    profile["memory"] = {
        "bytes_per_s": 401e9,
        "origin": "measured",
        "source": "this test",
        "note": None,
    }
    body = {
        "profile": profile,
        "origin": "measured",
        "samples": [{"op": "Add", "inputs": [[7, 11]], "latency_s": 1e-5}],
    }
    url = "/v1/devices/rtx-3070/revisions"

    first = client.post(url, json=body, headers=token)
    again = client.post(url, json=body, headers=token)

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert first.headers["location"] == f"{url}/{first.json()['revision']}"
    device = client.get("/v1/devices/rtx-3070").json()
    assert device["default_runtime"] == "pytorch-eager-cuda"
    assert device["bytes_per_s"] == 401e9
    samples = client.get(f"{first.headers['location']}/samples").json()
    assert samples["samples"] == body["samples"]
    history = client.get(url).json()["revisions"]
    assert [row["revision"] for row in history] == [2, 1]


def test_a_new_device_is_created(client: TestClient, token: dict[str, str]) -> None:
    profile = profile_of(client, "cpu-generic")
    profile["device"] |= {"slug": "my-board", "aliases": ["board"], "name": "My board"}

    reply = client.post("/v1/devices/my-board/revisions", json={"profile": profile}, headers=token)

    assert reply.status_code == 201
    assert client.get("/v1/devices/BOARD").json()["name"] == "my-board"


def test_an_alias_of_another_device_is_a_conflict(
    client: TestClient, token: dict[str, str]
) -> None:
    profile = profile_of(client, "cpu-generic")
    profile["device"] |= {"slug": "impostor", "aliases": ["v100"]}

    reply = client.post("/v1/devices/impostor/revisions", json={"profile": profile}, headers=token)

    assert reply.status_code == 409
    assert "v100" in reply.json()["detail"]


def test_a_malformed_profile_is_refused_by_field(client: TestClient, token: dict[str, str]) -> None:
    profile = profile_of(client, "t4")
    profile["compute"][0]["flops_per_s"] = -1
    wrong = client.post("/v1/devices/t4/revisions", json={"profile": profile}, headers=token)
    elsewhere = client.post(
        "/v1/devices/p4/revisions", json={"profile": profile_of(client, "t4")}, headers=token
    )

    assert wrong.status_code == elsewhere.status_code == 422
    assert "flops_per_s" in wrong.json()["detail"]
    assert "t4" in elsewhere.json()["detail"]
