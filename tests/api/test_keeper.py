"""Graphs that come with requests are stored, several in a transaction, before answers go out."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import anyio
import pytest

from latency_service.api.keeper import Keeper
from latency_service.core.binding import Binding
from latency_service.core.errors import DatabaseError
from latency_service.core.graph import LayerGraph
from latency_service.ingest.layer_graph import parse_layer_graph
from latency_service.storage.graphs import StoredGraph
from latency_service.usecases import Workbench
from latency_service.usecases.coefficients import Addressed, address, stored_graph
from tests.api.graphs import two_layer


def graph(bench: Workbench, name: str) -> Addressed:
    document = two_layer()
    document["layers"][0]["name"] = name
    return address(bench, parse_layer_graph(document), Binding())


class Spy:
    """Counts transactions, and holds the first one until it is told to go on."""

    def __init__(self, bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.fails = False
        self.goes_on = threading.Event()
        self._put = bench.graphs.put_all
        monkeypatch.setattr(bench.graphs, "put_all", self)

    def __call__(self, wanted: Sequence[StoredGraph]) -> set[str]:
        self.sizes.append(len(wanted))
        assert self.goes_on.wait(10)
        if self.fails:
            raise DatabaseError("the disk is full")
        return self._put(wanted)


@pytest.fixture
def spy(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(bench, monkeypatch)


async def kept_together(
    keeper: Keeper, graphs: Sequence[Addressed], spy: Spy, first_leaves: bool = False
) -> None:
    """The others come while the first one's transaction is under way."""
    async with anyio.create_task_group() as others, anyio.create_task_group() as first:
        first.start_soon(keeper.keep, graphs[0])
        await anyio.wait_all_tasks_blocked()
        for found in graphs[1:]:
            others.start_soon(keeper.keep, found)
        await anyio.wait_all_tasks_blocked()
        if first_leaves:
            first.cancel_scope.cancel()
        spy.goes_on.set()


def test_what_gathers_during_a_transaction_is_stored_by_the_next(
    bench: Workbench, spy: Spy
) -> None:
    graphs = [graph(bench, f"gathers-{n}") for n in range(7)]

    anyio.run(kept_together, Keeper(bench), graphs, spy)

    assert spy.sizes == [1, 6]
    for found in graphs:
        bench.parsed.forget()
        assert isinstance(stored_graph(bench, found.graph_id), LayerGraph)


def test_no_transaction_is_larger_than_the_store(bench: Workbench, spy: Spy) -> None:
    anyio.run(
        kept_together, Keeper(bench, most=3), [graph(bench, f"capped-{n}") for n in range(8)], spy
    )

    assert spy.sizes == [1, 3, 3, 1]


def test_a_graph_from_the_store_is_not_stored_again(bench: Workbench, spy: Spy) -> None:
    found = graph(bench, "named")
    anyio.run(Keeper(bench).keep, Addressed(found.graph_id, found.graph))
    assert spy.sizes == []


def test_everybody_hears_that_nothing_was_stored(bench: Workbench, spy: Spy) -> None:
    spy.fails = True
    heard: list[str] = []

    async def ask(keeper: Keeper, found: Addressed) -> None:
        with pytest.raises(DatabaseError) as refusal:
            await keeper.keep(found)
        heard.append(str(refusal.value))

    async def run() -> None:
        keeper = Keeper(bench)
        async with anyio.create_task_group() as tasks:
            for n in range(3):
                tasks.start_soon(ask, keeper, graph(bench, f"unlucky-{n}"))
            await anyio.wait_all_tasks_blocked()
            spy.goes_on.set()
        spy.fails = False
        # and the next one is stored as if nothing had happened
        await keeper.keep(graph(bench, "lucky"))

    anyio.run(run)
    assert heard == ["the disk is full"] * 3
    assert spy.sizes == [3, 1]


def test_who_goes_away_leaves_the_others_work_to_be_done(bench: Workbench, spy: Spy) -> None:
    graphs = [graph(bench, f"stays-{n}") for n in range(3)]

    anyio.run(kept_together, Keeper(bench), graphs, spy, True)

    bench.parsed.forget()
    for found in graphs[1:]:
        assert isinstance(stored_graph(bench, found.graph_id), LayerGraph)
