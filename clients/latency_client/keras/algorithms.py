"""Where the strength of a channel comes from: BatchNorm scales, weight norms, or gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

import keras

from latency_client.channels import (
    NORMALISATIONS,
    SourceKey,
    gamma_sources,
    weight_sources,
    written_axis,
)
from latency_client.errors import NothingToPruneError, OptionError
from latency_client.keras.extract import Extraction
from latency_client.keras.penalty import Charges
from latency_client.keras.views import Binding

Tensor = Any
Decorator = Callable[[str, Tensor], Tensor]


class Algorithm(Protocol):
    """How strong each channel is, and whether it lives."""

    @property
    def deciding(self) -> Algorithm:
        """The one whose vectors decide which channels live; mostly itself."""
        ...

    def sources(self, found: Extraction) -> Mapping[SourceKey, int]:
        """Length of every vector of strengths that the model has."""
        ...

    def vector(self, found: Extraction, key: SourceKey) -> Tensor:
        """The strengths of one source, in the order of the graph's axis."""
        ...

    def alive(self, charges: Charges, flat: Tensor, threshold: float) -> Tensor:
        """(C,) whether each channel lives."""
        ...

    def strengths(self, charges: Charges, flat: Tensor) -> Tensor:
        """(C,) of each channel."""
        ...

    def nothing(self, found: Extraction) -> NothingToPruneError:
        """What to say where no channel has a source."""
        ...


class _Largest:
    """A channel is as strong as the strongest of its entries."""

    @property
    def deciding(self) -> Algorithm:
        """Itself."""
        return cast(Algorithm, self)

    def alive(self, charges: Charges, flat: Tensor, threshold: float) -> Tensor:
        """Strictly above the threshold."""
        return charges.largest(flat) > threshold

    def strengths(self, charges: Charges, flat: Tensor) -> Tensor:
        """The maximum over its entries."""
        return charges.largest(flat)


class Gamma(_Largest):
    """The absolute scales of the normalisations (Liu et al., 2017; MorphNet)."""

    def sources(self, found: Extraction) -> Mapping[SourceKey, int]:
        """One vector per normalisation with a scale."""
        return {
            key: length
            for key, length in gamma_sources(found.graph).items()
            if found.bindings[key.layer, "gamma"].scale
        }

    def vector(self, found: Extraction, key: SourceKey) -> Tensor:
        """|gamma|."""
        binding = found.bindings[key.layer, key.role]
        return keras.ops.abs(binding.view.tensor(_float32(binding.variable)))

    def nothing(self, found: Extraction) -> NothingToPruneError:
        """Without a scale there is nothing that a penalty could pull to zero."""
        norms = [row.name for row in found.graph.layers if row.op in NORMALISATIONS]
        bare = [n for n in norms if (n, "gamma") not in found.bindings
                or not found.bindings[n, "gamma"].scale]  # fmt: skip
        if bare:
            why = (
                f"{len(bare)} of {len(norms)} normalisations have scale=False (the first is "
                f"{bare[0]!r}); build them with scale=True"
            )
        elif norms:
            why = (
                "none of the normalisations' channels may be pruned: `exclude`, `boundary` or "
                "`freeze_outputs` keeps all of them"
            )
        else:
            why = "the model has no BatchNormalization; put one behind each convolution"
        return NothingToPruneError(
            f"no BatchNorm scale to regularise: {why}, or use a GroupLasso regulariser"
        )


class GroupLasso(_Largest):
    """Norms of the weights that write a channel (Yuan and Lin, 2006; MorphNet).

    Attributes:
        l1_fraction: f in (1 - f) sqrt(mean w^2) + f mean |w|.
    """

    def __init__(self, l1_fraction: float = 0.0) -> None:
        """Check the fraction.

        Raises:
            OptionError: if it is outside of [0, 1].
        """
        if not 0.0 <= l1_fraction <= 1.0:
            raise OptionError(f"l1_fraction={l1_fraction}: a number from 0 to 1")
        self.l1_fraction = float(l1_fraction)

    def sources(self, found: Extraction) -> Mapping[SourceKey, int]:
        """One vector per weight that writes channels."""
        return weight_sources(found.graph)

    def vector(self, found: Extraction, key: SourceKey) -> Tensor:
        """One norm per position of the weight's axis."""
        return _norms(found.bindings[key.layer, key.role], key.axis, self.l1_fraction)

    def nothing(self, found: Extraction) -> NothingToPruneError:
        """No weights, or none that may be pruned."""
        count = len(weight_sources(found.graph))
        return NothingToPruneError(
            f"none of the channels that the {count} weights write may be pruned: `exclude`, "
            "`boundary` or `freeze_outputs` keeps all of them"
        )


def _norms(binding: Binding, axis: int, l1_fraction: float) -> Tensor:
    ops, view = keras.ops, binding.view
    value, order = _float32(binding.variable), None
    if view.merged is None:
        # the norm of the variable as it is: a permutation of the axes changes no mean
        value = value if view.split is None else ops.reshape(value, view.split)
        order = view.order[1] if view.order is not None and view.order[0] == axis else None
        axis = view.axes[axis]
    else:
        value = view.tensor(value)
    others = [a for a in range(len(value.shape)) if a != axis]
    norm = 0.0
    if l1_fraction < 1.0:
        mean = ops.mean(ops.square(value), axis=others)
        # the root has no gradient at zero; a filter of zeros stays where it is
        safe = ops.sqrt(ops.where(mean > 0, mean, ops.ones_like(mean)))
        norm = (1.0 - l1_fraction) * ops.where(mean > 0, safe, ops.zeros_like(mean))
    if l1_fraction > 0.0:
        norm = norm + l1_fraction * ops.mean(ops.abs(value), axis=others)
    return norm if order is None else ops.take(norm, order.astype("int32"), axis=0)


class LogisticSigmoid:
    """Gates of a model that let channels through or not (FiGS; MorphNet).

    Attributes:
        regularize_on_mask: a channel is as strong as the last sample of its gates; False: as the
            probability that the sample is drawn from.
        mask_as_alive_vector: it lives by the last sample; False: by the probability.
    """

    def __init__(self, regularize_on_mask: bool = True, mask_as_alive_vector: bool = True) -> None:
        """Choose what is charged and what decides."""
        self.regularize_on_mask = regularize_on_mask
        self.mask_as_alive_vector = mask_as_alive_vector

    @property
    def deciding(self) -> Algorithm:
        """The same on what decides."""
        if self.mask_as_alive_vector == self.regularize_on_mask:
            return self
        return LogisticSigmoid(self.mask_as_alive_vector, self.mask_as_alive_vector)

    def _gates(self, found: Extraction) -> dict[SourceKey, Any]:
        gates = {}
        for name, gate in found.gates.items():
            row = found.graph.by_name[name]
            if row.op in NORMALISATIONS:
                gates[SourceKey(name, "gamma", 0)] = gate
            else:
                axis = written_axis(row)
                if axis is not None:
                    gates[SourceKey(name, "weight", axis)] = gate
        return gates

    def sources(self, found: Extraction) -> Mapping[SourceKey, int]:
        """One vector per gate, known by the layer whose channels it lets through."""
        return {key: int(gate.logits.shape[0]) for key, gate in self._gates(found).items()}

    def vector(self, found: Extraction, key: SourceKey) -> Tensor:
        """The last sample, or sigmoid(logit)."""
        gate = found.gates[key.layer]
        vector = gate.last_mask() if self.regularize_on_mask else gate.probabilities()
        return found.bindings[key.layer, "gate"].view.tensor(vector)

    def alive(self, charges: Charges, flat: Tensor, threshold: float) -> Tensor:
        """At or above the threshold, as in MorphNet."""
        return charges.largest(flat) >= threshold

    def strengths(self, charges: Charges, flat: Tensor) -> Tensor:
        """1 - prod(1 - p) over a channel's gates."""
        return charges.any_on(flat)

    def nothing(self, found: Extraction) -> NothingToPruneError:
        """No gates."""
        return NothingToPruneError(
            "the model has no gates on channels that may be pruned; put Gate() "
            "behind its BatchNormalization layers, or make such a model with add_gates(model)"
        )


def flat_strengths(
    algorithm: Algorithm,
    found: Extraction,
    keys: Iterable[SourceKey],
    decorator: Decorator | None = None,
) -> Tensor:
    """All source vectors one after another, as a decorator changes them."""
    vectors = []
    for key in keys:
        vector = algorithm.vector(found, key)
        vectors.append(vector if decorator is None else decorator(key.layer, vector))
    return keras.ops.concatenate(vectors, axis=0)


def _float32(variable: Any) -> Tensor:
    return keras.ops.cast(variable.value, "float32")
