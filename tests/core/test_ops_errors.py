"""Impossible attributes and shapes are refused with the layer and the field."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from latency_service.core.errors import GraphError
from tests.core.cases import (
    FLOAT,
    LAYER,
    Case,
    Cost,
    cost_at,
    costed,
    data,
    image,
    learned,
    weight,
)

REFUSED: list[tuple[str, Case, str]] = []


def refused(
    field: str, op: str, *shape: int, detail: str = "", second: Any = None, **attributes: Any
) -> None:
    """Add a layer over an image of that shape which must be refused at `field`."""
    parameters = attributes.pop("parameters", None)
    outputs = attributes.pop("outputs", 1)
    feeds = [image("x", *shape) if len(shape) > 2 else data("x", *shape)]
    feeds += [] if second is None else [second]
    case = Case(op, feeds, [], lambda: Cost(), attributes=attributes, parameters=parameters,
                outputs=[{}] * outputs)  # fmt: skip
    REFUSED.append((field, case, detail))


IMAGE = (2, 5, 7, 11)
KERNEL = [weight(3, 5, 3, 3)]

refused("attributes.strides", "Conv", *IMAGE, parameters=KERNEL, strides="two")
refused("attributes.strides", "Conv", *IMAGE, parameters=KERNEL, strides=[2])
refused("attributes.strides", "Conv", *IMAGE, parameters=KERNEL, strides=[0, 1])
refused("attributes.pads", "Conv", *IMAGE, parameters=KERNEL, pads=[-1, 0, 0, 0])
refused("attributes.auto_pad", "Conv", *IMAGE, parameters=KERNEL, auto_pad="SOMEHOW")
refused("attributes.group", "Conv", *IMAGE, parameters=KERNEL, group=2)
refused("attributes.kernel_shape", "Conv", *IMAGE, parameters=KERNEL, kernel_shape=[5, 5])
refused("parameters.weight", "Conv", *IMAGE, parameters=[weight(3, 2, 3, 3)])
refused("attributes.strides", "ConvTranspose", *IMAGE, parameters=[weight(5, 3, 2, 2)],
        strides=[2, 2, 2])  # fmt: skip
refused("attributes.output_padding", "ConvTranspose", *IMAGE, parameters=[weight(5, 3, 2, 2)],
        output_padding=[1])  # fmt: skip
refused("parameters", "Gemm", 3, 5, detail="without parameters")
refused("parameters.weight", "Gemm", 3, 5, parameters=[weight(7, 11)], detail="reads 11")
refused("inputs", "MatMul", 3, 5, second=data("z", 7, 11), detail="5 columns meet 7 rows")
refused("attributes.K", "MatMulNBits", 3, 5, parameters=[weight(7, 1, 3)], K=7, N=11)
refused("attributes.hidden_size", "LSTM", 3, 2, 5)
refused("parameters", "GRU", 3, 2, 5, detail="3 gates",
        parameters=[weight(1, 28, 5), learned("recurrence", 1, 28, 7)])  # fmt: skip
refused("attributes.equation", "Einsum", 3, 5, second=data("z", 7, 11), equation="ij,jk->ik")
refused("attributes.equation", "Einsum", 3, 5, equation="ij->ik")
refused("inputs", "Add", 3, 5, second=data("z", 3, 7), detail="broadcast")
refused("attributes.to", "Cast", 3, 5, to=[1])
refused("attributes", "Cast", 3, 5, to="float33")
refused("attributes.num_groups", "GroupNormalization", *IMAGE, num_groups=3)
refused("parameters.gamma", "BatchNormalization", *IMAGE, parameters=[learned("gamma", 7)])
refused("attributes.axis", "LayerNormalization", *IMAGE, axis=4)
refused("attributes.axis", "Softmax", *IMAGE, axis="last")
refused("attributes.kernel_shape", "MaxPool", *IMAGE)
refused("attributes.kernel_shape", "MaxPool", *IMAGE, kernel_shape=[13, 1], detail="does not fit")
refused("attributes.axes", "ReduceMean", *IMAGE, axes=[4])
refused("attributes.axes", "CumSum", *IMAGE, axis=4)
refused("attributes.k", "TopK", *IMAGE, k=13, outputs=2)
refused("attributes.k", "TopK", *IMAGE, k=-1, outputs=2)
refused("attributes.perm", "Transpose", *IMAGE, perm=[0, 1, 2, 2])
refused("inputs", "Concat", *IMAGE, second=data("z", 2, 5, 3, 11), axis=1)
refused("inputs", "Concat", 3, 1, second=data("z", 3, 5), axis=0)
refused("attributes.split", "Split", *IMAGE, axis=1, split=[2, 2], outputs=2)
refused("attributes.split", "Split", *IMAGE, axis=1, split=[8, -3], outputs=2, detail="")
refused("attributes", "Pad", *IMAGE, pads=[0, 0, 0, 0, 0, -6, 0, 0])
refused("attributes.pads", "Pad", *IMAGE, pads=[1, 1])
refused("inputs", "Expand", *IMAGE, shape=[3, 1, 1, 1])
refused("attributes.repeats", "Tile", *IMAGE, repeats=[2])
refused("attributes", "Tile", *IMAGE, repeats=[1, 1, -2, 1])
refused("attributes.sizes", "Resize", *IMAGE, sizes=[7, 11])
refused("attributes", "Resize", *IMAGE, sizes=[2, 5, -7, 11])
refused("attributes.scales", "Resize", *IMAGE, scales=[1.0, "two"])
refused("attributes.blocksize", "DepthToSpace", *IMAGE, blocksize=2)
refused("attributes.blocksize", "SpaceToDepth", *IMAGE, blocksize=2)
refused("attributes.mode", "DepthToSpace", 2, 4, 7, 11, blocksize=2, mode="RCD")
refused("attributes.starts", "Slice", *IMAGE, starts=[0], ends=[1], axes=[0, 1])
refused("attributes.axes", "Slice", *IMAGE, starts=[0], ends=[1], axes=[4])
refused("attributes.starts", "Slice", *IMAGE, starts=[0.5], ends=[1])
refused("attributes.indices", "Gather", *IMAGE, axis=1, indices=[5])
refused("attributes.axis", "Gather", *IMAGE, axis=-5, indices=[0])
refused("inputs", "GatherND", 3, 5, second=data("i", 2, 3, dtype="int64"))
refused("attributes.axis", "OneHot", 3, 5, depth=7, axis=3)
refused("attributes.shape", "Reshape", *IMAGE, shape=[2, 5, 7])
refused("attributes.shape", "Reshape", *IMAGE, shape=[-1, -1, 7])
refused("attributes.shape", "Reshape", *IMAGE, shape=[2, 5, float("inf")])
refused("attributes.axes", "Squeeze", *IMAGE, axes=[1])
refused("attributes.axes", "Unsqueeze", *IMAGE, axes=[0, 0])
refused("attributes.axis", "Flatten", *IMAGE, axis=5)
refused("attributes", "ConstantOfShape", 1, shape=[3, -5])
refused("attributes", "RandomNormal", 1, shape=[1 << 40, 1 << 40])
refused("outputs", "Relu", *IMAGE, outputs=2, detail="writes 1 tensors, not 2")


@pytest.mark.parametrize(
    ("field", "case", "detail"),
    REFUSED,
    ids=[f"{case} {field} {i}" for i, (field, case, _) in enumerate(REFUSED)],
)
def test_what_cannot_be_is_refused_by_layer_and_field(field: str, case: Case, detail: str) -> None:
    with pytest.raises(GraphError) as caught:
        costed(case.graph())
    (problem,) = caught.value.problems
    assert (problem.layer, problem.field) == (LAYER, field)
    assert detail in problem.detail


DEPENDENT: dict[str, tuple[int, dict[str, Any], tuple[int, ...]]] = {
    "Slice": (3, {"starts": [1], "ends": [3]}, (2, 5, 3)),
    "Squeeze": (1, {}, (2, 5, 7)),
    "Pad": (1, {}, (2, 5, 13)),
    "Tile": (1, {}, (2, 5, 21)),
    "CumSum": (1, {}, (2, 5, 7)),
    "Split": (1, {"axis": 1}, (2, 3, 7)),
}


@pytest.mark.parametrize("op", DEPENDENT)
def test_a_setting_that_is_data_freezes_the_channels(op: str) -> None:
    """Where the channels go is unknown; what is written is stated."""
    position, attributes, out = DEPENDENT[op]
    feeds = [image("x", 2, 5, 7), *[None] * (position - 1), data("setting", 3, dtype="int64")]
    case = Case(op, feeds, [out], lambda: Cost(), attributes=attributes,
                outputs=[{"shape": list(out)}])  # fmt: skip
    costs = costed(case.graph())
    assert not any(group.prunable for group in costs.groups)
    written = FLOAT * math.prod(out)
    read = {"Slice": written, "Squeeze": -written}.get(op, FLOAT * 2 * 5 * 7)
    assert cost_at(costs, LAYER, {}).bytes == read + written


def test_an_empty_piece_costs_nothing_and_breaks_nothing() -> None:
    case = Case(
        "Slice",
        [image("x", 2, 5, 7)],
        [(2, 0, 7)],
        lambda: Cost(),
        attributes={"starts": [3], "ends": [3], "axes": [1]},
    )
    reader = {"name": "reader", "op": "Relu", "inputs": ["y0"], "outputs": [{"name": "z"}]}
    costs = costed(replace(case, more=[reader]).graph())
    assert cost_at(costs, LAYER, {}) == cost_at(costs, "reader", {}) == Cost()
