"""LSTM, GRU and RNN: one layer of ONNX's for every layer of PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from latency_client.torch.trace import Call, Translation
from latency_client.torch.values import Activation, Value


def rows() -> Iterator[tuple[str, Translation]]:
    """The rows of this family."""
    yield "aten::lstm", recurrent("LSTM")
    yield "aten::gru", recurrent("GRU")
    yield "aten::rnn_tanh", recurrent("RNN")
    yield "aten::rnn_relu", recurrent("RNN")


def _turned(call: Call, x: str, shape: Sequence[int], perm: Sequence[int]) -> str:
    target = [shape[axis] for axis in perm]
    (made,) = call.layer("Transpose", [x], {"perm": list(perm)}, shapes=[target], name="transpose")
    return made.name


def recurrent(op: str) -> Translation:
    """A stack of recurrent layers, each in one direction or both."""

    def translation(call: Call) -> Sequence[Value]:
        x, shape = call.tensor("input"), list(call.shape("input"))
        directions = 2 if call["bidirectional"] else 1
        layers: int = call["num_layers"]
        tensors: list[Tensor] = list(call["params"])
        width = len(tensors) // (layers * directions)
        if call["batch_first"]:
            x = _turned(call, x, shape, (1, 0, 2))
            shape[:2] = shape[1], shape[0]
        states: list[tuple[Activation, ...]] = []
        for layer in range(layers):
            own = [
                tensors[(layer * directions + d) * width : (layer * directions + d + 1) * width]
                for d in range(directions)
            ]
            x, shape, state = _layer(call, op, x, shape, own, bool(call["has_biases"]))
            states.append(state)
        steps, batch, features = shape
        if call["batch_first"]:
            made = call.layer("Transpose", [x], {"perm": [1, 0, 2]},
                              shapes=[(batch, steps, features)], name="transpose")  # fmt: skip
        else:
            made = (Activation(x),)
        # the states of all layers, one after another; where nobody reads them they cost nothing
        results: list[Value] = [made[0]]
        for place in range(len(call.outputs) - 1):
            parts = [state[place].name for state in states]
            target = tuple(call.outputs[1 + place].shape)
            if len(parts) == 1:
                results.append(Activation(parts[0]))
            else:
                results.append(call.layer("Concat", parts, {"axis": 0}, shapes=[target],
                                          name="states")[0])  # fmt: skip
        return results

    return translation


def _layer(
    call: Call, op: str, x: str, shape: Sequence[int], own: list[list[Tensor]], biased: bool
) -> tuple[str, list[int], tuple[Activation, ...]]:
    steps, batch, _ = shape
    directions, hidden = len(own), own[0][1].shape[1]
    features = own[0][1].shape[0] // (4 if op == "LSTM" else 3 if op == "GRU" else 1)
    state = (directions, batch, features)
    attributes: dict[str, Any] = {
        "hidden_size": hidden,
        "direction": "bidirectional" if directions > 1 else "forward",
    }
    learned: list[tuple[str, Any]] = [("weight", [t[0] for t in own]),
                                      ("recurrence", [t[1] for t in own])]  # fmt: skip
    if biased:
        learned.append(("bias", [t for tensors in own for t in tensors[2:4]]))
    shapes: list[Sequence[int]] = [(steps, directions, batch, features), state]
    if op == "LSTM":
        shapes.append(state)
    made = call.stacked(op, [x], attributes, learned, shapes)
    turned = _turned(call, made[0].name, shapes[0], (0, 2, 1, 3))
    joined = [steps, batch, directions * features]
    (flat,) = call.layer("Reshape", [turned], {"shape": [0, 0, -1]}, shapes=[joined],
                         name="reshape")  # fmt: skip
    return flat.name, joined, made[1:]
