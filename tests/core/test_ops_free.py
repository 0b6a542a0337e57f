from __future__ import annotations

from typing import Any

import pytest

from latency_service.core.graph import graph_from_json
from tests.core.cases import FLOAT, Case, Cost, check, cost_at, costed, data, features, image


def view(op: str, out: tuple[int, ...], times: float = 1, **attributes: Any) -> Case:
    """Nothing moves; channel k goes where its elements go."""
    channels = 5
    return Case(
        op,
        [image("x", 2, channels, 1, 7)],
        [out],
        lambda _: Cost(),
        widths=(channels,),
        pruned=((3,),),
        reads=((channels, 1),),
        writes=((channels, times),),
        attributes=attributes,
        label=str(list(out)),
    )


def made(op: str, out: tuple[int, ...], **attributes: Any) -> Case:
    """Made of nothing, and charged nothing."""
    return Case(op, [], [out], lambda: Cost(), attributes=attributes)


def made_like(op: str, out: tuple[int, ...] = (2, 5, 7)) -> Case:
    return Case(op, [data("x", 2, 5, 7)], [out], lambda: Cost())


def dropout() -> Case:
    """Free with its mask."""
    return Case(
        "Dropout",
        [features("x", 2, 3, 5)],
        [(2, 3, 5), (2, 3, 5)],
        lambda _: Cost(),
        widths=(5,),
        pruned=((3,),),
        writes=((5, 1),),
        outputs=[{}, {}],
    )


CASES = [
    view("Reshape", (2, 5, 7), shape=[0, 5, -1]),
    view("Reshape", (2, 5 * 7), times=7, shape=[2, -1]),
    view("Flatten", (2, 5 * 1 * 7), times=7),
    view("Flatten", (2 * 5, 7), times=2, axis=-2),
    view("Squeeze", (2, 5, 7), axes=[2]),
    view("Squeeze", (2, 5, 7)),
    view("Unsqueeze", (2, 1, 5, 1, 7, 1), axes=[1, -1]),
    view("Identity", (2, 5, 1, 7)),
    dropout(),
    made("Constant", (3, 2), value=[[1, 2], [3, 5], [7, 11]]),
    made_like("Shape", (3,)),
    made_like("Size", ()),
    made("ConstantOfShape", (3, 5), shape=[3, 5]),
    made("Range", (4,), start=2, limit=13, delta=3),
    made_like("EyeLike"),
    made("RandomNormal", (3, 5), shape=[3, 5]),
    made("RandomUniform", (3, 5), shape=[3, 5]),
    made_like("RandomNormalLike"),
    made_like("RandomUniformLike"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_free_operators_cost_nothing(case: Case) -> None:
    check(case)


def test_arithmetic_on_shapes_costs_nothing_and_reaches_its_reader() -> None:
    """x (2, 35, 3) becomes (2, 7, 15) by Shape, Gather, Div, Mul and Concat."""
    batch, channels, length = 2, 35, 3

    def row(name: str, op: str, *inputs: str, **attributes: Any) -> dict[str, Any]:
        return {"name": name, "op": op, "inputs": list(inputs), "outputs": [{"name": name}],
                "attributes": attributes}  # fmt: skip

    layers = [
        row("shape", "Shape", "x"),
        row("channels", "Gather", "shape", axis=0, indices=1),
        row("length", "Slice", "shape", starts=[2], ends=[3], axes=[0]),
        row("five", "Constant", value=5),
        row("seven", "Div", "channels", "five"),
        row("seven as list", "Unsqueeze", "seven", axes=[0]),
        row("fifteen", "Mul", "length", "five"),
        row("two", "Constant", value=[batch]),
        row("target", "Concat", "two", "seven as list", "fifteen", axis=0),
        row("y", "Reshape", "x", "target"),
        row("z", "Relu", "y"),
    ]
    source = {"name": "x", "shape": [batch, channels, length]}
    costs = costed(graph_from_json({"inputs": [source], "layers": layers, "outputs": ["z"]}))
    assert costs.bytes.sum() == FLOAT * 2 * batch * 7 * 15
    assert costs.free.sum() == len(layers) - 1
    assert cost_at(costs, "z", {}).bytes == costs.bytes.sum()
