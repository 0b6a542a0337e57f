"""Many structures at once cost what they cost one by one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import latency_service.core.sweep
from latency_service.core.blocks import Way
from latency_service.core.costing import cost_model
from latency_service.core.efficiency import Efficiency
from latency_service.core.family import WAY, FamilyModel
from latency_service.core.graph import (
    GraphInput,
    Layer,
    LayerGraph,
    Output,
    Parameter,
    graph_from_json,
    layer_graph,
)
from latency_service.core.predict import Predictor
from latency_service.core.sweep import totals_s
from latency_service.storage.published import published_files
from tests.core.graphs import choosing, network
from tests.core.image_blocks import IMAGE
from tests.core.sequence_blocks import SEQUENCE

FOLDER = Path(__file__).parents[2] / "device_profiles"
SEEDS = st.integers(0, 10_000)

# The more elements they have, the longer they take.
VIEWS = FamilyModel(
    1e-6, None, 1.0, 1, ("log_rows",), (4.0,), ((0.5,), (2.0,)), (0.1, 0.7), 0.2, 0.1, 0.1, 50
)


@cache
def efficiency(ahead: bool) -> Efficiency:
    """Of a card, with everything that a CPU's networks gain besides; launches ahead or not."""
    files = published_files(FOLDER)
    profile = next(file for file in files if file.key[0].startswith("v100")).read().profile
    assert profile.efficiency is not None
    return replace(
        profile.efficiency, alone_s=1e-6, call_s=5e-6, near_fixed=0.3, near_bytes=3e4, kept_s=2e-3,
        levels=((2.0**20, 64e9), (2.0**24, 4e9)),
        families={**kept(profile.efficiency.families), "float32 Reshape": VIEWS},
        launches_ahead=ahead,
    )  # fmt: skip


def kept(families: Mapping[str, FamilyModel]) -> dict[str, FamilyModel]:
    """With what saves time in caches, convolutions on blocks, and products in whole panels."""
    return {
        name: replace(
            on_blocks(model) if "Conv" in name else model, cached_s_per_byte=1e-12,
            nearby_s_per_byte=1e-12, measured_cached="Gemm" in name,
            panel=16 if "Gemm" in name else 0, packing=7.0 if "Gemm" in name else 0.0,
        )
        for name, model in families.items()
    }  # fmt: skip


def on_blocks(model: FamilyModel) -> FamilyModel:
    """With kernels of all ways, which know little of each other."""
    points = tuple((*point, 1.3 * (n % len(Way))) for n, point in enumerate(model.points))
    return replace(
        model, block=16, alignment=4, way_flops=(3.0, 1.0, 2.0), points=points,
        features=(*model.features, WAY), lengths=(*model.lengths, 1 / 1.3),
    )  # fmt: skip


def predictor(graph: LayerGraph) -> Predictor:
    return Predictor(cost_model(graph, efficiency=efficiency(False)), efficiency(False))


def drawn(found: Predictor, rows: int, seed: int) -> np.ndarray:
    """(N, G) counts from nothing to full width; groups that cannot be pruned stay whole."""
    chance = np.random.default_rng(seed)
    columns = [
        chance.integers(0, group.size + 1, rows) if group.prunable else np.full(rows, group.size)
        for group in found.costs.groups
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def agree(found: Predictor, counts: np.ndarray) -> None:
    for model in (found, Predictor(found.costs, efficiency(True))):
        one_by_one = [model.at(row).seconds.sum() for row in counts]
        # few structures are added up in double precision
        rel = 1e-9 if len(counts) <= 256 else 2e-6
        assert totals_s(model, counts) == pytest.approx(one_by_one, rel=rel, abs=1e-15)


@given(seed=SEEDS, rows=st.sampled_from([1, 3, 40]))
@settings(deadline=None, max_examples=60)
def test_any_network(seed: int, rows: int) -> None:
    chance = random.Random(seed)
    blocks = [*chance.sample(sorted(IMAGE), 2), *chance.sample(sorted(SEQUENCE), 1)]
    found = predictor(graph_from_json(network(blocks, choosing(seed))))
    agree(found, drawn(found, rows, seed))


def convolutions(*widths: int) -> Predictor:
    """3x3 convolutions one behind the other over 7 x 5 positions."""
    layers = []
    for k, (depth, filters) in enumerate(itertools.pairwise(widths)):
        kernel = Parameter("weight", (filters, depth, 3, 3))
        layers.append(
            Layer(
                f"conv{k}",
                "Conv",
                (f"t{k}",),
                (Output(f"t{k + 1}"),),
                {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
                (kernel,),
            )
        )
    inputs = (GraphInput("t0", (2, widths[0], 7, 5)),)
    graph = layer_graph(inputs, tuple(layers), (f"t{len(layers)}",))
    return predictor(graph)


@pytest.mark.parametrize("rows", [30, 60, 300])
@pytest.mark.parametrize("entries", [0, 32])
def test_every_way_to_find_a_correction(
    monkeypatch: pytest.MonkeyPatch, rows: int, entries: int
) -> None:
    # 53 widths are more than 30 rows and fewer than 60; 53 x 59 pairs more than 300
    monkeypatch.setattr(latency_service.core.sweep, "_ENTRIES_PER_ROW", entries)
    found = convolutions(3, 53, 59, 11)
    agree(found, drawn(found, rows, 7))


def test_few_widths_are_evaluated_as_a_grid() -> None:
    found = convolutions(3, 5, 7, 11)
    agree(found, drawn(found, 300, 11))


def test_no_rows_are_no_seconds() -> None:
    found = convolutions(3, 5, 7)
    assert totals_s(found, np.empty((0, len(found.costs.groups)))).shape == (0,)
