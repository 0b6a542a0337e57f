"""Short answers are computed on the event loop, all others in a thread; both are the same."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

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


def test_giving_up_early_changes_no_number() -> None:
    light = graph_from_json(graph("light"))
    assert cost_model(light, briefly=True).groups == cost_model(light).groups
    for heavy in ([wide(300_000)], slices(250)):
        with pytest.raises(TakesLong):
            cost_model(graph_from_json(graph("heavy", *heavy)), briefly=True)
