"""The model that a pruned one has to equal: full size, deaf to its dead channels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from latency_client.channels import written_axis
from latency_client.errors import PruningError
from latency_client.keras.extract import examples, extract
from latency_client.keras.views import numbers
from latency_client.structure import Structure, check_structure

_CONTRACTIONS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
_ROWS = 2

# Roundings of a half-precision network that add up between its inputs and its outputs.
_ROUNDINGS = 32
_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def masked(model: Any, structure: Structure, example_inputs: Any = None) -> Any:
    """A copy of the full size in which every weight that reads a dead channel is zero."""
    copied = keras.models.clone_model(model)
    for old, new in zip(model.variables, copied.variables, strict=True):
        new.assign(numbers(old))
    found = extract(copied, example_inputs)
    check_structure(structure, found.graph)
    for group, mask in structure.masks.items():
        for member in structure.members[group]:
            row = found.graph.by_name[member.layer]
            reads = member.role == "weight" and row.op in _CONTRACTIONS
            own = member.axis == written_axis(row) or int(row.attributes.get("group", 1)) > 1
            if mask.all() or not reads or own:
                continue
            binding = found.bindings[member.layer, "weight"]
            dead = member.positions(mask.size)[~mask].reshape(-1)
            kept = np.setdiff1d(np.arange(binding.shape[member.axis]), dead)
            value = numbers(binding.variable)
            left = np.zeros(value.size, dtype=np.bool_)
            left[binding.view.survivors(value.shape, {member.axis: kept})] = True
            binding.variable.assign(np.where(left.reshape(value.shape), value, 0))
    return copied


def compare(hidden: Any, smaller: Any, example_inputs: Any, tolerance: float) -> None:
    """See that two functional models compute the same.

    Args:
        hidden: the masked model.
        tolerance: of the largest difference, relative to the largest value, at least 1.

    Raises:
        PruningError: naming the largest difference, or what does not run.
    """
    inputs = _trial_inputs(hidden, example_inputs)
    wanted = _outputs(hidden, inputs)
    try:
        given = _outputs(smaller, inputs)
    except Exception as error:  # whatever a layer raises
        raise PruningError(
            "the pruned model does not run: a layer has numbers of channels in its code or its "
            "configuration; keep its channels with exclude=[...]. Keras says: "
            + " ".join(str(error).split())
        ) from error
    dtypes = {layer.compute_dtype for layer in hidden.layers}
    tolerance = max(tolerance, *(_ROUNDINGS * _EPSILON.get(dtype, 0.0) for dtype in dtypes))
    for name, a, b in zip(hidden.output_names, wanted, given, strict=True):
        if a.shape != b.shape:
            raise PruningError(
                f"output {name!r} has shape {list(b.shape)} after pruning and {list(a.shape)} "
                "before; keep its channels with exclude=[...]"
            )
        apart = float(abs(a - b).max(initial=0.0))
        if not apart <= tolerance * max(1.0, float(abs(a).max(initial=0.0))):
            raise PruningError(
                f"output {name!r} of the pruned model differs from that of the masked one by "
                f"{apart:.3g}: some layer computes with channels in a way that its counterpart in "
                "the graph does not tell; keep its channels with exclude=[...]"
            )


def _outputs(model: Any, inputs: list[Any]) -> list[npt.NDArray[np.float64]]:
    function = keras.Function(list(model.inputs), keras.tree.flatten(model.outputs))
    made = keras.tree.flatten(function(inputs))
    return [
        keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")).astype(np.float64) for x in made
    ]


def _trial_inputs(model: Any, example_inputs: Any) -> list[Any]:
    """A few rows of the examples; random numbers where they are none, or all the same."""
    rng = np.random.default_rng(0)
    found = []
    flat = keras.tree.flatten(examples(model, example_inputs))
    for tensor, example in zip(model.inputs, flat, strict=True):
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        rows = _ROWS if tensor.shape[0] is None else tensor.shape[0]
        if not isinstance(example, keras.KerasTensor):
            value = keras.ops.convert_to_numpy(example)[:rows]
            if value.size and (value != value.flat[0]).any():
                found.append(value)
                continue
        shape = (rows, *example.shape[1:])
        # 0 and 1 are in every vocabulary
        value = rng.normal(size=shape) if "float" in dtype else rng.integers(0, 2, shape)
        found.append(keras.ops.convert_to_tensor(value, dtype=dtype))
    return found
