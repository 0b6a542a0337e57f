"""Penalties that make a network cheaper on a device while it is trained.

    regularizer = GammaLatencyRegularizer(model, example, device="v100")
    loss = task_loss + strength * regularizer.get_regularization_term()

A regulariser is an algorithm (where the strength of a channel comes from) and a resource (what a
channel costs). The twelve classes are the pairs of both.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from latency_client import resources
from latency_client.cache import Cache
from latency_client.channels import ChannelMap, channel_map
from latency_client.errors import OptionError, ServiceError, StaleAnswerError
from latency_client.keras.algorithms import (
    Algorithm,
    Decorator,
    Gamma,
    GroupLasso,
    LogisticSigmoid,
    flat_strengths,
)
from latency_client.keras.extract import Extraction, extract
from latency_client.keras.penalty import Charges
from latency_client.request import Request
from latency_client.resources import CostArrays, Resource, cost_arrays
from latency_client.service import FallbackWarning, Source, connect
from latency_client.structure import Structure, make_structure, rounded
from latency_client.wire import Answer

Tensor = Any
Patterns = Sequence[str] | str | None


class NetworkRegularizer:
    """The common part of all regularisers.

    Attributes:
        extraction: the model as a layer graph.
        answers: of the service, one per device.
        channels: which entries of which vector are which channel.
        arrays: costs by layer, in the resource's unit.
    """

    resource: ClassVar[Resource]
    default_threshold: ClassVar[float] = 1e-3

    def __init__(
        self,
        model: Any,
        example_inputs: Any = None,
        device: str = "v100",
        service: str | Source = "http://127.0.0.1:8000",
        threshold: float | None = None,
        *,
        devices: Sequence[str] | None = None,
        combine: str = "weighted",
        weights: Sequence[float] | None = None,
        batch_size: int | None = None,
        dtype: str | None = None,
        math: str | None = None,
        runtime: str | None = None,
        revision: int | str | None = None,
        model_kind: str | None = None,
        fusion: str | None = None,
        force_group: Patterns = None,
        exclude: Patterns = None,
        regularizer_blacklist: Patterns = None,
        boundary: Patterns = None,
        freeze_outputs: bool = True,
        decorator: Decorator | None = None,
        token: str | None = None,
        timeout: float = 10.0,
        cache: Cache | str | os.PathLike[str] | bool | None = True,
        **algorithm: Any,
    ) -> None:
        """Fetch the coefficients, one request per device.

        Args:
            model: built, or one that `example_inputs` can be given to.
            example_inputs: an array, or arrays as the model takes them; only sizes count. None: the
                model's own input sizes, batch 1.
            device: by name; `devices` names several.
            service: a URL, or "file:coefficients.json".
            threshold: a channel at or below it is dead.
            combine: of several devices, "weighted" (sum of weight times value) or "worst" (the
                device on which the network is dearest).
            weights: one per device; default: equal, with sum 1.
            batch_size: that the costs are meant for; default: the example's.
            model_kind: the service's `model`: "roofline" or "calibrated".
            force_group, exclude: regular expressions over layer names: grouped together; never
                pruned. `regularizer_blacklist` is MorphNet's name for `exclude`.
            boundary: regular expressions: only layers that match are charged and regularised.
            decorator: takes a layer's name and its strengths, returns other strengths.
            algorithm: options of the algorithm.

        Raises:
            NothingToPruneError: if no channel can be regularised.
            GraphError: if the model cannot be written as a graph.
            ServiceError: if the service gives no usable answer, and the cache has none.
            OptionError: for impossible options.
        """
        if exclude is not None and regularizer_blacklist is not None:
            raise OptionError("exclude and regularizer_blacklist mean the same; pass one of them")
        names = [device] if devices is None else list(devices)
        if not names:
            raise OptionError("devices=[]: name at least one")
        self.threshold = self.default_threshold if threshold is None else float(threshold)
        self._combine, self._weights = combine, _weights(combine, weights, len(names))
        self._decorator = decorator
        self.algorithm = self._algorithm(**algorithm)
        self.extraction: Extraction = extract(model, example_inputs)
        self.source = connect(service, token=token, timeout_s=timeout, cache=cache)
        options = {
            "batch_size": batch_size,
            "dtype": dtype,
            "math": math,
            "runtime": runtime,
            "revision": revision,
            "model": model_kind,
            "fusion": fusion,
            "force_group": _listed("force_group", force_group),
            "exclude": _listed(
                "exclude", exclude if exclude is not None else regularizer_blacklist
            ),
            "freeze_outputs": freeze_outputs,
        }
        given = {name: value for name, value in options.items() if value is not None}
        self._requests = [Request(self.extraction.graph, name, given) for name in names]
        self.answers: tuple[Answer, ...] = tuple(
            self.source.coefficients(request) for request in self._requests
        )
        self._inside = _inside(self.extraction, _listed("boundary", boundary))
        self.arrays: CostArrays = self._arrays(self.answers)
        found = {
            key: length
            for key, length in self.algorithm.sources(self.extraction).items()
            if key.layer in self._inside
        }
        self.channels: ChannelMap = channel_map(self.answers[0], found)
        if not self.channels.channel_count:
            raise self.algorithm.nothing(self.extraction)
        self.charges = Charges(self.arrays, self.channels)
        self._pending: list[tuple[Answer, ...]] = []
        self._refreshing: threading.Thread | None = None

    @classmethod
    def _algorithm(cls) -> Algorithm:
        raise NotImplementedError

    def _arrays(self, answers: Sequence[Answer]) -> CostArrays:
        arrays = cost_arrays(answers, self.resource)
        return arrays.only(np.array([name in self._inside for name in arrays.layers]))

    # --- in the training step ---------------------------------------------------------------------

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Cost and penalty, (D, L) each, of every layer of `arrays` on every device."""
        keys = self.channels.sources
        flat = flat_strengths(self.algorithm, self.extraction, keys)
        alive = self.algorithm.alive(self.charges, flat, self.threshold)
        if self._decorator is not None:
            flat = flat_strengths(self.algorithm, self.extraction, keys, self._decorator)
        strengths = self.algorithm.strengths(self.charges, flat)
        return self.charges.evaluate(alive, strengths)

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
        """What the network costs without its dead channels, in the resource's unit."""
        costs, _ = self.evaluate()
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
        """Which channels live now, rounded up where that is asked for (`structure.rounded`)."""
        flat = flat_strengths(self.algorithm, self.extraction, self.channels.sources)
        alive = self.algorithm.alive(self.charges, flat, self.threshold)
        strengths = self.algorithm.strengths(self.charges, flat)
        masks = self.channels.masks(keras.ops.convert_to_numpy(alive))
        values = keras.ops.convert_to_numpy(strengths).astype(np.float64)
        answer, graph = self.answers[0], self.extraction.graph
        ends = np.searchsorted(self.channels.group_of, np.arange(len(answer.groups) + 1))
        held = {
            group.id: values[ends[g] : ends[g + 1]]
            for g, group in enumerate(answer.groups)
            if self.channels.regularised[g]
        }
        found = {group.id: mask for group, mask in zip(answer.groups, masks, strict=True)}
        made = make_structure(graph, answer, found, held)
        if floor or multiple_of != 1:
            return rounded(made, graph, answer, floor=floor, multiple_of=multiple_of)
        return made

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
        answers = self._pending.pop()
        self._pending.clear()
        self.answers, self.arrays = answers, self._arrays(answers)
        self.charges.assign(self.arrays)
        return True

    def _fetch(self, counts: Mapping[str, int]) -> None:
        fetched = []
        prunable = {g.id for g in self.answers[0].groups if g.prunable}
        alive = {group: count for group, count in counts.items() if group in prunable}
        for request, old in zip(self._requests, self.answers, strict=True):
            device = old.device
            pinned = request.with_options(
                alive=alive, revision=device.digest, runtime=device.runtime
            )
            try:
                answer = self.source.coefficients(pinned, fresh=True)
            except (ServiceError, StaleAnswerError) as error:
                warnings.warn(
                    f"{error} The coefficients of {device.name} stay as they are.",
                    FallbackWarning,
                    stacklevel=3,
                )
                return
            fetched.append(answer)
        self._pending.append(tuple(fetched))

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


def _listed(name: str, patterns: Patterns) -> list[str] | None:
    if patterns is None:
        return None
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in listed:
        try:
            re.compile(pattern)
        except re.error as error:
            raise OptionError(f"{name}: {pattern!r} is no regular expression: {error}") from None
    return listed


def _inside(extraction: Extraction, boundary: list[str] | None) -> frozenset[str]:
    names = [layer.name for layer in extraction.graph.layers]
    if boundary is None:
        return frozenset(names)
    for pattern in boundary:
        if not any(re.search(pattern, name) for name in names):
            raise OptionError(
                f"boundary: no layer matches {pattern!r}; names look like {', '.join(names[:5])}"
            )
    return frozenset(n for n in names if any(re.search(p, n) for p in boundary))


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


class _GammaRegularizer(NetworkRegularizer):
    """Regularises the scales of normalisations."""

    @classmethod
    def _algorithm(cls) -> Algorithm:
        return Gamma()


class _GroupLassoRegularizer(NetworkRegularizer):
    """Regularises the norms of weights; takes `l1_fraction`."""

    @classmethod
    def _algorithm(cls, l1_fraction: float = 0.0) -> Algorithm:
        return GroupLasso(l1_fraction)


class _LogisticSigmoidRegularizer(NetworkRegularizer):
    """Regularises the probabilities of gates; a channel lives at 0.1 or above by default."""

    default_threshold = 0.1

    @classmethod
    def _algorithm(cls) -> Algorithm:
        return LogisticSigmoid()


class GammaLatencyRegularizer(_GammaRegularizer):
    """Seconds on a device, through BatchNorm scales."""

    resource = resources.LATENCY


class GammaFlopsRegularizer(_GammaRegularizer):
    """FLOPs, through BatchNorm scales."""

    resource = resources.FLOPS


class GammaModelSizeRegularizer(_GammaRegularizer):
    """Weights, through BatchNorm scales."""

    resource = resources.MODEL_SIZE


class GammaActivationRegularizer(_GammaRegularizer):
    """Output channels, through BatchNorm scales."""

    resource = resources.ACTIVATION


class GroupLassoLatencyRegularizer(_GroupLassoRegularizer):
    """Seconds on a device, through weight norms."""

    resource = resources.LATENCY


class GroupLassoFlopsRegularizer(_GroupLassoRegularizer):
    """FLOPs, through weight norms."""

    resource = resources.FLOPS


class GroupLassoModelSizeRegularizer(_GroupLassoRegularizer):
    """Weights, through weight norms."""

    resource = resources.MODEL_SIZE


class GroupLassoActivationRegularizer(_GroupLassoRegularizer):
    """Output channels, through weight norms."""

    resource = resources.ACTIVATION


class LogisticSigmoidLatencyRegularizer(_LogisticSigmoidRegularizer):
    """Seconds on a device, through gates."""

    resource = resources.LATENCY


class LogisticSigmoidFlopsRegularizer(_LogisticSigmoidRegularizer):
    """FLOPs, through gates."""

    resource = resources.FLOPS


class LogisticSigmoidModelSizeRegularizer(_LogisticSigmoidRegularizer):
    """Weights, through gates."""

    resource = resources.MODEL_SIZE


class LogisticSigmoidActivationRegularizer(_LogisticSigmoidRegularizer):
    """Output channels, through gates."""

    resource = resources.ACTIVATION
