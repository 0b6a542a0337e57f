"""A smaller model out of a structure, with the surviving weights, or fresh ones.

The graph that Keras has recorded is walked once more: every layer is made anew from its own
configuration at its new width, and Keras works the input sizes out. Branches that are dead are left
out: a sum keeps its other terms, a concatenation its other pieces.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from latency_client.channels import written_axis
from latency_client.errors import PruningError
from latency_client.keras.cuts import Cuts, cuts_of
from latency_client.keras.extract import Extraction, extract
from latency_client.keras.masked import compare, masked
from latency_client.keras.offset import Offset
from latency_client.keras.views import numbers
from latency_client.keras.walk import in_order, recorded
from latency_client.structure import Structure, check_structure


class _Dead:
    """A tensor without live channels."""


DEAD = _Dead()


class _Level:
    """The same number at every position: what a layer writes whose inputs are all dead."""

    def __init__(self, value: Any) -> None:
        self.value = np.asarray(value, dtype=np.float32).reshape(-1)  # (channels,)


Width = Callable[[str], int | None]


def prune(
    model: Any, structure: Structure, example_inputs: Any = None, *, tolerance: float = 1e-4
) -> Any:
    """A smaller model with the surviving weights; `model` stays as it is.

    It computes what the model computes whose weights that read dead channels are zero. That is
    checked before it is returned, on the example inputs, or on random ones.

    Args:
        example_inputs: needed where the model leaves sizes open.
        tolerance: greatest difference between its outputs and those of the masked model, relative
            to their largest value; layers in half precision are allowed their own rounding.

    Raises:
        StructureError: if the structure belongs to another model.
        PruningError: naming the layer that cannot be made smaller, or if the smaller model computes
            something else.
    """
    found = extract(model, example_inputs)
    check_structure(structure, found.graph)
    cuts = cuts_of(found, structure)

    def width(layer: str) -> int | None:
        return _written_width(found, cuts, layer)

    smaller = _Rebuild(found, width, cuts).model(model)
    compare(masked(model, structure, example_inputs), smaller, example_inputs, tolerance)
    return smaller


def rebuild(model_fn: Callable[[], Any], structure: Structure, example_inputs: Any = None) -> Any:
    """A fresh model at the widths of a structure, to be trained from scratch.

    Args:
        model_fn: makes the model at its full width.

    Raises:
        StructureError: if the structure was found for other code.
        PruningError: naming the layer that cannot be made smaller.
    """
    model = model_fn()
    found = extract(model, example_inputs)
    check_structure(structure, found.graph)
    return _Rebuild(found, structure.alive_counts().get, None).model(model)


def at_widths(model: Any, widths: Mapping[str, int], example_inputs: Any = None) -> Any:
    """A fresh model like another one, some of its layers with other widths, wider ones too.

    Args:
        widths: output channels by layer; layers that are added up need the same.

    Raises:
        PruningError: naming the layer that has no configuration to change.
    """
    return _Rebuild(extract(model, example_inputs), widths.get, None).model(model)


def _written_width(found: Extraction, cuts: Cuts, layer: str) -> int | None:
    """Channels that a layer of the graph still writes; None: it has no weight of its own."""
    row = found.graph.by_name[layer]
    axis = written_axis(row)
    weight = next((p for p in row.parameters or () if p.role == "weight"), None)
    if axis is None or weight is None:
        return None
    return cuts.width(layer, "weight", axis, weight.shape[axis])


class _Rebuild:
    """One walk over a model."""

    def __init__(self, found: Extraction, width: Width, cuts: Cuts | None) -> None:
        self._found = found
        self._width = width
        self._cuts = cuts
        self._parts: dict[int, list[str]] = {}
        for name, owner in found.owners.items():
            self._parts.setdefault(id(owner), []).append(name)
        self._made: dict[int, Any] = {}

    def model(self, model: Any, sources: list[Any] | None = None) -> Any:
        """The model, or one nested in it, at its new widths."""
        if not recorded(model):
            raise PruningError(
                f"model {model.name!r} has a call() of its own, whose layers' sizes no "
                "configuration tells; write it as a functional model, or build it smaller yourself "
                "from structure.alive_counts()"
            )
        inputs = [
            keras.Input(batch_shape=(t.shape if s is None else (None, *s.shape[1:])),
                        dtype=t.dtype, name=t.name.split(":")[0])
            for t, s in zip(model.inputs, sources or [None] * len(model.inputs), strict=True)
        ]  # fmt: skip
        known: dict[int, Any] = {id(t): new for t, new in zip(model.inputs, inputs, strict=True)}
        outputs = keras.tree.flatten(model.outputs)
        for node in in_order(outputs, known):
            results = self._apply(node, known)
            for tensor, value in zip(node.outputs, results, strict=True):
                known[id(tensor)] = value
        made = [known[id(tensor)] for tensor in outputs]
        if any(isinstance(value, _Dead | _Level) for value in made):
            raise PruningError(
                f"an output of model {model.name!r} has no live input any more; lower the strength "
                "of the penalty, or round the structure with floor=1"
            )
        return keras.Model(
            inputs if len(inputs) > 1 else inputs[0],
            made if len(made) > 1 else made[0],
            name=model.name,
        )

    def _apply(self, node: Any, known: Mapping[int, Any]) -> list[Any]:
        op = node.operation
        read = [known[id(t)] for t in node.arguments.keras_tensors]
        if any(isinstance(value, _Dead | _Level) for value in read):
            return self._without(node, known, read)
        if self._is_dead(op):
            return [DEAD] * len(node.outputs)

        def value(leaf: Any) -> Any:
            return known[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

        args, kwargs = keras.tree.map_structure(value, (node.arguments.args, node.arguments.kwargs))
        made = self._operation(op, read)
        return keras.tree.flatten(made(*args, **kwargs))  # type: ignore[no-any-return]

    def _operation(self, op: Any, read: list[Any]) -> Any:
        """The layer or operation at its new size; made once, however often it is called."""
        shaped = _reshaped(op, read)
        if shaped is not None:
            return shaped
        if not isinstance(op, keras.Layer):
            fresh = copy.copy(op)
            fresh._inbound_nodes, fresh._outbound_nodes = [], []
            return fresh
        if id(op) not in self._made:
            if recorded(op):
                self._made[id(op)] = self.model(op, read)
                return self._made[id(op)]
            layer = type(op).from_config(self._config(op))
            self._made[id(op)] = _Filled(layer, op, self._cuts)
        return self._made[id(op)]

    def _is_dead(self, op: Any) -> bool:
        widths = [self._width(name) for name in self._parts.get(id(op), ())]
        return 0 in widths

    def _config(self, op: Any) -> dict[str, Any]:
        config = dict(op.get_config())
        parts = {name: self._width(name) for name in self._parts.get(id(op), ())}
        known = {name: width for name, width in parts.items() if width is not None}
        kind = type(op).__name__
        last = known.get(next(reversed(list(known)), ""))
        if "filters" in config and last is not None:
            whole = self._by_suffix(known, "/pointwise", last)
            if config.get("groups", 1) > 1:
                per_group = config["filters"] // config["groups"]
                config["groups"] = max(1, whole // per_group)
            config["filters"] = whole
        elif "units" in config and kind == "Dense" and last is not None:
            config["units"] = last
        elif kind == "Embedding" and last is not None:
            config["output_dim"] = last
        elif kind == "MultiHeadAttention" and known:
            columns = self._by_suffix(known, "/query", config["num_heads"] * config["key_dim"])
            config["num_heads"] = columns // config["key_dim"]
        elif kind == "EinsumDense" and last is not None:
            shape = op.partial_output_shape
            config["output_shape"] = (*shape[:-1], last)
        elif kind == "GroupNormalization" and config["groups"] > 0:
            config["groups"] = self._groups(op, config["groups"])
        elif kind == "LayerScale":
            config["projection_dim"] = self._vector(op, config["projection_dim"])
        return config

    @staticmethod
    def _by_suffix(widths: Mapping[str, int], suffix: str, default: int) -> int:
        return next((w for name, w in widths.items() if name.endswith(suffix)), default)

    def _vector(self, op: Any, full: int) -> int:
        """Length of the layer's one vector."""
        if self._cuts is None:
            return full
        left = self._cuts.survivors.get(id(op.variables[0]))
        return full if left is None else int(left.size)

    def _groups(self, op: Any, groups: int) -> int:
        if not op.variables:
            return groups
        full = int(math.prod(op.variables[0].shape))
        return max(1, self._vector(op, full) * groups // full)

    # --- what is left where inputs are dead -------------------------------------------------------

    def _without(self, node: Any, known: Mapping[int, Any], read: list[Any]) -> list[Any]:
        op, kind = node.operation, type(node.operation).__name__
        live = [value for value in read if not isinstance(value, _Dead | _Level)]
        levels = [value for value in read if isinstance(value, _Level)]
        if kind in ("Add", "Concatenate", "Maximum") and not live and not levels:
            return [DEAD]
        if kind == "Concatenate" and not levels:
            if len(live) == 1:
                return live
            return [keras.layers.Concatenate(axis=op.axis, name=op.name)(live)]
        if kind == "Add":
            return [self._sum(op, live, levels)]
        if kind == "Multiply" and not levels:
            return [DEAD]
        if len(read) == 1:
            return [self._after(op, read[0])]
        raise PruningError(
            f"layer {op.name!r} ({kind}) reads tensors of which some are dead; round the structure "
            "with floor=1 to keep a channel of each"
        )

    def _sum(self, op: Any, live: list[Any], levels: list[_Level]) -> Any:
        offset = sum((level.value for level in levels), np.zeros((), np.float32))
        if not live:
            return _Level(offset)
        total = keras.layers.Add(name=op.name)(live) if len(live) > 1 else live[0]
        if not np.any(offset):
            return total
        layer = Offset(name=f"{op.name}_level")
        result = layer(total)
        layer.bias.assign(np.broadcast_to(offset, layer.bias.shape))
        return result

    def _after(self, op: Any, value: Any) -> Any:
        """A layer with one input, which is dead or the same everywhere."""
        kind = type(op).__name__
        if self._is_dead(op) or (isinstance(value, _Dead) and not _has_weights(op)):
            return DEAD
        if isinstance(value, _Dead):
            # a fresh model has nothing to keep; a scale of dead channels is dead itself
            if self._cuts is None or kind == "BatchNormalization" or kind.startswith("Depthwise"):
                return DEAD
            if kind not in _WRITES_BIAS:
                raise PruningError(
                    f"layer {op.name!r} ({kind}) has no live input; round the structure with "
                    "floor=1"
                )
            return _Level(self._bias(op))
        if kind == "BatchNormalization":
            return _Level(self._normalised(op, value.value))
        if kind in ("Activation", "ReLU", "LeakyReLU"):
            return _Level(keras.ops.convert_to_numpy(op(value.value[None])))
        if kind in ("Dropout", "MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D"):
            return value
        if not np.any(value.value) and kind in _WRITES_BIAS:
            return _Level(self._bias(op))
        raise PruningError(
            f"layer {op.name!r} ({kind}) reads the same number everywhere, since all inputs of a "
            "layer before it are dead; round the structure with floor=1"
        )

    def _cut(self, variable: Any) -> Any:
        value = numbers(variable)
        assert self._cuts is not None
        left = self._cuts.survivors.get(id(variable))
        return value if left is None else value.reshape(-1)[left]

    def _bias(self, op: Any) -> Any:
        assert self._cuts is not None
        if op.use_bias:
            value = self._cut(op.bias)
        else:
            (name,) = self._parts[id(op)][:1]
            value = np.zeros(self._width(name) or 0, np.float32)
        activation = getattr(op, "activation", None)
        if activation is None:
            return value
        return keras.ops.convert_to_numpy(activation(keras.ops.convert_to_tensor(value)))

    def _normalised(self, op: Any, value: Any) -> Any:
        mean, variance = self._cut(op.moving_mean), self._cut(op.moving_variance)
        made = (value - mean) / np.sqrt(variance + op.epsilon)
        made = made * self._cut(op.gamma) if op.scale else made
        return made + self._cut(op.beta) if op.center else made


_WRITES_BIAS = ("Conv1D", "Conv2D", "Conv3D", "Dense", "Conv2DTranspose")


def _has_weights(op: Any) -> bool:
    """Whether a layer or operation has learned anything."""
    return isinstance(op, keras.Layer) and bool(op.variables)


class _Filled:
    """A new layer that takes what survives of the old one's variables once it is built."""

    def __init__(self, layer: Any, old: Any, cuts: Cuts | None) -> None:
        self._layer, self._old, self._cuts = layer, old, cuts
        self._done = cuts is None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._layer(*args, **kwargs)
        if not self._done:
            self._fill()
            self._done = True
        return result

    def _fill(self) -> None:
        assert self._cuts is not None
        for old, new in zip(self._old.variables, self._layer.variables, strict=True):
            value = numbers(old)
            left = self._cuts.survivors.get(id(old))
            if left is not None:
                value = value.reshape(-1)[left]
            if value.size != math.prod(new.shape):
                raise PruningError(
                    f"layer {self._old.name!r} ({type(self._old).__name__}) cannot be made smaller "
                    f"from its configuration: {old.path} is to have {value.size} numbers and has "
                    f"{math.prod(new.shape)}; pass exclude=[{self._old.name!r}] to leave it whole"
                )
            new.assign(value.reshape(tuple(new.shape)))


def _reshaped(op: Any, read: list[Any]) -> Any:
    """A Reshape whose last axis holds channels that have become fewer."""
    target = getattr(op, "target_shape", None) or getattr(op, "newshape", None)
    if type(op).__name__ != "Reshape" or target is None:
        return None
    layer = isinstance(op, keras.Layer)
    old = tuple(op._inbound_nodes[0].arguments.keras_tensors[0].shape)
    new = tuple(read[0].shape)
    if old == new:
        return None
    dims = list(target if layer else tuple(target)[1:])
    if dims[-1] == old[-1]:
        dims[-1] = new[-1]
    elif -1 not in dims and len(dims) == 1:
        dims = [-1]
    elif -1 not in dims:
        raise PruningError(
            f"layer {op.name!r} reshapes {list(old[1:])} to {dims}, which tells nothing about "
            f"{list(new[1:])}; write the axis of the channels as -1"
        )
    return keras.layers.Reshape(tuple(dims), name=op.name)
