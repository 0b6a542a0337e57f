"""Normalisations and softmax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from latency_client.torch.trace import Call, Translation
from latency_client.torch.values import Piece, Value


def rows() -> Iterator[tuple[str, Translation]]:
    """The rows of this family."""
    for name in ("batch_norm", "native_batch_norm", "cudnn_batch_norm", "_batch_norm_impl_index"):
        yield f"aten::{name}", batch_norm
    yield "aten::instance_norm", instance_norm
    yield "aten::group_norm", group_norm
    yield "aten::layer_norm", layer_norm
    yield "aten::rms_norm", rms_norm
    for name in ("softmax", "_softmax", "softmin"):
        yield f"aten::{name}", softmax("Softmax")
    for name in ("log_softmax", "_log_softmax"):
        yield f"aten::{name}", softmax("LogSoftmax")


def batch_norm(call: Call) -> Sequence[Value]:
    """BatchNorm of any rank.

    Without a scale it is a multiplication by fixed numbers: there is nothing to learn, but its
    statistics are cut along with the channels.
    """
    if call["weight"] is None:
        column = (call.shape("input")[1], *[1] * (len(call.shape("input")) - 2))
        statistics = [call.value(call[name]) for name in ("running_mean", "running_var")
                      if call[name] is not None]  # fmt: skip
        fixed = [("weight", v.reshaped(column)) for v in statistics if isinstance(v, Piece)]
        return call.layer("Mul", [call.tensor("input")], {}, fixed, [call.out_shape])
    learned = [
        ("gamma", call["weight"]),
        ("beta", call["bias"]),
        ("mean", call["running_mean"]),
        ("variance", call["running_var"]),
    ]
    return call.layer("BatchNormalization", [call.tensor("input")], {}, learned)[:1]


def instance_norm(call: Call) -> Sequence[Value]:
    """InstanceNorm."""
    learned = [("gamma", call["weight"]), ("beta", call["bias"])]
    return call.layer("InstanceNormalization", [call.tensor("input")], {}, learned)


def group_norm(call: Call) -> Sequence[Value]:
    """GroupNorm: groups of channels live and die as a whole."""
    learned = [("gamma", call["weight"]), ("beta", call["bias"])]
    attributes = {"num_groups": call["num_groups"]}
    return call.layer("GroupNormalization", [call.tensor("input")], attributes, learned)


def layer_norm(call: Call) -> Sequence[Value]:
    """LayerNorm over the last axes."""
    learned = [("gamma", call["weight"]), ("beta", call["bias"])]
    attributes = {"axis": -len(call["normalized_shape"])}
    return call.layer("LayerNormalization", [call.tensor("input")], attributes, learned)


def rms_norm(call: Call) -> Sequence[Value]:
    """RMSNorm over the last axes."""
    attributes = {"axis": -len(call["normalized_shape"])}
    learned = [("gamma", call["weight"])]
    return call.layer("RMSNormalization", [call.tensor("input")], attributes, learned)


def softmax(op: str) -> Translation:
    """Softmax and its logarithm."""

    def translation(call: Call) -> Sequence[Value]:
        return call.layer(op, [call.tensor("self")], {"axis": call["dim"]})

    return translation
