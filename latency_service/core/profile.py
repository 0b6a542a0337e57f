"""What is known about a device: its rooflines, each number with a witness.

A profile holds one memory bandwidth and several compute rates. A compute rate belongs to a pair
(dtype of the tensors, precision of the multiply): a V100 multiplies float32 tensors at 15.7e12
FLOP/s in float32, and at 125e12 FLOP/s when its tensor cores multiply in float16. Profiles are
published as numbered revisions that never change. See docs/cost-model.md#profiles.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from latency_service.core.efficiency import Efficiency
from latency_service.core.efficiency_json import efficiency_from_json, efficiency_to_json
from latency_service.core.errors import MissingRateError, OptionError, ProfileError
from latency_service.core.units import BYTES_PER_ELEMENT, FLOATING

ORIGINS = {
    "datasheet": "the vendor's own document, or a reprint of its table",
    "secondary": "a third party's document",
    "derived": "computed from other figures by the stated formula",
    "recalled": "no document seen",
    "measured": "measured on the device by this installation",
    "published": "fitted from measurements that somebody published",
}

# For each precision the wider ones, nearest first: a device without a rate is charged the first of
# them that it has.
WIDER = {
    "float8": ("float16", "bfloat16", "tfloat32", "float32", "float64"),
    "int4": ("int8", "int32", "float16", "bfloat16", "float32", "float64"),
    "int8": ("int32", "float16", "bfloat16", "float32", "float64"),
    "int32": ("float32", "float64"),
    "bfloat16": ("float16", "tfloat32", "float32", "float64"),
    "float16": ("bfloat16", "tfloat32", "float32", "float64"),
    "tfloat32": ("float32", "float64"),
    "float32": ("float64",),
    "float64": (),
}

_SLUG = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of hardware: what does not change between revisions' rates.

    Attributes:
        slug: its name in URLs, lower case, digits, dots and hyphens.
        kind: "gpu", "cpu", "tpu" or "npu".
        facts: further figures by name (`memory_bytes`, `units`, `boost_clock_hz`, ...), each a
            mapping with `value`, `origin` and `source`; informative, never part of a cost.
    """

    slug: str
    name: str
    vendor: str
    kind: str
    aliases: tuple[str, ...] = ()
    architecture: str | None = None
    year: int | None = None
    notes: str | None = None
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bandwidth of the device's main memory."""

    bytes_per_s: float
    origin: str
    source: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class ComputeRate:
    """Peak rate for tensors of one dtype multiplied at one precision; a multiply-add is 2 FLOPs.

    Sparsity is never counted.

    Attributes:
        math: precision of the multiply; accumulation is float32 (int32 for integers).
        default: whether a request that names the dtype alone gets this rate.
    """

    dtype: str
    math: str
    flops_per_s: float
    origin: str
    source: str
    default: bool = False
    note: str | None = None


@dataclass(frozen=True, slots=True)
class FusionRules:
    """What a runtime merges before it executes: see latency_service/core/fusion.py.

    Attributes:
        fold: operators that disappear into a preceding contraction (BatchNormalization, ...; Add
            and Mul only with a number for each filter of a convolution).
        fuse: operators whose traffic disappears behind any preceding operator that can host.
        sequences: what a contraction merges step by step: "Conv Add Relu" says that a convolution
            merges an addition and then a ReLU; "Add/learned" is one with a learned operand,
            "Add/number" one with a number.
        patterns: groups that run as one operator, by their names in latency_service/core/patterns,
            and what the runtime does with signed activations (core/quantised_patterns.py) and
            with quantised images (core/channels_last.py).
        views: operators that return a view of what they read, and move nothing.
        static: sequences and patterns that are merged only where the model names no dimension.
        sized: those that are where it names none but the first one, the batch.
        origin: how it is known ("measured", "datasheet", ...).
    """

    fold: tuple[str, ...] = ()
    fuse: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    sized: tuple[str, ...] = ()
    origin: str = "measured"
    source: str = ""


_FUSION_LISTS = frozenset(FusionRules.__dataclass_fields__) - {"origin", "source"}


@dataclass(frozen=True, slots=True)
class Profile:
    """The rooflines of a device under one runtime.

    Attributes:
        runtime: what executes the network; "ideal" for a data sheet.
        efficiency: how well kernels use the device; None: it is taken at its peaks.
    """

    device: Device
    runtime: str
    memory: Memory
    compute: tuple[ComputeRate, ...]
    fusion: FusionRules | None = None
    efficiency: Efficiency | None = None
    _digest: str | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 over everything the profile says, as "sha256:<hex>"."""
        if self._digest is None:
            text = json.dumps(
                profile_to_json(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True
            )
            found = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
            # an efficiency model has 100 000 numbers, and appending asks several times
            object.__setattr__(self, "_digest", found)
            return found
        return self._digest

    def rate(self, dtype: str, math: str | None = None) -> tuple[ComputeRate, str | None]:
        """The compute rate for tensors of `dtype`, and the assumption it rests on, if any.

        Args:
            dtype: dtype of the tensors.
            math: precision of the multiply; None is the profile's default for the dtype.

        Raises:
            MissingRateError: if neither the precision nor a wider one has a rate.
        """
        of_dtype = [rate for rate in self.compute if rate.dtype == dtype]
        if math is None and of_dtype:
            chosen = next((rate for rate in of_dtype if rate.default), of_dtype[0])
            return chosen, self._default_assumption(chosen)
        wanted = math or dtype
        exact = next((rate for rate in of_dtype if rate.math == wanted), None)
        if exact is not None:
            return exact, None
        if wanted not in WIDER:
            raise OptionError(
                f"math {wanted!r} is not a precision; known: {', '.join(sorted(WIDER))}"
            )
        for wider in WIDER[wanted]:
            candidates = [rate for rate in self.compute if rate.math == wider]
            candidates.sort(key=lambda rate: rate.dtype != dtype)
            if candidates:
                return candidates[0], (
                    f"{self.device.slug} has no {wanted} rate for {dtype} tensors; charged its "
                    f"{wider} rate ({candidates[0].flops_per_s:g} FLOP/s)"
                )
        raise MissingRateError(
            f"device {self.device.slug!r} (runtime {self.runtime!r}) has no compute rate for "
            f"{dtype} tensors multiplied in {wanted}, nor a wider one. It has: "
            + ", ".join(f"dtype={rate.dtype} math={rate.math}" for rate in self.compute)
        )

    def kernels_as(self, dtype: str) -> str:
        """The dtype whose kernels stand for those on tensors of `dtype`.

        Another one only where the runtime was given no rate for it: then it computes in a wider
        one (onnxruntime on a CPU converts float16 once and goes on in float32).
        """
        if dtype not in FLOATING or any(rate.dtype == dtype for rate in self.compute):
            return dtype
        try:
            return self.rate(dtype)[0].dtype
        except MissingRateError:
            return dtype

    def _default_assumption(self, chosen: ComputeRate) -> str | None:
        """Say so when the default multiplies in less than the tensors' own precision."""
        if chosen.math == chosen.dtype:
            return None
        own = next(
            (r for r in self.compute if r.dtype == chosen.dtype and r.math == chosen.dtype), None
        )
        other = f"; math={own.math} gives {own.flops_per_s:g}" if own else ""
        return (
            f"{chosen.dtype} tensors multiplied at the {chosen.math} rate "
            f"({chosen.flops_per_s:g} FLOP/s){other}"
        )


@dataclass(frozen=True, slots=True)
class Revision:
    """One immutable, numbered version of a device's profile.

    Attributes:
        revision: 1, 2, ... counted per device, over all its runtimes.
        origin: "datasheet", "published" or "measured".
        created_at: UTC.
    """

    device: str
    revision: int
    runtime: str
    digest: str
    origin: str
    created_at: datetime
    profile: Profile


def profile_to_json(profile: Profile) -> dict[str, Any]:
    """The profile as plain JSON values; `profile_from_json` gives it back.

    What a profile does not have is left out where an earlier release did not know it, so that a
    digest stays what it was.
    """
    document = asdict(replace(profile, efficiency=None))
    del document["efficiency"], document["_digest"]
    if profile.efficiency is not None:
        document["efficiency"] = efficiency_to_json(profile.efficiency)
    if document["fusion"] is not None:
        for name in _FUSION_LISTS - {"fold", "fuse"}:
            if not document["fusion"][name]:
                del document["fusion"][name]
    return document


def profile_from_json(document: Mapping[str, Any], where: str = "profile") -> Profile:
    """Read a profile from JSON or TOML values.

    Args:
        document: tables `device`, `memory`, `compute` (a list) and, if wanted, `fusion`, `runtime`,
            `efficiency`.
        where: what the document is called in an error message.

    Raises:
        ProfileError: naming the field, what it holds and what it must hold.
    """
    reader = _Reader(where)
    reader.only(document, "", {"device", "memory", "compute", "fusion", "runtime", "efficiency"})
    device = reader.table(document, "device")
    memory = reader.table(document, "memory")
    rows = document.get("compute")
    if not isinstance(rows, list | tuple) or not rows:
        raise ProfileError(f"{where}: compute must be a list of at least one rate")
    rates = tuple(_rate(reader, row, f"compute[{n}]") for n, row in enumerate(rows))
    pairs = [(rate.dtype, rate.math) for rate in rates]
    for pair in pairs:
        if pairs.count(pair) > 1:
            raise ProfileError(f"{where}: compute has two rates for dtype, math = {pair}")
    for dtype in {rate.dtype for rate in rates}:
        if sum(rate.default for rate in rates if rate.dtype == dtype) > 1:
            raise ProfileError(f"{where}: compute has two default rates for dtype {dtype!r}")
    fusion, efficiency = document.get("fusion"), document.get("efficiency")
    return Profile(
        device=_device(reader, device),
        runtime=reader.text(document, "runtime", "", default="ideal"),
        memory=_memory(reader, memory),
        compute=rates,
        fusion=None if fusion is None else _fusion(reader, reader.table(document, "fusion")),
        efficiency=None if efficiency is None else efficiency_from_json(efficiency, where),
    )


def check_device_name(name: str, where: str) -> None:
    """Refuse what cannot be a device's slug or alias.

    Raises:
        ProfileError: naming the device.
    """
    if not _SLUG.fullmatch(name):
        raise ProfileError(
            f"{where}: device name {name!r} must be lower-case letters, digits, dots and hyphens, "
            "as in 'v100-sxm2-16gb'"
        )


def _device(reader: _Reader, table: Mapping[str, Any]) -> Device:
    reader.only(table, "device.", set(Device.__dataclass_fields__))
    slug = reader.text(table, "slug", "device.")
    aliases = tuple(alias.lower() for alias in reader.texts(table, "aliases", "device."))
    for name in (slug, *aliases):
        check_device_name(name, reader.where)
    facts = table.get("facts", {})
    if not isinstance(facts, Mapping) or not all(isinstance(f, Mapping) for f in facts.values()):
        raise ProfileError(f"{reader.where}: device.facts must be a table of tables")
    year = table.get("year")
    if year is not None and (not isinstance(year, int) or isinstance(year, bool)):
        raise ProfileError(f"{reader.where}: device.year must be a whole number; it is {year!r}")
    return Device(
        slug=slug,
        name=reader.text(table, "name", "device.", default=slug),
        vendor=reader.text(table, "vendor", "device.", default="unknown"),
        kind=reader.text(table, "kind", "device.", default="cpu"),
        aliases=aliases,
        architecture=reader.optional_text(table, "architecture", "device."),
        year=year,
        notes=reader.optional_text(table, "notes", "device."),
        facts={str(name): dict(fact) for name, fact in facts.items()},
    )


def _memory(reader: _Reader, table: Mapping[str, Any]) -> Memory:
    reader.only(table, "memory.", set(Memory.__dataclass_fields__))
    return Memory(
        bytes_per_s=reader.positive(table, "bytes_per_s", "memory."),
        origin=reader.origin(table, "memory."),
        source=reader.text(table, "source", "memory."),
        note=reader.optional_text(table, "note", "memory."),
    )


def _rate(reader: _Reader, row: Any, at: str) -> ComputeRate:
    if not isinstance(row, Mapping):
        raise ProfileError(f"{reader.where}: {at} must be a table")
    reader.only(row, f"{at}.", set(ComputeRate.__dataclass_fields__))
    dtype = reader.text(row, "dtype", f"{at}.")
    math = reader.text(row, "math", f"{at}.", default=dtype)
    # A misspelt name would be a rate that no request ever finds.
    if dtype not in BYTES_PER_ELEMENT:
        raise ProfileError(
            f"{reader.where}: {at}.dtype is {dtype!r}; known: {', '.join(BYTES_PER_ELEMENT)}"
        )
    if math not in WIDER and math != dtype:
        raise ProfileError(f"{reader.where}: {at}.math is {math!r}; known: {', '.join(WIDER)}")
    default = row.get("default", False)
    if not isinstance(default, bool):
        raise ProfileError(f"{reader.where}: {at}.default must be true or false")
    return ComputeRate(
        dtype=dtype,
        math=math,
        flops_per_s=reader.positive(row, "flops_per_s", f"{at}."),
        origin=reader.origin(row, f"{at}."),
        source=reader.text(row, "source", f"{at}."),
        default=default,
        note=reader.optional_text(row, "note", f"{at}."),
    )


def _fusion(reader: _Reader, table: Mapping[str, Any]) -> FusionRules:
    reader.only(table, "fusion.", set(FusionRules.__dataclass_fields__))
    lists: dict[str, Any] = {n: reader.texts(table, n, "fusion.") for n in _FUSION_LISTS}
    return FusionRules(
        **lists,
        origin=reader.origin(table, "fusion."),
        source=reader.text(table, "source", "fusion.", default=""),
    )


class _Reader:
    """Fields of one document, with errors that name document and field."""

    def __init__(self, where: str) -> None:
        self.where = where

    def table(self, document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = document.get(key)
        if not isinstance(value, Mapping):
            raise ProfileError(f"{self.where}: {key} must be a table; it is {value!r}")
        return value

    def only(self, table: Mapping[str, Any], prefix: str, known: set[str]) -> None:
        unknown = sorted(set(table) - known)
        if unknown:
            raise ProfileError(
                f"{self.where}: unknown field {prefix}{unknown[0]}; "
                f"known: {', '.join(sorted(known))}"
            )

    def text(
        self, table: Mapping[str, Any], key: str, prefix: str, default: str | None = None
    ) -> str:
        value = table.get(key, default)
        if not isinstance(value, str) or (not value and default is None):
            raise ProfileError(f"{self.where}: {prefix}{key} must be a text; it is {value!r}")
        return value

    def optional_text(self, table: Mapping[str, Any], key: str, prefix: str) -> str | None:
        return None if table.get(key) is None else self.text(table, key, prefix, default="")

    def texts(self, table: Mapping[str, Any], key: str, prefix: str) -> tuple[str, ...]:
        value = table.get(key, ())
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise ProfileError(
                f"{self.where}: {prefix}{key} must be a list of texts; it is {value!r}"
            )
        return tuple(value)

    def positive(self, table: Mapping[str, Any], key: str, prefix: str) -> float:
        value = table.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type, operator]
            raise ProfileError(
                f"{self.where}: {prefix}{key} must be a positive number; it is {value!r}"
            )
        return float(value)  # type: ignore[arg-type]

    def origin(self, table: Mapping[str, Any], prefix: str) -> str:
        value = table.get("origin")
        if value not in ORIGINS:
            raise ProfileError(
                f"{self.where}: {prefix}origin must be one of {', '.join(ORIGINS)}; it is {value!r}"
            )
        return str(value)
