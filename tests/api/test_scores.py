import io

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.api.graphs import FILTERS, two_layer

NPY = "application/x-npy"
ALIVE = [[FILTERS], [13], [1]]


def body(**changes):
    return {
        "devices": ["v100", "p100"],
        "graph": two_layer(),
        "groups": ["g1"],
        "alive": ALIVE,
        "freeze_outputs": False,
    } | changes


def npy(matrix) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, matrix)
    return buffer.getvalue()


def test_scores_equal_coefficients_at_the_same_structure(client: TestClient) -> None:
    answer = client.post("/v1/scores", json=body()).json()

    assert [device["name"] for device in answer["devices"]] == ["v100-sxm2-16gb", "p100-pcie-16gb"]
    for row, (alive,) in enumerate(ALIVE):
        for column, device in enumerate(("v100", "p100")):
            totals = client.post(
                "/v1/coefficients",
                json={
                    "device": device,
                    "graph": two_layer(),
                    "freeze_outputs": False,
                    "alive": {"g1": alive},
                },
            ).json()["totals"]
            assert answer["latency_s"][row][column] == pytest.approx(totals["latency_s"])
            for quantity in ("flops", "weights", "parameters"):
                assert answer[quantity][row] == totals[quantity]


def test_groups_not_named_stay_at_full_width(client: TestClient) -> None:
    answer = client.post("/v1/scores", json=body(groups=[], alive=[[], []])).json()
    full = client.post("/v1/scores", json=body(alive=[[FILTERS]])).json()

    assert answer["flops"] == full["flops"] * 2


def test_matrices_travel_as_npy(client: TestClient) -> None:
    graph_id = client.post("/v1/graphs", json=two_layer()).json()["graph_id"]
    as_json = client.post("/v1/scores", json=body()).json()
    query = {
        "devices": "v100,p100",
        "graph_id": graph_id,
        "groups": "g1",
        "freeze_outputs": "false",
    }
    matrix = npy(np.array(ALIVE, dtype=np.int32))

    reply = client.post(
        "/v1/scores", params=query, content=matrix, headers={"content-type": NPY, "accept": NPY}
    )
    flops = client.post(
        "/v1/scores",
        params=query | {"quantity": "flops"},
        content=matrix,
        headers={"content-type": NPY, "accept": NPY},
    )
    mixed = client.post("/v1/scores", params=query, content=matrix, headers={"content-type": NPY})

    assert reply.headers["content-type"] == NPY
    assert np.load(io.BytesIO(reply.content)).tolist() == as_json["latency_s"]
    assert np.load(io.BytesIO(flops.content)).tolist() == as_json["flops"]
    assert mixed.json() == as_json


@pytest.mark.parametrize(
    ("changes", "status", "culprit"),
    [
        ({"alive": [[FILTERS + 1]]}, 422, "g1"),
        ({"alive": [[-1]]}, 422, "g1"),
        ({"alive": [[1.5]]}, 422, "whole"),
        ({"alive": [[1, 2]]}, 422, "column"),
        ({"alive": [[1], [1, 2]]}, 422, "length"),
        ({"alive": []}, 422, "sub-network"),
        ({"alive": "many"}, 422, "alive"),
        ({"alive": [[True]]}, 422, "alive"),
        ({"groups": ["g7"]}, 422, "g7"),
        ({"groups": ["g1", "g1"], "alive": [[1, 1]]}, 422, "twice"),
        ({"devices": []}, 422, "device"),
        ({"devices": ["v1000"]}, 404, "v1000"),
        ({"devices": "v100"}, 422, "devices"),
        ({"revision": 1}, 422, "revision"),
        ({"alive": [[1]] * 1001}, 422, "LATENCY_SERVICE_MAX_SCORE_ROWS"),
        ({"quantity": "joules"}, 422, "joules"),
    ],
)
def test_an_impossible_request_is_refused(
    client: TestClient, changes: dict, status: int, culprit: str
) -> None:
    reply = client.post("/v1/scores", json=body(**changes))

    assert reply.status_code == status, reply.text
    assert culprit in reply.json()["detail"]


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"nonsense", npy(np.array([["a"]])), npy(np.array([1.0, 2.0]))]
)
def test_what_is_no_matrix_is_refused(client: TestClient, content: bytes) -> None:
    graph_id = client.post("/v1/graphs", json=two_layer()).json()["graph_id"]
    reply = client.post(
        "/v1/scores",
        params={"devices": "v100", "graph_id": graph_id, "groups": "g1"},
        content=content,
        headers={"content-type": NPY},
    )

    assert reply.status_code in (400, 422)


def test_a_pickled_matrix_is_refused_unread(client: TestClient) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    reply = client.post(
        "/v1/scores",
        params={"devices": "v100", "graph_id": "sha256:0", "groups": "g1"},
        content=buffer.getvalue(),
        headers={"content-type": NPY},
    )

    assert reply.status_code == 400
