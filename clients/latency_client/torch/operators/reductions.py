"""Operations that fold positions into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from latency_client.torch.trace import Call, Translation
from latency_client.torch.values import Activation, Value

REDUCTIONS = {
    "mean": "ReduceMean", "sum": "ReduceSum", "nansum": "ReduceSum", "amax": "ReduceMax",
    "amin": "ReduceMin", "prod": "ReduceProd", "logsumexp": "ReduceLogSumExp",
    "norm": "ReduceL2", "linalg_vector_norm": "ReduceL2", "var": "ReduceSumSquare",
    "std": "ReduceSumSquare", "all": "ReduceMin", "any": "ReduceMax",
}  # fmt: skip


def rows() -> Iterator[tuple[str, Translation]]:
    """The rows of this family."""
    for name, op in REDUCTIONS.items():
        yield f"aten::{name}", reduction(op)
    yield "aten::var_mean", moments
    yield "aten::std_mean", moments
    yield "aten::max", extreme("Max")
    yield "aten::min", extreme("Min")
    yield "aten::argmax", arg_extreme("ArgMax")
    yield "aten::argmin", arg_extreme("ArgMin")
    yield "aten::cumsum", cumulative
    yield "aten::topk", top_k
    yield "aten::sort", sort


def _attributes(call: Call) -> dict[str, object]:
    axes = call.get("dim")
    if isinstance(axes, int):
        axes = [axes]
    attributes: dict[str, object] = {"keepdims": int(bool(call.get("keepdim", False)))}
    if axes:
        attributes["axes"] = list(axes)
    return attributes


def reduction(op: str) -> Translation:
    """Over some axes, or all."""

    def translation(call: Call) -> Sequence[Value]:
        return call.layer(op, [call.tensor("self")], _attributes(call))

    return translation


def moments(call: Call) -> Sequence[Value]:
    """Variance and mean at once."""
    x, shapes = call.tensor("self"), [call.out_shape]
    (variance,) = call.layer("ReduceSumSquare", [x], _attributes(call), shapes=shapes,
                             name="variance")  # fmt: skip
    (mean,) = call.layer("ReduceMean", [x], _attributes(call), shapes=shapes, name="mean")
    return [variance, mean]


def extreme(kind: str) -> Translation:
    """Max and min: of two tensors, of a whole one, or along an axis with positions."""

    def translation(call: Call) -> Sequence[Value]:
        other = call.get("other")
        if other is not None:
            learned = []
            inputs = [call.tensor("self")]
            if isinstance(call.value(other), Activation):
                inputs.append(call.tensor(other))
            else:
                learned.append(("weight", other))
            return call.layer(kind, inputs, {}, learned)
        x, attributes = call.tensor("self"), _attributes(call)
        (value,) = call.layer(f"Reduce{kind}", [x], attributes, shapes=[call.out_shape])
        if len(call.outputs) == 1:
            return [value]
        keepdims = attributes["keepdims"]
        arguments = {"axis": call["dim"], "keepdims": keepdims}
        (index,) = call.layer(f"Arg{kind}", [x], arguments, shapes=[call.out_shape],
                              name=f"arg{kind.lower()}")  # fmt: skip
        return [value, index]

    return translation


def arg_extreme(op: str) -> Translation:
    """Argmax and argmin along an axis."""

    def translation(call: Call) -> Sequence[Value]:
        x = call.tensor("self")
        if call["dim"] is None:
            size = call["self"].numel()
            (flat,) = call.layer("Reshape", [x], {"shape": [-1]}, shapes=[(size,)], name="reshape")
            return call.layer(op, [flat.name], {"axis": 0, "keepdims": 0})
        return call.layer(op, [x], {"axis": call["dim"], "keepdims": int(call["keepdim"])})

    return translation


def cumulative(call: Call) -> Sequence[Value]:
    """Cumsum."""
    return call.layer("CumSum", [call.tensor("self")], {"axis": call["dim"]})


def top_k(call: Call) -> Sequence[Value]:
    """topk: values and their positions."""
    return call.layer("TopK", [call.tensor("self")], {"axis": call["dim"], "k": [call["k"]]})


def sort(call: Call) -> Sequence[Value]:
    """Sort: all of them are the top."""
    axis = call["dim"]
    return call.layer(
        "TopK", [call.tensor("self")], {"axis": axis, "k": [call.shape("self")[axis]]}
    )
