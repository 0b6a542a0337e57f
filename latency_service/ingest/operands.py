"""What each input of an ONNX node is to the cost model: activation, parameter or setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from functools import cache, partial
from typing import Any, NamedTuple

from latency_service.core.errors import ModelFileError
from latency_service.core.graph import Parameter, made
from latency_service.core.ops import OPS
from latency_service.core.ops.op import Op
from latency_service.ingest.constants import Constant, as_setting

# Roles in which the same array may stand in several layers and then counts once.
_LEARNED = frozenset({"weight", "recurrence", "bias", "gamma", "beta", "mean", "variance"})

_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
_MOVES_INPUTS = _RECURRENT | {"Resize"}
# Operands that give the output its shape, and so have to stay inputs.
_DATA = frozenset({("ScatterND", 0), ("ScatterElements", 0)})


class Operands:
    """The inputs of a node, sorted.

    Attributes:
        op: the operator to write; a Gemm whose first factor is learned becomes a MatMul.
        inputs: names of activations; "" where a position has to be kept free.
        parameters: what it has learned.
        settings: constant operands that become attributes.
        stays: names of constants that the layer reads as inputs.
        dtype: of the output where the operator's rule cannot know it.
    """

    __slots__ = ("dtype", "inputs", "op", "parameters", "settings", "stays")

    def __init__(self, op: str) -> None:
        self.op = op
        self.inputs: list[str] = []
        self.parameters: list[Parameter] = []
        self.settings: dict[str, Any] = {}
        self.stays: list[str] = []
        self.dtype: str | None = None


class _Slot(NamedTuple):
    """What is known of an input by its position alone.

    Attributes:
        name: ONNX's.
        setting: whether it is a setting where constant.
        role: of the parameter that it is where constant and no setting.
        skipped: whether it costs nothing and says nothing about shapes.
    """

    name: str
    setting: bool
    role: str | None
    skipped: bool


@cache
def _slots(op_name: str, names: tuple[str, ...]) -> tuple[_Slot, ...]:
    """An operator's inputs, under their `names`."""
    op = OPS[op_name]
    return tuple(
        _Slot(
            name,
            name in op.constants,
            None if name in op.constants or (op_name, place) in _DATA else op.roles.get(name),
            op_name in _RECURRENT and name == "sequence_lens",
        )
        for place, name in enumerate(names or ("",))
    )


def sort_operands(
    op: Op | None,
    op_name: str,
    given: Sequence[str],
    held: Sequence[Constant | None],
    names: tuple[str, ...],
    foldable: Set[str],
    attributes: dict[str, Any],
) -> Operands:
    """Tell activations, parameters and settings apart.

    Args:
        op: the operator's row; None: it has none.
        op_name: the operator's name.
        given: the node's inputs; "" where one is left out.
        held: the constants among them.
        names: ONNX's names of these positions; the last one repeats.
        foldable: tensors that follow from shapes alone.
        attributes: of the node; rewritten where a constant changes their meaning.
    """
    found = Operands(op_name)
    if op is None:
        _unknown(found, given, held)
        return found
    if not any(held) and "" not in given and op_name not in _MOVES_INPUTS:
        found.inputs += given
        return found
    slots = _slots(op_name, names)
    slots = (*slots[: len(given)], *slots[-1:] * (len(given) - len(slots)))
    all_fixed = not op.constants or not any(
        name and slot.setting and (constant is None or constant.value is None)
        for name, slot, constant in zip(given, slots, held, strict=True)
    )
    arithmetic = op.value is not None and _is_shape_arithmetic(given, held, foldable)
    places: list[int] = []
    empty = 0
    for position, (name, slot, constant) in enumerate(zip(given, slots, held, strict=True)):
        if slot.skipped:
            continue
        if constant is None:
            if name or not (slot.role or (slot.setting and all_fixed)):
                found.inputs.append(name)
        elif op_name == "Concat" and not constant.size:
            # nothing to join: what exporters write for an empty cache
            empty += 1
        elif slot.setting and all_fixed:
            value = None if constant.value is None else as_setting(constant.value)
            if value is not None:
                found.settings[slot.name] = value
        elif slot.role is None or arithmetic:
            _stay(found, name)
        else:
            found.parameters.append(_parameter(op, slot.role, constant))
            places.append(position - empty)
    while found.inputs and not found.inputs[-1]:
        found.inputs.pop()
    if op_name == "Resize" and names == ("X", "scales") and len(found.inputs) == 2:
        found.inputs.insert(1, "")
    rewrite = _REWRITES.get(op_name)
    if rewrite is not None:
        rewrite(found, held, places, attributes)
    elif op.contraction and 0 in places:
        # MatMul and its kin
        attributes["weight_input"] = 0
    return found


def _is_shape_arithmetic(
    given: Sequence[str], held: Sequence[Constant | None], foldable: Set[str]
) -> bool:
    """Whether a node computes with sizes only, so that its constants must stay visible."""
    for name, constant in zip(given, held, strict=True):
        if constant is None:
            if name and name not in foldable:
                return False
        elif not (constant.is_setting or not constant.initializer) or constant.value is None:
            return False
    return True


def _unknown(found: Operands, given: Sequence[str], held: Sequence[Constant | None]) -> None:
    for name, constant in zip(given, held, strict=True):
        if constant is None:
            found.inputs.append(name)
        elif constant.is_setting:
            _stay(found, name)
        else:
            found.parameters.append(parameter("weight", constant))
    while found.inputs and not found.inputs[-1]:
        found.inputs.pop()


def _stay(found: Operands, name: str) -> None:
    found.inputs.append(name)
    found.stays.append(name)


def _parameter(op: Op, role: str, constant: Constant) -> Parameter:
    learns = op.contraction or op.name in ("Gather", "PRelu")
    if role == "weight" and not learns and constant.is_setting:
        role = "state"
    return parameter(role, constant)


def parameter(role: str, constant: Constant) -> Parameter:
    """A constant as something that a layer stores.

    Raises:
        ModelFileError: if no array has its shape.
    """
    shape = constant.shape
    if 0 in shape:
        raise ModelFileError(f"tensor {constant.id!r}, a {role}, has the shape {list(shape)}")
    return made(
        Parameter, (role, shape, constant.stored, constant.id if role in _LEARNED else None)
    )


# --- operators whose conventions here differ from ONNX's -----------------------------------------

Held = Sequence[Constant | None]


def _gemm(
    found: Operands,
    held: Held,
    places: list[int],
    attributes: dict[str, Any],
    b: int = 1,
    c: int = 2,
) -> None:
    """A learned B is written (O, I), as with transB=1; a learned A makes it a MatMul.

    Args:
        b, c: positions of the operands B and C.
    """
    if b in places:
        place = places.index(b)
        weight = found.parameters[place]
        if not attributes.get("transB", 0):
            found.parameters[place] = Parameter(
                weight.role, weight.shape[::-1], weight.dtype, weight.id
            )
        attributes["transB"] = 1
    if c in places:
        place = places.index(c)
        bias = found.parameters[place]
        extents = [dim for dim in bias.shape if dim != 1]
        if len(extents) == 1:
            found.parameters[place] = Parameter(bias.role, tuple(extents), bias.dtype, bias.id)
        elif not extents:
            del found.parameters[place]
    left = held[0]
    if left is not None and left.id and b not in places and found.stays[:1] == found.inputs[:1]:
        # core knows a learned first factor in MatMul only
        shape = left.shape[::-1] if attributes.pop("transA", 0) else left.shape
        del found.inputs[0], found.stays[0]
        found.op = "MatMul"
        found.parameters.insert(0, Parameter("weight", shape, left.stored, left.id))
        attributes["weight_input"] = 0


def _concat(found: Operands, held: Held, places: list[int], attributes: dict[str, Any]) -> None:
    """Where among the inputs the learned pieces stand."""
    if places:
        attributes["parameter_inputs"] = places


def _quantised_concat(
    found: Operands, held: Held, places: list[int], attributes: dict[str, Any]
) -> None:
    """Each piece comes with its scale and zero point, behind those of the output."""
    learned = [n for n, place in enumerate(places) if place % 3 == 2]
    found.parameters[:] = [found.parameters[n] for n in learned]
    _concat(found, held, [(places[n] - 2) // 3 for n in learned], attributes)


def _gather(found: Operands, held: Held, places: list[int], attributes: dict[str, Any]) -> None:
    """The dtype of a learned table is that of the rows."""
    if places and held[0] is not None:
        found.dtype = held[0].dtype


def _where(found: Operands, held: Held, places: list[int], attributes: dict[str, Any]) -> None:
    """The dtype of two constant branches."""
    if {1, 2} <= set(places) and held[1] is not None:
        found.dtype = held[1].dtype


def _one_hot(found: Operands, held: Held, places: list[int], attributes: dict[str, Any]) -> None:
    """The dtype of the two values."""
    if len(held) > 2 and held[2] is not None:
        found.dtype = held[2].dtype


def _range(found: Operands, held: Held, places: list[int], attributes: dict[str, Any]) -> None:
    """The dtype of any constant bound."""
    found.dtype = next((c.dtype for c in held if c is not None), None)


def _einsum(found: Operands, held: Held, places: list[int], attributes: dict[str, Any]) -> None:
    """Labels in the order of the operands here: activations, then what is learned."""
    left, arrow, out = str(attributes.get("equation", "")).replace(" ", "").partition("->")
    labels = left.split(",")
    if places and len(labels) == len(held):
        if not arrow:
            joined = "".join(labels)
            out = "".join(sorted(label for label in set(joined) if joined.count(label) == 1))
        order = [p for p in range(len(held)) if p not in places] + places
        attributes["equation"] = ",".join(labels[p] for p in order) + "->" + out


_REWRITES: dict[str, Callable[[Operands, Held, list[int], dict[str, Any]], None]] = {
    "Gemm": _gemm, "FusedGemm": _gemm, "QGemm": partial(_gemm, b=3, c=6), "Concat": _concat,
    "QLinearConcat": _quantised_concat, "Gather": _gather, "Where": _where, "OneHot": _one_hot,
    "Range": _range, "Einsum": _einsum,
}  # fmt: skip
