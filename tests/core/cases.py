"""One layer under test, and what it must cost by hand arithmetic.

A `Case` puts one operator behind producers that write its inputs' channels, so that these can be
pruned. Dimensions are distinct primes: a channel group is told by its size, and swapped axes cannot
cancel. `cost` spells the arithmetic out once, as a function of the live channels; it is checked at
full width and at every pruned structure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from latency_service.core.bind import bind
from latency_service.core.binding import Binding
from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel, Pruning
from latency_service.core.graph import LayerGraph, graph_from_json
from latency_service.core.live import live_counts
from latency_service.core.scoring import evaluate, structure

FLOAT = 4  # bytes of a float32
LAYER = "layer"


@dataclass(frozen=True)
class Cost:
    """What a layer costs at one structure."""

    flops: float = 0
    bytes: float = 0
    weights: float = 0
    parameters: float = 0


@dataclass(frozen=True)
class Feed:
    """An input of the layer under test.

    Attributes:
        axis: where its prunable channels are (1, or the last one); None: it has none.
    """

    name: str
    shape: tuple[int, ...]
    axis: int | None = None
    dtype: str = "float32"


def data(name: str, *shape: int, dtype: str = "float32") -> Feed:
    """An input without channels: it comes straight from outside."""
    return Feed(name, shape, None, dtype)


def image(name: str, *shape: int, dtype: str = "float32") -> Feed:
    """An input with prunable channels on axis 1."""
    return Feed(name, shape, 1, dtype)


def features(name: str, *shape: int, dtype: str = "float32") -> Feed:
    """An input with prunable channels on its last axis."""
    return Feed(name, shape, len(shape) - 1, dtype)


@dataclass(frozen=True)
class Case:
    """A layer and its hand-computed expectation.

    Attributes:
        op: the operator; `label` tells several cases of one apart.
        feeds: its activations, in order; None for one that is left out.
        shapes: of the outputs.
        cost: from the live channels of `widths`, in that order.
        widths: sizes of the prunable groups that the cost depends on.
        pruned: live channels of these groups at which `cost` is checked besides full width.
        reads, writes: (group size, times); None: not checked.
        fixed: sizes of groups that must not be prunable.
        outputs: what the layer states about its outputs, by default only their names.
        more: layers beside it: readers, or writers of computed settings.
    """

    op: str
    feeds: Sequence[Feed | None]
    shapes: Sequence[tuple[int, ...]]
    cost: Callable[..., Cost]
    widths: tuple[int, ...] = ()
    pruned: tuple[tuple[int, ...], ...] = ()
    reads: tuple[tuple[int, float], ...] | None = None
    writes: tuple[tuple[int, float], ...] | None = None
    fixed: tuple[int, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    parameters: list[dict[str, Any]] | None = None
    outputs: Sequence[dict[str, Any]] = ({},)
    label: str = ""
    more: Sequence[dict[str, Any]] = ()

    def __str__(self) -> str:
        return f"{self.op} {self.label}".strip()

    def graph(self) -> LayerGraph:
        """The layer behind the producers of its channels."""
        inputs: list[dict[str, Any]] = []
        layers: list[dict[str, Any]] = [*self.more]
        for feed in dict.fromkeys(feed for feed in self.feeds if feed is not None):
            if any(feed.name == out["name"] for row in self.more for out in row["outputs"]):
                continue
            if feed.axis is None:
                inputs.append(_input(feed.name, feed.shape, feed.dtype))
            else:
                inputs.append(_input(f"{feed.name}/from", _source(feed), "float32"))
                layers.append(_producer(feed))
        row: dict[str, Any] = {
            "name": LAYER,
            "op": self.op,
            "inputs": ["" if feed is None else feed.name for feed in self.feeds],
            "outputs": [{"name": f"y{i}"} | dict(out) for i, out in enumerate(self.outputs)],
            "attributes": self.attributes,
        }
        if self.parameters is not None:
            row["parameters"] = self.parameters
        layers.append(row)
        return graph_from_json({"inputs": inputs, "layers": layers, "outputs": ["y0"]})


def _input(name: str, shape: Sequence[int], dtype: str) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "dtype": dtype, "batch_axis": None}


def _source(feed: Feed) -> list[int]:
    shape = list(feed.shape)
    assert feed.axis is not None
    shape[feed.axis] = 1
    return shape


def _producer(feed: Feed) -> dict[str, Any]:
    """A layer that turns a single channel into those of the feed."""
    assert feed.axis is not None
    channels, rank = feed.shape[feed.axis], len(feed.shape)
    if feed.axis == rank - 1:
        op, weight = ("Gemm", [channels, 1]) if rank == 2 else ("MatMul", [1, channels])
    else:
        op, weight = "Conv", [channels, 1] + [1] * (rank - 2)
    return {
        "name": f"make {feed.name}",
        "op": op,
        "inputs": [f"{feed.name}/from"],
        "outputs": [{"name": feed.name, "dtype": feed.dtype}],
        "parameters": [{"role": "weight", "shape": weight}],
    }


def learned(role: str, *shape: int, dtype: str | None = None, **more: Any) -> dict[str, Any]:
    """A parameter."""
    return {"role": role, "shape": list(shape), **({"dtype": dtype} if dtype else {}), **more}


def weight(*shape: int, dtype: str | None = None) -> dict[str, Any]:
    """A kernel."""
    return learned("weight", *shape, dtype=dtype)


def bias(*shape: int) -> dict[str, Any]:
    """A bias."""
    return learned("bias", *shape)


# --- checking ------------------------------------------------------------


def costed(graph: LayerGraph) -> CostModel:
    """The cost model in which the network's outputs may be pruned too."""
    return cost_model(graph, Binding(), Pruning(freeze_outputs=False))


def group_of(costs: CostModel, size: int) -> str:
    """Id of the group of that size."""
    found = [group.id for group in costs.groups if group.size == size]
    assert len(found) == 1, f"groups: {[(g.id, g.size, g.prunable) for g in costs.groups]}"
    return found[0]


def cost_at(costs: CostModel, name: str, alive: dict[int, int]) -> Cost:
    """What one layer costs where the group of a size keeps so many channels."""
    counts = structure(costs, {group_of(costs, size): live for size, live in alive.items()})
    n_in, n_out, living = live_counts(costs, counts)
    row = costs.names.index(name)

    def value(forms: Any) -> float:
        return float(evaluate(forms, n_in, n_out)[row] * living[row])

    return Cost(
        *(value(getattr(costs, key)) for key in ("flops", "bytes", "weights", "parameters"))
    )


def share(costs: CostModel, pairs: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """(group size, times) of what a layer reads or writes."""
    return tuple((costs.groups[group].size, times) for group, times in pairs)


def check(case: Case) -> None:
    """Hold the code against the expectation."""
    graph = case.graph()
    node = next(n for n in bind(graph, Binding()).nodes if n.name == LAYER)
    assert [tensor.shape for tensor in node.outputs] == list(case.shapes)
    costs = costed(graph)
    row = costs.names.index(LAYER)
    for live in (case.widths, *case.pruned):
        found = cost_at(costs, LAYER, dict(zip(case.widths, live, strict=True)))
        expected = case.cost(*live)
        for key in ("flops", "bytes", "weights", "parameters"):
            want = getattr(expected, key)
            assert getattr(found, key) == pytest.approx(want, rel=1e-12), (key, live)
    if case.reads is not None:
        assert share(costs, costs.reads[row]) == case.reads
    if case.writes is not None:
        assert share(costs, costs.writes[row]) == case.writes
    for size in case.fixed:
        held = [group for group in costs.groups if group.size == size]
        assert held, f"no group of {size}"
        assert not any(group.prunable for group in held), size
    forms = (costs.flops, costs.bytes, costs.weights, costs.parameters)
    assert all(np.isfinite(form).all() and (form >= 0).all() for form in forms)
