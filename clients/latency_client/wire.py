"""The answer of `POST /v1/coefficients`, read and checked.

Only what a client needs is kept: forms, groups and their members, the device revision, totals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from latency_client.errors import AnswerError

IntArray = npt.NDArray[np.int64]


class Form(NamedTuple):
    """constant + per_in n_in + per_out n_out + per_pair n_in n_out."""

    constant: float
    per_in: float
    per_out: float
    per_pair: float


class Through(NamedTuple):
    """A group that a layer reads or writes, and how often it holds each channel of it."""

    group: str
    times: float


@dataclass(frozen=True, slots=True)
class Member:
    """Where the channels of a group sit in something that is cut along with them.

    Attributes:
        role: weight, gamma, input or output.
        axis: of the weight, the scale or the activation.
        index: per channel its positions where no run describes them, else None.
    """

    layer: str
    role: str
    axis: int
    start: int
    stride: int
    block: int
    index: tuple[tuple[int, ...], ...] | None

    def positions(self, size: int) -> IntArray:
        """(size, occurrences) positions of each channel on the axis."""
        if self.index is not None:
            return np.array(self.index, dtype=np.int64)
        first = self.start + self.stride * np.arange(size, dtype=np.int64)
        return first[:, None] + np.arange(self.block, dtype=np.int64)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Member:
        """Read one; KeyError, TypeError or ValueError say what is wrong with it."""
        index = row.get("index")
        if index is None:
            run = int(row["start"]), int(row["stride"]), int(row["block"])
            return cls(row["layer"], row["role"], int(row["axis"]), *run, None)
        rows = tuple(tuple(int(p) for p in positions) for positions in index)
        return cls(row["layer"], row["role"], int(row["axis"]), 0, 0, 0, rows)

    def document(self) -> dict[str, Any]:
        """The same as JSON values."""
        row: dict[str, Any] = {"layer": self.layer, "role": self.role, "axis": self.axis}
        if self.index is None:
            return row | {"start": self.start, "stride": self.stride, "block": self.block}
        return row | {"index": [list(positions) for positions in self.index]}


@dataclass(frozen=True, slots=True)
class Group:
    """Channels each of which lives or dies in all its members together.

    Attributes:
        channel_step: the step in which the device gets faster (8 channels, a tile).
        marginal_s: seconds that the last channel costs the network.
    """

    id: str
    size: int
    prunable: bool
    channel_step: int
    marginal_s: float
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """What one layer costs, as forms in its live channels.

    Attributes:
        flops, weights, parameters: on any device.
        compute, memory: seconds on this one; a layer takes overhead_s + max(compute, memory).
        n_in, n_out: live channels at the requested structure.
    """

    name: str
    op: str
    reads: tuple[Through, ...]
    writes: tuple[Through, ...]
    n_in: float
    n_out: float
    flops: Form
    weights: Form
    parameters: Form
    compute: Form
    memory: Form
    overhead_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class DeviceUsed:
    """Which revision of which device an answer is about; `digest` pins it."""

    name: str
    requested: str
    runtime: str
    revision: int
    digest: str
    origin: str


@dataclass(frozen=True)
class Answer:
    """Coefficients and channel groups of one network on one device.

    Attributes:
        document: the answer as it came, for files and caches.
    """

    device: DeviceUsed
    graph_id: str
    batch_size: int
    dtype: str
    model: str
    fusion: str
    latency_s: float
    layers: tuple[LayerCosts, ...]
    groups: tuple[Group, ...]
    assumptions: tuple[str, ...]
    document: Mapping[str, Any]

    @cached_property
    def group_index(self) -> dict[str, int]:
        """Position of each group by its id."""
        return {group.id: index for index, group in enumerate(self.groups)}

    @cached_property
    def layer_index(self) -> dict[str, int]:
        """Position of each layer by its name."""
        return {layer.name: index for index, layer in enumerate(self.layers)}

    @classmethod
    def from_json(cls, document: Any, source: str) -> Answer:
        """Read an answer.

        Args:
            source: where it came from, for messages.

        Raises:
            AnswerError: naming the field that is missing or malformed.
        """
        if not isinstance(document, Mapping):
            raise AnswerError(f"{source}: an answer is a JSON object, not {_kind(document)}")
        try:
            answer = _answer(document)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            detail = f"has no {error}" if isinstance(error, KeyError) else str(error)
            raise AnswerError(
                f"{source} is no answer of POST /v1/coefficients: {detail}; "
                "send the request again, or write the file anew with save_answers"
            ) from None
        known = answer.group_index
        for layer in answer.layers:
            for use in (*layer.reads, *layer.writes):
                if use.group not in known:
                    raise AnswerError(
                        f"{source}: layer {layer.name!r} names channel group {use.group!r}, "
                        "which the answer does not have; the file was cut or edited by hand"
                    )
        return answer


def _answer(document: Mapping[str, Any]) -> Answer:
    device = document["device"]
    return Answer(
        DeviceUsed(
            str(device["name"]),
            str(device["requested"]),
            str(device["runtime"]),
            int(device["revision"]),
            str(device["digest"]),
            str(device["origin"]),
        ),
        str(document["graph_id"]),
        int(document["batch_size"]),
        str(document["dtype"]),
        str(document["model"]),
        str(document["fusion"]),
        float(document["totals"]["latency_s"]),
        tuple(map(_layer, document["layers"])),
        tuple(map(_group, document["groups"])),
        tuple(map(str, document["assumptions"])),
        document,
    )


def _layer(row: Mapping[str, Any]) -> LayerCosts:
    forms = row["forms"]
    return LayerCosts(
        row["name"],
        row["op"],
        _uses(row["reads"]),
        _uses(row["writes"]),
        float(row["n_in"]),
        float(row["n_out"]),
        _form(forms["flops"]),
        _form(forms["weights"]),
        _form(forms["parameters"]),
        _form(row["compute"]),
        _form(row["memory"]),
        float(row["overhead_s"]),
        float(row["latency_s"]),
    )


def _uses(rows: list[Mapping[str, Any]]) -> tuple[Through, ...]:
    return tuple(Through(row["group"], float(row["times"])) for row in rows)


def _form(row: Mapping[str, Any]) -> Form:
    return Form(
        float(row["constant"]), float(row["per_in"]), float(row["per_out"]), float(row["per_pair"])
    )


def _group(row: Mapping[str, Any]) -> Group:
    return Group(
        row["id"],
        int(row["size"]),
        bool(row["prunable"]),
        int(row["channel_step"]),
        float(row["marginal_s"]),
        tuple(map(Member.from_json, row["members"])),
    )


def _kind(value: Any) -> str:
    return {list: "an array", str: "a text", type(None): "null"}.get(type(value), "a number")
