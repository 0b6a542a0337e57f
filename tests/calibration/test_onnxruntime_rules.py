"""What the rules say is merged is what onnxruntime merges, sizes known or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from latency_service.calibration.backends.onnx_models import assemble, noise
from latency_service.calibration.backends.onnxruntime_rules import discover
from latency_service.core.efficiency import Layout
from latency_service.core.profile import FusionRules
from tests.calibration.optimised import both, written

CHANNELS, EDGE, TOKENS = 32, 8, 5


@pytest.fixture(scope="module")
def rules() -> tuple[FusionRules, Layout | None]:
    return discover("CPUExecutionProvider", "onnxruntime-cpu-1-thread", 1)


def residual(named: list[int]) -> bytes:
    """Two convolutions that are added, an activation, a convolution."""
    weights = [noise((CHANNELS, CHANNELS, 3, 3), seed) for seed in range(3)]
    window: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], **window),
        helper.make_node("Conv", ["x", "w1"], ["b"], **window),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["relu"]),
        helper.make_node("Conv", ["relu", "w2"], ["y"], **window),
    ]
    return written(nodes, (1, CHANNELS, EDGE, EDGE), weights, named)


def dense(named: list[int]) -> bytes:
    """Tokens by a learned matrix, with a bias."""
    constants = [noise((CHANNELS, 7)), noise((7,))]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["product"]),
        helper.make_node("Add", ["product", "w1"], ["y"]),
    ]
    return written(nodes, (1, TOKENS, CHANNELS), constants, named)


def biased(op: str, shape: tuple[int, ...]) -> bytes:
    """A constant behind a convolution, before an activation and another convolution."""
    weights = [noise((CHANNELS, CHANNELS, 1, 1), seed) for seed in range(2)]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]),
        helper.make_node(op, ["a", "w2"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w1"], ["y"]),
    ]
    constants = [*weights, np.abs(noise(shape)) + 1]
    return written(nodes, (1, CHANNELS, EDGE, EDGE), constants, [])


@pytest.mark.parametrize(
    ("model", "added"),
    [
        (residual([]), 0), (residual([0]), 0), (residual([0, 2, 3]), 1), (residual([2, 3]), 1),
        (dense([]), 0), (dense([0]), 1), (dense([0, 1]), 1), (dense([1]), 1),
    ],
)  # fmt: skip
def test_additions_are_merged_as_far_as_the_model_states_sizes(
    model: bytes, added: int, rules: tuple[FusionRules, Layout | None], tmp_path: Path
) -> None:
    left, families = both(model, rules, tmp_path)
    ours = [family for family in families if family.startswith("Add")]
    assert len(ours) == left.count("Add") == added
    assert families.count("Gemm") == left.count("Gemm")


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize(
    "shape", [(1, CHANNELS, 1, 1), (CHANNELS, 1, 1), (1,), (), (1, CHANNELS, EDGE, EDGE)]
)
def test_constants_behind_a_convolution_fold_or_end_the_blocks(
    op: str, shape: tuple[int, ...], rules: tuple[FusionRules, Layout | None], tmp_path: Path
) -> None:
    left, families = both(biased(op, shape), rules, tmp_path)
    kinds = [family.split("/")[0] for family in families]
    names = (op, "Relu", "ReorderInput", "ReorderOutput", "Conv")
    assert {name: kinds.count(name) for name in names} == {name: left.count(name) for name in names}


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "GlobalAveragePool"])
@pytest.mark.parametrize("filters", [CHANNELS, CHANNELS - 4, CHANNELS + 8, 3])
def test_pools_stay_in_blocks_only_where_these_are_full(
    op: str, filters: int, rules: tuple[FusionRules, Layout | None], tmp_path: Path
) -> None:
    window: dict[str, Any] = (
        {} if op.startswith("Global") else {"kernel_shape": [2, 2], "strides": [2, 2]}
    )
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]),
        helper.make_node(op, ["a"], ["b"], **window),
        helper.make_node("Conv", ["b", "w1"], ["y"]),
    ]
    weights = [noise((filters, CHANNELS, 1, 1)), noise((CHANNELS, filters, 1, 1))]
    model = written(nodes, (1, CHANNELS, EDGE, EDGE), weights, [])
    left, families = both(model, rules, tmp_path)
    kinds = [family.split("/")[0] for family in families]
    names = (op, "ReorderInput", "ReorderOutput", "Conv")
    assert {name: kinds.count(name) for name in names} == {name: left.count(name) for name in names}


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "GlobalAveragePool"])
def test_plain_images_are_converted_for_some_pools(
    op: str, rules: tuple[FusionRules, Layout | None], tmp_path: Path
) -> None:
    window: dict[str, Any] = (
        {} if op.startswith("Global") else {"kernel_shape": [2, 2], "strides": [2, 2]}
    )
    nodes = [
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node(op, ["a"], ["b"], **window),
        helper.make_node("Conv", ["b", "w0"], ["y"]),
    ]
    weights = [noise((4, CHANNELS, 1, 1))]
    left, families = both(written(nodes, (1, CHANNELS, EDGE, EDGE), weights, []), rules, tmp_path)
    kinds = [family.removesuffix("/blocked") for family in families]
    assert kinds.count(op) == left.count(op) == 1
    assert f"{op}/blocked" in families or left.index(op) < left.index("ReorderInput")
    names = ("ReorderInput", "ReorderOutput")
    assert {name: kinds.count(name) for name in names} == {name: left.count(name) for name in names}


@pytest.mark.parametrize(
    ("factor", "other"), [(None, False), (None, True), (1.0, False), (1.702, False), (1.702, True)]
)
def test_a_swish_may_scale_what_its_sigmoid_reads(
    factor: float | None, other: bool, rules: tuple[FusionRules, Layout | None], tmp_path: Path
) -> None:
    scaled = [] if factor is None else [helper.make_node("Mul", ["b", "w0"], ["s"])]
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        *scaled,
        helper.make_node("Sigmoid", ["s" if scaled else "b"], ["c"]),
        helper.make_node("Mul", ["a" if other else "b", "c"], ["d"]),
        helper.make_node("Neg", ["d"], ["y"]),
    ]
    weights = [] if factor is None else [np.array([factor], np.float32)]
    left, families = both(written(nodes, (1, TOKENS, CHANNELS), weights, []), rules, tmp_path)
    kinds = [family.split("/")[0] for family in families]
    names = ("QuickGelu", "Mul", "Sigmoid")
    assert {name: kinds.count(name) for name in names} == {name: left.count(name) for name in names}


@pytest.mark.parametrize("filters", [8, 4])
def test_convolutions_of_few_channels_read_them_plain(
    filters: int, rules: tuple[FusionRules, Layout | None], tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["y"]),
    ]
    weights = [noise((filters, CHANNELS, 1, 1)), noise((CHANNELS, filters, 1, 1))]
    left, families = both(written(nodes, (1, CHANNELS, EDGE, EDGE), weights, []), rules, tmp_path)
    names = ("ReorderInput", "ReorderOutput")
    assert {name: families.count(name) for name in names} == {
        name: left.count(name) for name in names
    }


def test_rules_that_need_sizes_are_among_the_others(
    rules: tuple[FusionRules, Layout | None],
) -> None:
    fusion, _ = rules
    assert {*fusion.static, *fusion.sized} < {*fusion.sequences, *fusion.patterns}
    assert not {*fusion.static} & {*fusion.sized}


NHWC, NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


def normalised(*steps: str) -> bytes:
    """Convolutions with what the steps say between them; "erf" makes a second output of it."""
    nodes, now, inputs = [], "x", CHANNELS
    constants = [noise((CHANNELS, inputs, 1, 1)), np.ones(CHANNELS, np.float32)]
    outputs = []
    for count, step in enumerate(steps):
        out = f"t{count}"
        if step == "conv":
            nodes.append(helper.make_node("Conv", [now, "w0"], [out]))
        elif step == "norm":
            nodes.append(helper.make_node("LayerNormalization", [now, "w1", "w1"], [out]))
        elif step in ("last", "first"):
            perm = NHWC if step == "last" else NCHW
            nodes.append(helper.make_node("Transpose", [now], [out], perm=perm))
        else:
            nodes.append(helper.make_node("Erf", [now], [out]))
            outputs.append(out)
            continue
        now = out
    tensors = [numpy_helper.from_array(value, f"w{k}") for k, value in enumerate(constants)]
    feeds = {"x": np.zeros((1, CHANNELS, EDGE, EDGE), np.float32)}
    return assemble(nodes, feeds, [now, *outputs], tensors, [])


@pytest.mark.parametrize(
    ("model", "transpositions"),
    [
        (normalised("conv", "last", "norm"), 0),
        (normalised("conv", "erf", "last", "norm"), 0),
        (normalised("conv", "last", "norm", "first", "conv"), 0),
        (normalised("conv", "last", "erf", "norm", "first", "conv", "last", "norm"), 0),
        # somebody else reads what goes into blocks
        (normalised("conv", "last", "norm", "first", "erf", "conv"), 1),
        (normalised("last", "norm", "first", "conv"), 1),
    ],
)
def test_reorders_turn_images_whose_channels_stand_last(
    model: bytes,
    transpositions: int,
    rules: tuple[FusionRules, Layout | None],
    tmp_path: Path,
) -> None:
    left, families = both(model, rules, tmp_path)
    ours = [family.partition("/")[0] for family in families]
    assert ours.count("Transpose") == left.count("Transpose") == transpositions
    for reorder in ("ReorderInput", "ReorderOutput"):
        assert ours.count(reorder) == left.count(reorder)


def plainly_added(after: str) -> bytes:
    """The sum of a convolution and of another one behind an operator."""
    weights = [noise((CHANNELS, CHANNELS, 1, 1), seed) for seed in range(3)]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]),
        helper.make_node(after, ["a"], ["b"]),
        helper.make_node("Conv", ["x", "w1"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["sum"]),
        helper.make_node("Conv", ["sum", "w2"], ["y"]),
    ]
    return written(nodes, (1, CHANNELS, EDGE, EDGE), weights, [])


@pytest.mark.parametrize(("after", "added"), [("Relu", 0), ("Erf", 1)])
def test_a_plain_image_is_not_merged_into_a_convolution_on_blocks(
    after: str, added: int, rules: tuple[FusionRules, Layout | None], tmp_path: Path
) -> None:
    left, families = both(plainly_added(after), rules, tmp_path)
    ours = [family.partition("/")[0] for family in families]
    for op, count in (("Add", added), ("ReorderInput", None), ("ReorderOutput", None)):
        assert ours.count(op) == left.count(op)
        assert count is None or left.count(op) == count
