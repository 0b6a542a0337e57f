"""The penalties: what training adds to the loss, and what it reports.

An algorithm says where a channel's strength comes from, a resource what is charged for; a
regulariser is one of each. The twelve names of MorphNet's family are at the end.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latency_client.channels import ChannelMap, channel_map
from latency_client.errors import LatencyClientError, NothingToPruneError, OptionError
from latency_client.network import named_devices
from latency_client.resources import CostArrays, Resource, cost_arrays
from latency_client.service import FallbackWarning, Source
from latency_client.strength import strength_sweep, suggested_strength
from latency_client.structure import BoolArray, Structure, rounded, trained_structure
from latency_client.torch.algorithms import Algorithm, LogisticSigmoid
from latency_client.torch.evaluate import ChannelTensors, CostTensors, Layerwise, working_dtype
from latency_client.torch.network import Network, describe
from latency_client.torch.prune import prune
from latency_client.wire import Answer

Decorator = Callable[[str, Tensor], Tensor]


class NetworkRegularizer:
    """A penalty on what a network costs.

    `loss = criterion(model(x), y) + strength * regularizer.get_regularization_term()`

    Attributes:
        network: the model's graph and the answers about it.
        channels: which entries of the sources hold which channel.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        device: str | None = None,
        service: str | Source = "http://127.0.0.1:8000",
        *,
        algorithm: Algorithm,
        resource: Resource,
        devices: Sequence[str] | None = None,
        combine: str = "weighted",
        weights: Sequence[float] | None = None,
        decorator: Decorator | None = None,
        refresh_every: int | None = None,
        **options: Any,
    ) -> None:
        """Extract the model, fetch its coefficients and find the sources of its channels.

        Args:
            device: by name or alias; default: v100, or the first of `devices`.
            devices: several at once; `combine` says how: "weighted" by `weights` (default: the
                mean), or "worst", that of the device on which the network is slowest.
            decorator: gets a layer's name and its strengths, returns other strengths.
            refresh_every: calls of `get_regularization_term` after which the coefficients are read
                again at the structure of that moment, in the background.
            options: batch_size, batch_axis, and those of `latency_client.network.Options`: dtype,
                exclude, input_boundary, cache, token, ...

        Raises:
            NothingToPruneError: if no channel can be regularised; there is no silent zero.
            LatencyClientError: if the graph or the coefficients cannot be had.
        """
        if combine not in ("weighted", "worst"):
            raise OptionError(f'combine={combine!r} is neither "weighted" nor "worst"')
        if refresh_every is not None and refresh_every < 1:
            raise OptionError(f"refresh_every={refresh_every}: it must be at least 1")
        names = named_devices(device, devices)
        self.algorithm = algorithm
        self.resource = resource
        self.network = describe(model, example_inputs, names, service, **options)
        self._example_inputs, self._batch_axis = example_inputs, options.get("batch_axis", 0)
        self.channels: ChannelMap = self._find_channels()
        self._weights = _weights(weights, len(names) if resource.per_device else 1)
        self._worst = combine == "worst"
        self._decorator = decorator
        self._refresh_every = refresh_every
        self._calls = 0
        self._refreshing: threading.Thread | None = None
        self._arrived: Network | LatencyClientError | None = None
        extraction, inner = self.network.extraction, self.network.model
        self._sources = algorithm.sources(inner, extraction, self.channels.sources)
        self._deciders = self._sources
        if isinstance(algorithm, LogisticSigmoid):
            self._deciders = algorithm.alive_sources(inner, extraction, self.channels.sources)
        self._set_costs()

    # --- construction ----------------------------------------------------------------------------

    def _find_channels(self) -> ChannelMap:
        network = self.network
        lengths = self.algorithm.lengths(network.model, network.extraction)
        found = channel_map(network.answer, lengths)
        if not found.channel_count:
            raise NothingToPruneError(self._nothing())
        return found

    def _nothing(self) -> str:
        model, answer = self.network.model, self.network.answer
        message = f"{type(model).__name__}: {self.algorithm.missing}."
        bare = [
            path
            for path, module in model.named_modules()
            if getattr(module, "affine", True) is False
        ]
        if bare:
            message += f" These have their scale switched off (affine=False): {', '.join(bare[:5])}"
            message += f" and {len(bare) - 5} more." if len(bare) > 5 else "."
        prunable = sum(group.prunable for group in answer.groups)
        message += (
            f" Of {len(answer.groups)} channel groups {prunable} may be pruned"
            + ("" if prunable else ": look at exclude, the boundaries and freeze_outputs")
            + "."
        )
        return message

    def _set_costs(self) -> None:
        arrays = cost_arrays(self.network.answers, self.resource)
        if self.network.chosen is not None:
            arrays = arrays.only(arrays.rows(sorted(self.network.chosen)))
        self.arrays: CostArrays = arrays
        self._tensors: tuple[torch.device, ChannelTensors, CostTensors] | None = None
        self._rows: dict[tuple[Any, ...], Tensor] = {}

    @property
    def answers(self) -> tuple[Answer, ...]:
        """What the service said, one answer a device."""
        return self.network.answers

    # --- evaluation ------------------------------------------------------------------------------

    def _on(self, device: torch.device) -> tuple[ChannelTensors, CostTensors]:
        """The arrays where the parameters are; they follow when those move."""
        if self._tensors is None or self._tensors[0] != device:
            channels = ChannelTensors.of(self.channels, device)
            self._tensors = (device, channels, CostTensors.of(self.arrays, device))
            self._rows = {}
        return self._tensors[1:]

    def _flat(self, sources: Sequence[Any], decorated: bool) -> Tensor:
        """(F,) all sources one after another."""
        vectors = [source.vector() for source in sources]
        if decorated and self._decorator is not None:
            keys = self.channels.sources
            vectors = [self._decorator(k.layer, v) for k, v in zip(keys, vectors, strict=True)]
        flat = torch.cat(vectors)
        return flat.to(working_dtype(flat.device))

    def channel_strengths(self) -> Tensor:
        """(C,) strength of every channel that has a source, with its gradient."""
        return self._channels(decorated=True)

    def _channels(self, decorated: bool) -> Tensor:
        flat = self._flat(self._sources, decorated)
        channels, _ = self._on(flat.device)
        return channels.any_on(flat) if self.algorithm.probabilistic else channels.largest(flat)

    def alive_channels(self) -> Tensor:
        """(C,) whether every channel that has a source lives."""
        with torch.no_grad():
            flat = self._flat(self._deciders, decorated=False)
            strongest = self._on(flat.device)[0].largest(flat)
            if self.algorithm.inclusive:
                return strongest >= self.algorithm.threshold
            return strongest > self.algorithm.threshold

    def _layerwise(self) -> Layerwise:
        strengths = self.channel_strengths()
        channels, costs = self._on(strengths.device)
        alive = self.alive_channels().to(strengths.dtype)
        counts = channels.fixed_counts + channels.group_sums(alive)
        return costs.evaluate(counts, channels.group_sums(strengths))

    def _combined(self, per_device: Tensor, costs: Tensor) -> Tensor:
        if self._worst:
            return per_device[costs.sum(dim=1).argmax()].sum()
        weights = per_device.new_tensor(self._weights)
        return (weights @ per_device).sum()

    def _only(self, values: Tensor, layers: Sequence[str] | None) -> Tensor:
        if layers is None:
            return values
        key = (layers,) if isinstance(layers, str) else tuple(layers)
        if key not in self._rows:
            self._rows[key] = torch.from_numpy(self.arrays.rows(key)).to(values)
        return values * self._rows[key]

    def get_regularization_term(self, layers: Sequence[str] | None = None) -> Tensor:
        """The penalty, a scalar with a gradient.

        Args:
            layers: names of the layers that count; None: all, [] none.
        """
        self._count_call()
        return self.penalty(layers)

    def penalty(self, layers: Sequence[str] | None = None) -> Tensor:
        """The same without counting as a training step."""
        with torch.autocast(self._device_type(), enabled=False):
            costs, penalties = self._layerwise()
            return self._combined(self._only(penalties, layers), costs).to(torch.float32)

    def get_cost(self, layers: Sequence[str] | None = None) -> Tensor:
        """What the network costs once its dead channels are removed: a scalar without a gradient.

        Seconds for latency, else FLOPs, weights or channels.
        """
        with torch.no_grad(), torch.autocast(self._device_type(), enabled=False):
            costs, _ = self._layerwise()
            return self._combined(self._only(costs, layers), costs)

    def full_cost(self) -> Tensor:
        """What the network costs with every channel alive."""
        sizes = torch.from_numpy(self.channels.sizes)
        costs, _ = CostTensors.of(self.arrays, sizes.device).evaluate(sizes, sizes)
        return self._combined(costs, costs)

    def costs_by_device(self) -> dict[str, float]:
        """The cost on every device by its name."""
        with torch.no_grad():
            costs, _ = self._layerwise()
        return dict(zip(self.arrays.devices, costs.sum(dim=1).tolist(), strict=True))

    def costs_by_layer(self) -> dict[str, float]:
        """The cost of every layer, devices combined."""
        with torch.no_grad():
            costs, _ = self._layerwise()
            if self._worst:
                rows = costs[costs.sum(dim=1).argmax()]
            else:
                rows = costs.new_tensor(self._weights) @ costs
        return dict(zip(self.arrays.layers, rows.tolist(), strict=True))

    def _device_type(self) -> str:
        return next(self.network.model.parameters()).device.type

    # --- structure -------------------------------------------------------------------------------

    def structure(self, *, floor: int = 0, multiple_of: int | str = 1) -> Structure:
        """Which channels live now.

        Args:
            floor: least channels of every group; 0 lets branches die.
            multiple_of: a number that live channels are rounded up to, or "device".
        """
        structure = self._structure(self.alive_channels().cpu().numpy())
        if floor or multiple_of != 1:
            graph, answer = self.network.extraction.graph, self.network.answer
            structure = rounded(structure, graph, answer, floor=floor, multiple_of=multiple_of)
        return structure

    def _structure(self, alive: BoolArray) -> Structure:
        with torch.no_grad():
            strengths = self._channels(decorated=False).cpu().numpy().astype(np.float64)
        graph, answer = self.network.extraction.graph, self.network.answer
        return trained_structure(graph, answer, self.channels, alive, strengths)

    def full_structure(self) -> Structure:
        """Every channel alive, with the strengths of now."""
        return self._structure(np.ones(self.channels.channel_count, dtype=np.bool_))

    def prune(self, *, floor: int = 0, multiple_of: int | str = 1, **options: Any) -> nn.Module:
        """A smaller copy of the model, with the weights that survive.

        Args:
            options: `resize` and `tolerance`, see `prune`.
        """
        structure = self.structure(floor=floor, multiple_of=multiple_of)
        return self.prune_to(structure, **options)

    def prune_to(self, structure: Structure, **options: Any) -> nn.Module:
        """The same for a structure of one's own: rounded, shrunk, or read from a file."""
        inputs, axis = self._example_inputs, self._batch_axis
        return prune(self.network.model, structure, inputs, batch_axis=axis, **options)

    def alive_counts(self) -> dict[str, int]:
        """Live output channels of every layer that may be pruned, by name."""
        return self.structure().alive_counts()

    def suggested_strength(self) -> float:
        """A strength to start from: 1 / cost."""
        return suggested_strength(float(self.get_cost()))

    def strength_sweep(self, count: int = 7, decades: float = 3.0) -> tuple[float, ...]:
        """Strengths to try around it, evenly spaced in their logarithm."""
        return strength_sweep(float(self.get_cost()), count, decades)

    def summary(self) -> str:
        """What is regularised, where its numbers come from, and what it costs now, as text."""
        counts = self.alive_counts()
        structure = self.structure()
        lines = [
            f"{type(self).__name__}: {len(self.network.extraction.graph.layers)} layers, "
            f"{self.channels.channel_count} channels in {int(self.channels.regularised.sum())} "
            f"of {len(self.network.answer.groups)} groups"
        ]
        for answer in self.answers:
            used = answer.device
            lines.append(
                f"  {used.requested}: {used.name}, runtime {used.runtime}, revision "
                f"{used.revision} ({used.digest[:19]}), {used.origin}, {answer.model}"
            )
            lines += [f"    assumed: {text}" for text in answer.assumptions]
        lines += [f"  {d}: {c:.6g} {self.arrays.unit}" for d, c in self.costs_by_device().items()]
        lines += [f"  {n}: {c} of {structure.layers[n].size}" for n, c in counts.items()]
        return "\n".join(lines)

    # --- refresh ---------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Read the coefficients again at the structure of now, from the same revisions.

        Where the service does not answer at once, the old coefficients stay and a warning says so.

        Returns:
            Whether new coefficients were read.
        """
        found: Network | LatencyClientError
        try:
            found = self.network.refreshed(self._group_counts())
        except LatencyClientError as error:
            found = error
        return self._install(found)

    def _group_counts(self) -> dict[str, int]:
        counts = self.structure().group_counts()
        return {g.id: counts[g.id] for g in self.network.answer.groups if g.prunable}

    def _install(self, found: Network | LatencyClientError) -> bool:
        if isinstance(found, LatencyClientError):
            warnings.warn(
                f"the coefficients were not refreshed: {found}. Training goes on with those of "
                + ", ".join(f"{a.device.name} revision {a.device.revision}" for a in self.answers),
                FallbackWarning,
                stacklevel=3,
            )
            return False
        self.network = found
        self._set_costs()
        return True

    def _count_call(self) -> None:
        if self._refresh_every is None:
            return
        if self._arrived is not None:
            found, self._arrived, self._refreshing = self._arrived, None, None
            self._install(found)
        self._calls += 1
        if self._calls % self._refresh_every or self._refreshing is not None:
            return
        network, counts = self.network, self._group_counts()

        def ask() -> None:
            try:
                self._arrived = network.refreshed(counts)
            except LatencyClientError as error:
                self._arrived = error

        self._refreshing = threading.Thread(target=ask, daemon=True)
        self._refreshing.start()


def _weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None or count == 1:
        return [1.0 / count] * count
    if len(weights) != count or any(not weight >= 0 for weight in weights):
        raise OptionError(
            f"weights={list(weights)}: {count} devices need as many numbers, none negative"
        )
    return [float(weight) for weight in weights]
