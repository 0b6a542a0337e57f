"""Short answers are computed on the event loop, all others in a thread; both are the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from onnx import TensorProto, helper

from latency_service.api.routes import coefficients
from latency_service.core.costing import TakesLong, cost_model
from latency_service.core.graph import graph_from_json
from tests.api.graphs import two_layer


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where functions were run."""
    used: list[str] = []
    for name in ("on_the_loop", "in_turn"):
        runs = getattr(coefficients, name)

        async def noting(*arguments: Any, name: str = name, runs: Any = runs) -> Any:
            found = await runs(*arguments)
            used.append(name)
            return found

        monkeypatch.setattr(coefficients, name, noting)
    return used


def graph(name: str, *more: dict[str, Any]) -> dict[str, Any]:
    document = two_layer()
    document["layers"][0]["name"] = name
    document["layers"] += more
    return document


def wide(channels: int) -> dict[str, Any]:
    """A layer beside the others with so many channels."""
    weight = {"role": "weight", "shape": [channels, two_layer()["inputs"][0]["shape"][1], 1, 1]}
    return {"name": "wide", "op": "Conv", "inputs": ["image"], "parameters": [weight]}


def slices(count: int) -> list[dict[str, Any]]:
    """Layers each of which keeps a channel less than the one before: as many channel groups."""
    source = wide(count + 2) | {"name": "from"}
    cut = [
        {
            "name": f"cut{k}",
            "op": "Slice",
            "inputs": [f"cut{k - 1}" if k else "from"],
            "attributes": {"starts": [0], "ends": [count + 1 - k], "axes": [1]},
        }
        for k in range(count)
    ]
    return [source, *cut]


def ask(client: TestClient, **request: Any) -> dict[str, Any]:
    reply = client.post("/v1/coefficients", json=request)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_a_short_graph_is_costed_on_the_loop(client: TestClient, turns: list[str]) -> None:
    ask(client, device="p100", graph=graph("short"))
    # the catalogue is looked up first
    assert turns == ["in_turn", "on_the_loop"]


def test_what_is_looked_up_is_looked_up_in_a_thread(client: TestClient, turns: list[str]) -> None:
    stored = client.post("/v1/graphs", json=graph("stored")).json()["graph_id"]
    ask(client, device="p100", graph_id=stored)
    ask(client, device="p100", graph=graph("pinned"), revision=1)
    assert "on_the_loop" not in turns


@pytest.mark.parametrize("heavy", [[wide(300_000)], slices(250)], ids=["channels", "groups"])
def test_a_short_text_that_takes_long_is_costed_in_a_thread(
    client: TestClient, turns: list[str], heavy: list[dict[str, Any]]
) -> None:
    document = graph("heavy", *heavy)
    answer = ask(client, device="p100", graph=document)
    assert turns == ["in_turn", "in_turn"]
    assert len(answer["layers"]) == len(document["layers"])


def chain(nodes: int, name: str, more: int = 0) -> bytes:
    """An ONNX file of so many nodes in a row, and so many outputs that nothing writes or reads."""
    relus = [helper.make_node("Relu", [f"x{n}"], [f"x{n + 1}"]) for n in range(nodes)]
    model = helper.make_model(
        helper.make_graph(
            relus,
            name,
            [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, 7, 11, 13])],
            [helper.make_tensor_value_info(f"x{nodes}", TensorProto.FLOAT, None)],
            value_info=[
                helper.make_tensor_value_info(f"v{n}", TensorProto.FLOAT, None) for n in range(more)
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize(
    ("file", "where"),
    [
        (chain(7, "short"), "on_the_loop"),
        (chain(351, "long"), "in_turn"),
        (chain(3, "many fields", 5_000), "in_turn"),
        (json.dumps(graph("json")).encode(), "on_the_loop"),
        (json.dumps(graph("json") | {"name": 2**17 * "n"}).encode(), None),
    ],
    ids=["few nodes", "many nodes", "many fields", "graph", "long graph"],
)
def test_a_file_is_costed_where_its_structure_says(
    client: TestClient, turns: list[str], file: bytes, where: str | None
) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    reply = client.post("/v1/coefficients?device=p100", content=file, headers=headers)
    if where is None:
        # it was given up on the loop, and refused in a thread for its name
        assert reply.status_code == 422
        assert "on_the_loop" not in turns
        return
    assert reply.status_code == 200, reply.text
    assert turns == ["in_turn", where]


def test_giving_up_early_changes_no_number() -> None:
    light = graph_from_json(graph("light"))
    assert cost_model(light, briefly=True).groups == cost_model(light).groups
    for heavy in ([wide(300_000)], slices(250)):
        with pytest.raises(TakesLong):
            cost_model(graph_from_json(graph("heavy", *heavy)), briefly=True)
