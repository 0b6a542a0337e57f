"""Penalties that make a network cheaper on a device while it is trained.

    regularizer = GammaLatencyRegularizer(model, example, device="v100")
    loss = task_loss + strength * regularizer.get_regularization_term()

A regulariser is an algorithm (where the strength of a channel comes from) and a resource (what a
channel costs). The twelve classes are the pairs of both.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt

from latency_client.channels import ChannelMap, channel_map
from latency_client.errors import LatencyClientError, OptionError
from latency_client.keras.algorithms import (
    Algorithm,
    Decorator,
    flat_strengths,
)
from latency_client.keras.extract import Extraction
from latency_client.keras.network import Network, describe
from latency_client.keras.penalty import Charges
from latency_client.keras.prune import prune
from latency_client.network import named_devices
from latency_client.resources import CostArrays, Resource, cost_arrays
from latency_client.service import FallbackWarning, Source
from latency_client.strength import strength_sweep, suggested_strength
from latency_client.structure import Structure, rounded, trained_structure
from latency_client.wire import Answer

Tensor = Any


class NetworkRegularizer:
    """The common part of all regularisers.

    Attributes:
        network: the model's graph and the answers about it.
        channels: which entries of which vector are which channel.
        arrays: costs by layer, in the resource's unit.
    """

    resource: ClassVar[Resource]
    default_threshold: ClassVar[float] = 1e-3

    def __init__(
        self,
        model: Any,
        example_inputs: Any = None,
        device: str | None = None,
        service: str | Source = "http://127.0.0.1:8000",
        threshold: float | None = None,
        *,
        devices: Sequence[str] | None = None,
        combine: str = "weighted",
        weights: Sequence[float] | None = None,
        decorator: Decorator | None = None,
        refresh_every: int | None = None,
        algorithm: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Fetch the coefficients, one request per device.

        Args:
            model: built, or one that `example_inputs` can be given to.
            example_inputs: an array, or arrays as the model takes them; only sizes count. None: the
                model's own input sizes.
            device: by name or alias, v100 by default; `devices` names several.
            service: a URL, or "file:coefficients.json".
            threshold: a channel at or below it is dead.
            combine: of several devices, "weighted" (sum of weight times value) or "worst" (the
                device on which the network is dearest).
            weights: one per device; default: equal, with sum 1.
            decorator: takes a layer's name and its strengths, returns other strengths.
            refresh_every: training steps after which `PenaltyCallback`, or a loop that calls
                `step_done`, has the coefficients read again, in the background.
            algorithm: options of the algorithm, `{"l1_fraction": 0.5}` say.
            options: batch_size, and those of `latency_client.network.Options`: dtype, exclude
                (`regularizer_blacklist` is MorphNet's name), input_boundary, cache, token, ...

        Raises:
            NothingToPruneError: if no channel can be regularised.
            GraphError: if the model cannot be written as a graph.
            ServiceError: if the service gives no usable answer, and the cache has none.
            OptionError: for impossible options.
        """
        if refresh_every is not None and refresh_every < 1:
            raise OptionError(f"refresh_every={refresh_every}: it must be at least 1")
        names = named_devices(device, devices)
        self.threshold = self.default_threshold if threshold is None else float(threshold)
        self._combine, self._weights = combine, _weights(combine, weights, len(names))
        self._decorator = decorator
        self._model, self._example_inputs = model, example_inputs
        self._refresh_every = refresh_every
        self._steps = 0
        self.algorithm = self._algorithm(**(algorithm or {}))
        self.network: Network = describe(model, example_inputs, names, service, **options)
        self.arrays: CostArrays = self._arrays(self.network)
        sources = self.algorithm.sources(self.extraction)
        self.channels: ChannelMap = channel_map(self.network.answer, sources)
        if not self.channels.channel_count:
            raise self.algorithm.nothing(self.extraction)
        self.charges = Charges(self.arrays, self.channels)
        self._pending: list[Network] = []
        self._refreshing: threading.Thread | None = None

    @property
    def extraction(self) -> Extraction:
        """The model as a layer graph."""
        return self.network.extraction

    @property
    def answers(self) -> tuple[Answer, ...]:
        """What the service said, one answer a device."""
        return self.network.answers

    @classmethod
    def _algorithm(cls) -> Algorithm:
        raise NotImplementedError

    def _arrays(self, network: Network) -> CostArrays:
        arrays = cost_arrays(network.answers, self.resource)
        return (
            arrays if network.chosen is None else arrays.only(arrays.rows(sorted(network.chosen)))
        )

    # --- in the training step ---------------------------------------------------------------------

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Cost and penalty, (D, L) each, of every layer of `arrays` on every device."""
        flat = flat_strengths(self.algorithm, self.extraction, self.channels.sources)
        alive = self.algorithm.alive(self.charges, self._deciding(flat), self.threshold)
        if self._decorator is not None:
            keys = self.channels.sources
            flat = flat_strengths(self.algorithm, self.extraction, keys, self._decorator)
        strengths = self.algorithm.strengths(self.charges, flat)
        return self.charges.evaluate(alive, strengths)

    def _deciding(self, flat: Tensor) -> Tensor:
        """The flat vector that decides which channels live: the strengths, or another one."""
        deciding = self.algorithm.deciding
        if deciding is self.algorithm:
            return flat
        return flat_strengths(deciding, self.extraction, self.channels.sources)

    def _over_devices(self, values: Tensor, costs: Tensor) -> Tensor:
        """(D,) values as one."""
        if len(self._weights) == 1 or values.shape[0] == 1:
            scale = self._weights[0] if len(self._weights) == 1 else float(self._weights.sum())
            return values[0] * scale
        if self._combine == "worst":
            return keras.ops.take(values, keras.ops.argmax(costs), axis=0)
        return keras.ops.sum(values * self._weights)

    def get_regularization_term(self, layers: Sequence[str] | None = None) -> Tensor:
        """The penalty, a float32 scalar to be multiplied by a strength and added to the loss.

        Args:
            layers: names of the layers that are meant; None: all.
        """
        costs, penalties = self.evaluate()
        return self._over_devices(self._total(penalties, layers), self._total(costs, None))

    def get_cost(self, layers: Sequence[str] | None = None) -> Tensor:
        """What the network costs without its dead channels, in the resource's unit; no gradient."""
        costs = keras.ops.stop_gradient(self.evaluate()[0])
        return self._over_devices(self._total(costs, layers), self._total(costs, None))

    def costs_by_device(self) -> dict[str, float]:
        """What the network costs on each device without its dead channels."""
        totals = keras.ops.convert_to_numpy(self._total(self.evaluate()[0], None))
        return dict(zip(self.arrays.devices, totals.tolist(), strict=True))

    def _total(self, values: Tensor, layers: Sequence[str] | None) -> Tensor:
        if layers is None:
            return keras.ops.sum(values, axis=1)
        return keras.ops.sum(values * self.arrays.rows(layers).astype(np.float32), axis=1)

    # --- what training has found ------------------------------------------------------------------

    def structure(self, *, floor: int = 0, multiple_of: int | str = 1) -> Structure:
        """Which channels live now.

        Args:
            floor: least channels of every group; 0 lets branches die.
            multiple_of: a number that live channels are rounded up to, or "device".
        """
        flat = flat_strengths(self.algorithm, self.extraction, self.channels.sources)
        alive = self.algorithm.alive(self.charges, self._deciding(flat), self.threshold)
        made = self._structure(keras.ops.convert_to_numpy(alive))
        if floor or multiple_of != 1:
            graph, answer = self.extraction.graph, self.network.answer
            return rounded(made, graph, answer, floor=floor, multiple_of=multiple_of)
        return made

    def full_structure(self) -> Structure:
        """Every channel alive, with the strengths of now."""
        return self._structure(np.ones(self.channels.channel_count, dtype=np.bool_))

    def _structure(self, alive: npt.NDArray[np.bool_]) -> Structure:
        flat = flat_strengths(self.algorithm, self.extraction, self.channels.sources)
        strengths = self.algorithm.strengths(self.charges, flat)
        values = keras.ops.convert_to_numpy(strengths).astype(np.float64)
        graph, answer = self.extraction.graph, self.network.answer
        return trained_structure(graph, answer, self.channels, alive, values)

    def prune(
        self,
        model: Any = None,
        *,
        floor: int = 0,
        multiple_of: int | str = 1,
        **options: Any,
    ) -> Any:
        """A smaller copy of the model, with the weights that survive.

        Args:
            model: another one of the same code, an average of weights say; default: the model.
            options: `tolerance`, see `prune`.
        """
        structure = self.structure(floor=floor, multiple_of=multiple_of)
        return self.prune_to(structure, model, **options)

    def prune_to(self, structure: Structure, model: Any = None, **options: Any) -> Any:
        """The same for a structure of one's own: rounded, shrunk, or read from a file."""
        full = self._model if model is None else model
        return prune(full, structure, self._example_inputs, **options)

    def alive_counts(self) -> dict[str, int]:
        """Live output channels of every layer that may be pruned, by name."""
        return self.structure().alive_counts()

    def strengths(self) -> dict[str, Any]:
        """Per layer the strengths of its own channels: the histogram shows the threshold."""
        return {
            key.layer: keras.ops.convert_to_numpy(self.algorithm.vector(self.extraction, key))
            for key in self.channels.sources
        }

    # --- coefficients at the current structure ----------------------------------------------------

    def refresh(self, wait: bool = True) -> bool:
        """Ask for the coefficients at the current structure, of the same revision.

        Calibrated coefficients are exact where they were asked for; a data sheet's do not change.
        If the service is away, the old ones stay and a `FallbackWarning` says so.

        Args:
            wait: False: ask in a thread of its own; what it brings is used from the first call of
                `refresh` or `use_refreshed` after it has come.

        Returns:
            Whether new coefficients are in use.
        """
        counts = self.structure().group_counts()
        if wait:
            self._fetch(counts)
        elif self._refreshing is None or not self._refreshing.is_alive():
            self._refreshing = threading.Thread(target=self._fetch, args=(counts,), daemon=True)
            self._refreshing.start()
        return self.use_refreshed()

    def use_refreshed(self) -> bool:
        """Put coefficients that a refresh has brought into use."""
        if not self._pending:
            return False
        self.network = self._pending.pop()
        self._pending.clear()
        self.arrays = self._arrays(self.network)
        self.charges.assign(self.arrays)
        return True

    def _fetch(self, counts: Mapping[str, int]) -> None:
        prunable = {group.id for group in self.network.answer.groups if group.prunable}
        alive = {group: count for group, count in counts.items() if group in prunable}
        try:
            self._pending.append(self.network.refreshed(alive))
        except LatencyClientError as error:
            kept = ", ".join(f"{a.device.name} revision {a.device.revision}" for a in self.answers)
            warnings.warn(
                f"the coefficients were not refreshed: {error}. Training goes on with those of "
                f"{kept}, which stay as they are",
                FallbackWarning,
                stacklevel=3,
            )

    def step_done(self) -> None:
        """Count a training step: refreshes every `refresh_every` steps, without waiting."""
        self._steps += 1
        if self._refresh_every is not None and self._steps % self._refresh_every == 0:
            self.refresh(wait=False)
        else:
            self.use_refreshed()

    def suggested_strength(self) -> float:
        """A strength to start from: 1 / cost."""
        return suggested_strength(float(self.get_cost()))

    def strength_sweep(self, count: int = 7, decades: float = 3.0) -> tuple[float, ...]:
        """Strengths to try around it, evenly spaced in their logarithm."""
        return strength_sweep(float(self.get_cost()), count, decades)

    def costs_by_layer(self) -> dict[str, float]:
        """The cost of every layer, devices combined."""
        costs = keras.ops.convert_to_numpy(self.evaluate()[0]).astype(np.float64)
        if self._combine == "worst":
            combined = costs[costs.sum(axis=1).argmax()]
        else:
            weights = self._weights if len(costs) > 1 else [float(self._weights.sum())]
            combined = np.asarray(weights, np.float64) @ costs
        return dict(zip(self.arrays.layers, combined.tolist(), strict=True))

    def summary(self) -> str:
        """What is regularised for which devices, in a few lines."""
        counts = self.structure().group_counts()
        prunable = [g for g in self.answers[0].groups if g.prunable]
        lines = [
            f"{type(self).__name__}: {self.channels.channel_count} channels in "
            f"{int(self.channels.regularised.sum())} groups, threshold {self.threshold:g}"
        ]
        for answer in self.answers:
            used = answer.device
            lines.append(
                f"  {used.name} ({used.runtime}, revision {used.revision}, {used.digest}): "
                f"{answer.latency_s:.4g} s at batch {answer.batch_size}"
            )
        for name, cost in self.costs_by_device().items():
            lines.append(f"  now {cost:.4g} {self.resource.unit} ({name})")
        alive, full = sum(counts[g.id] for g in prunable), sum(g.size for g in prunable)
        lines.append(f"  {alive} of {full} prunable channels live")
        return "\n".join(lines)


def _weights(combine: str, weights: Sequence[float] | None, count: int) -> Any:
    if combine not in ("weighted", "worst"):
        raise OptionError(f'combine={combine!r} is neither "weighted" nor "worst"')
    if weights is None:
        return np.full(count, 1.0 / count, dtype=np.float32)
    given = np.asarray(weights, dtype=np.float32)
    if combine == "worst":
        raise OptionError('weights have no meaning with combine="worst"; leave them out')
    if given.shape != (count,) or not (given >= 0).all() or not given.sum() > 0:
        raise OptionError(
            f"weights={list(weights)}: one number >= 0 per device ({count}), not all 0"
        )
    return given
