"""What a penalty charges for: latency, FLOPs, model size or activations, as arrays.

Every resource has the same shape, a pair of forms per layer of which the larger one counts, so that
one evaluation serves all. For anything but latency the second form is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from latency_client.errors import OptionError
from latency_client.wire import Answer, LayerCosts

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CostArrays:
    """Costs of a network on D devices; L layers, G groups.

    Attributes:
        layers: names, in the order of rows.
        groups: ids, in the order of columns.
        devices: names; one, and "any", for what no device changes.
        sizes: (G,) channels per group.
        reads, writes: (L, G) how often a layer's inputs and outputs hold each channel of a group.
        compute, memory: (D, L, 4) constant, per_in, per_out, per_pair.
        overhead: (D, L) what a layer costs beside the larger of the two.
        unit: of the costs.
    """

    layers: tuple[str, ...]
    groups: tuple[str, ...]
    devices: tuple[str, ...]
    sizes: FloatArray
    reads: FloatArray
    writes: FloatArray
    compute: FloatArray
    memory: FloatArray
    overhead: FloatArray
    unit: str

    def rows(self, layers: Sequence[str] | None) -> npt.NDArray[np.bool_]:
        """(L,) which layers are meant; None: all.

        Raises:
            OptionError: naming a layer that does not exist.
        """
        if layers is None:
            return np.ones(len(self.layers), dtype=np.bool_)
        if isinstance(layers, str):
            layers = [layers]
        position = {name: row for row, name in enumerate(self.layers)}
        chosen = np.zeros(len(self.layers), dtype=np.bool_)
        for name in layers:
            if name not in position:
                alike = [known for known in self.layers if name in known or known in name][:5]
                raise OptionError(
                    f"there is no layer {name!r}; names look like "
                    + ", ".join(repr(known) for known in alike or self.layers[:5])
                )
            chosen[position[name]] = True
        return chosen

    def only(self, layers: npt.NDArray[np.bool_]) -> CostArrays:
        """The same with the other layers at no cost.

        Args:
            layers: (L,) which ones keep theirs.
        """
        keep = layers.astype(np.float64)
        return CostArrays(
            self.layers,
            self.groups,
            self.devices,
            self.sizes,
            self.reads,
            self.writes,
            self.compute * keep[:, None],
            self.memory * keep[:, None],
            self.overhead * keep,
            self.unit,
        )


Pair = tuple[Sequence[float], Sequence[float], float]

_ZERO = (0.0, 0.0, 0.0, 0.0)


def _latency(layer: LayerCosts) -> Pair:
    return layer.compute, layer.memory, layer.overhead_s


def _flops(layer: LayerCosts) -> Pair:
    return layer.flops, _ZERO, 0.0


def _model_size(layer: LayerCosts) -> Pair:
    return layer.weights, _ZERO, 0.0


def _activation(layer: LayerCosts) -> Pair:
    # MorphNet: the live output channels of every layer that has FLOPs (reference: its section 2.3)
    return ((0.0, 0.0, 1.0, 0.0) if any(layer.flops) else _ZERO), _ZERO, 0.0


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing to be saved.

    Attributes:
        forms: of a layer: two forms of which the larger one counts, and a constant.
        per_device: whether it differs from device to device.
    """

    name: str
    unit: str
    forms: Callable[[LayerCosts], Pair]
    per_device: bool = False


LATENCY = Resource("latency", "s", _latency, per_device=True)
FLOPS = Resource("flops", "FLOP", _flops)
MODEL_SIZE = Resource("model_size", "weights", _model_size)
ACTIVATION = Resource("activation", "channels", _activation)

RESOURCES = {resource.name: resource for resource in (LATENCY, FLOPS, MODEL_SIZE, ACTIVATION)}


def cost_arrays(answers: Sequence[Answer], resource: Resource = LATENCY) -> CostArrays:
    """Arrays of one network on one device or several.

    Args:
        answers: to the same graph with the same options, one per device.

    Raises:
        OptionError: if the answers are not about the same layers and groups.
    """
    first = answers[0]
    for other in answers[1:]:
        same_layers = [layer.name for layer in first.layers] == [x.name for x in other.layers]
        same_groups = [(g.id, g.size) for g in first.groups] == [
            (g.id, g.size) for g in other.groups
        ]
        if not same_layers or not same_groups:
            raise OptionError(
                f"the answers for {first.device.name!r} and {other.device.name!r} are about "
                "different layers or channel groups; ask for both with the same model and options"
            )
    used = answers if resource.per_device else answers[:1]
    count, groups = len(first.layers), len(first.groups)
    reads, writes = np.zeros((count, groups)), np.zeros((count, groups))
    column = first.group_index
    for row, layer in enumerate(first.layers):
        for matrix, uses in ((reads, layer.reads), (writes, layer.writes)):
            for use in uses:
                matrix[row, column[use.group]] += use.times
    pairs = [[resource.forms(layer) for layer in answer.layers] for answer in used]
    return CostArrays(
        tuple(layer.name for layer in first.layers),
        tuple(group.id for group in first.groups),
        tuple(answer.device.name for answer in used) if resource.per_device else ("any",),
        np.array([group.size for group in first.groups], dtype=np.float64),
        reads,
        writes,
        np.array([[pair[0] for pair in rows] for rows in pairs], dtype=np.float64),
        np.array([[pair[1] for pair in rows] for rows in pairs], dtype=np.float64),
        np.array([[pair[2] for pair in rows] for rows in pairs], dtype=np.float64),
        resource.unit,
    )
