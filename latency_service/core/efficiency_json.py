"""The calibrated part of a profile as JSON; what is read is checked, and errors name the field."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from latency_service.core.blocks import Way
from latency_service.core.efficiency import Efficiency, Layout
from latency_service.core.errors import ProfileError
from latency_service.core.family import WAY, FamilyModel
from latency_service.core.features import features_of
from latency_service.core.masks import CAUSES
from latency_service.core.recurrent import PARTS

_LATER = (
    "alignment", "alone_s", "block", "cached_bytes", "cached_rows", "cached_s_per_byte", "call_s",
    "kept_s", "launches_ahead", "measured_cached", "near_bytes", "near_fixed", "nearby_s_per_byte",
    "own_bytes", "packing", "panel", "parts", "slow_runs", "slower", "turns", "way_flops",
)  # fmt: skip

# What revisions hold that are older than `kept_s`.
_GONE = ("kept_bytes", "near_s")


def efficiency_to_json(efficiency: Efficiency) -> dict[str, Any]:
    """The model as plain JSON values; `efficiency_from_json` gives it back."""
    # not dataclasses.asdict: that copies each of 100 000 numbers
    document = _shallow(efficiency)
    document["families"] = {name: _shallow(row) for name, row in efficiency.families.items()}
    document["merged"] = dict(efficiency.merged)
    if efficiency.slow_runs:
        document["slow_runs"] = dict(efficiency.slow_runs)
    document["layout"] = None if efficiency.layout is None else _shallow(efficiency.layout)
    return document


def _shallow(value: Efficiency | FamilyModel | Layout) -> dict[str, Any]:
    row = {field.name: getattr(value, field.name) for field in fields(value)}
    # what came later is left out where it says nothing, so that older revisions keep their digest
    for name in _LATER:
        if not row.get(name, True):
            del row[name]
    return row


def efficiency_from_json(document: Any, where: str) -> Efficiency:
    """The efficiency model in a profile document.

    Args:
        where: what the document is called in an error message.

    Raises:
        ProfileError: naming the field, what it holds and what it must hold.
    """
    read = _Reader(where)
    table = dict(read.table(document, "efficiency"))
    for name in _GONE:
        table.pop(name, None)
    read.only(table, "efficiency", Efficiency)
    families = read.table(table.get("families"), "efficiency.families")
    merged = read.table(table.get("merged", {}), "efficiency.merged")
    layout = table.get("layout")
    levels = table.get("levels")
    if not isinstance(levels, list | tuple) or not levels:
        raise read.error("efficiency.levels", "a list of [bytes, bytes_per_s]", levels)
    return Efficiency(
        families={
            str(name): _family(read, row, f"efficiency.families[{name!r}]")
            for name, row in families.items()
        },
        dispatch_s=read.number(table.get("dispatch_s"), "efficiency.dispatch_s", 0.0),
        levels=tuple(
            (
                read.number(read.pair(row)[0], f"efficiency.levels[{n}][0]", 1.0),
                read.number(read.pair(row)[1], f"efficiency.levels[{n}][1]", 1.0),
            )
            for n, row in enumerate(levels)
        ),
        channel_step=int(read.number(table.get("channel_step"), "efficiency.channel_step", 1.0)),
        shared_spread=read.number(table.get("shared_spread"), "efficiency.shared_spread", 0.0),
        merged={
            str(name): read.number(value, f"efficiency.merged[{name!r}]", 0.0)
            for name, value in merged.items()
        },
        slow_runs=read.amounts(table.get("slow_runs", {}), "efficiency.slow_runs", CAUSES),
        layout=None if layout is None else _layout(read, layout),
        source=read.text(table.get("source", ""), "efficiency.source"),
        **{
            name: read.number(table.get(name, 0.0), f"efficiency.{name}", 0.0)
            for name in (
                "alone_s",
                "call_s",
                "near_bytes",
                "near_fixed",
                "own_bytes",
                "kept_s",
            )
        },
        slower=read.number(table.get("slower", 0.0), "efficiency.slower"),
        launches_ahead=read.flag(table.get("launches_ahead", False), "efficiency.launches_ahead"),
    )


def _layout(read: _Reader, document: Any) -> Layout:
    table = read.table(document, "efficiency.layout")
    read.only(table, "efficiency.layout", Layout)
    return Layout(
        block=int(read.number(table.get("block"), "efficiency.layout.block", 1.0)),
        alignment=int(read.number(table.get("alignment"), "efficiency.layout.alignment", 1.0)),
        converts=read.texts(table.get("converts"), "efficiency.layout.converts"),
        keeps=read.texts(table.get("keeps"), "efficiency.layout.keeps"),
        turns=read.flag(table.get("turns", False), "efficiency.layout.turns"),
    )


def _family(read: _Reader, document: Any, at: str) -> FamilyModel:
    row = read.table(document, at)
    read.only(row, at, FamilyModel)
    rate = row.get("flops_per_s")
    flops = None if rate is None else read.number(rate, f"{at}.flops_per_s", 1e-30)
    units = int(read.number(row.get("units"), f"{at}.units", 1.0))
    features = read.texts(row.get("features"), f"{at}.features")
    block = int(read.number(row.get("block", 0), f"{at}.block", 0.0))
    known = {*features_of(flops is not None, units), *((WAY,) if block else ())}
    unknown = set(features) - known
    if unknown:
        raise read.error(f"{at}.features", "features that this release knows", sorted(unknown)[0])
    points = row.get("points")
    if not isinstance(points, list | tuple):
        raise read.error(f"{at}.points", "a list of lists of numbers", points)
    model = FamilyModel(
        fixed_s=read.number(row.get("fixed_s"), f"{at}.fixed_s", 0.0),
        flops_per_s=flops,
        bytes_per_s=read.number(row.get("bytes_per_s"), f"{at}.bytes_per_s", 1e-30),
        units=units,
        features=features,
        lengths=read.numbers(row.get("lengths"), f"{at}.lengths"),
        points=tuple(read.numbers(point, f"{at}.points[{n}]") for n, point in enumerate(points)),
        weights=read.numbers(row.get("weights"), f"{at}.weights"),
        mean=read.number(row.get("mean"), f"{at}.mean"),
        spread=read.number(row.get("spread"), f"{at}.spread", 0.0),
        median_error=read.number(row.get("median_error"), f"{at}.median_error", 0.0),
        samples=int(read.number(row.get("samples"), f"{at}.samples", 0.0)),
        cached_s_per_byte=read.number(
            row.get("cached_s_per_byte", 0.0), f"{at}.cached_s_per_byte", 0.0
        ),
        cached_bytes=read.number(row.get("cached_bytes", 0.0), f"{at}.cached_bytes", 0.0),
        cached_rows=read.number(row.get("cached_rows", 0.0), f"{at}.cached_rows", 0.0),
        measured_cached=read.flag(row.get("measured_cached", False), f"{at}.measured_cached"),
        nearby_s_per_byte=read.number(
            row.get("nearby_s_per_byte", 0.0), f"{at}.nearby_s_per_byte", 0.0
        ),
        block=block,
        alignment=int(read.number(row.get("alignment", 0), f"{at}.alignment", 0.0)),
        way_flops=read.numbers(row.get("way_flops", ()), f"{at}.way_flops"),
        panel=int(read.number(row.get("panel", 0), f"{at}.panel", 0.0)),
        packing=read.number(row.get("packing", 0.0), f"{at}.packing", 0.0),
        parts=read.amounts(row.get("parts", {}), f"{at}.parts", PARTS),
    )
    wide = {len(model.features), len(model.lengths), *(len(point) for point in model.points)}
    if len(wide) > 1 or len(model.points) != len(model.weights):
        raise ProfileError(
            f"{read.where}: {at} needs as many lengths and columns of points as features, and as "
            "many weights as points"
        )
    if model.block and not model.alignment:
        raise ProfileError(f"{read.where}: {at} has a block and needs an alignment")
    if model.way_flops and (len(model.way_flops) != len(Way) or 1.0 not in model.way_flops):
        raise read.error(f"{at}.way_flops", f"{len(Way)} numbers, one of them 1", model.way_flops)
    if any(flops < 0 for flops in model.way_flops):
        raise read.error(f"{at}.way_flops", "no negative numbers", model.way_flops)
    if any(length <= 0 for length in model.lengths):
        raise ProfileError(f"{read.where}: {at}.lengths must be positive")
    return model


class _Reader:
    """Values of one document."""

    def __init__(self, where: str) -> None:
        self.where = where

    def error(self, at: str, wanted: str, value: Any) -> ProfileError:
        return ProfileError(f"{self.where}: {at} must be {wanted}; it is {value!r:.80}")

    def table(self, value: Any, at: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self.error(at, "a table", value)
        return value

    def only(self, table: Mapping[str, Any], at: str, kind: type) -> None:
        known = set(kind.__dataclass_fields__)  # type: ignore[attr-defined]
        unknown = sorted(set(table) - known)
        if unknown:
            raise ProfileError(
                f"{self.where}: unknown field {at}.{unknown[0]}; known: {', '.join(sorted(known))}"
            )

    def number(self, value: Any, at: str, least: float = -math.inf) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(at, "a number", value)
        if not math.isfinite(value) or value < least:
            limit = "" if least == -math.inf else f" of at least {least:g}"
            raise self.error(at, f"a finite number{limit}", value)
        return float(value)

    def numbers(self, value: Any, at: str) -> tuple[float, ...]:
        if not isinstance(value, list | tuple):
            raise self.error(at, "a list of numbers", value)
        if set(map(type, value)) <= {float, int}:
            numbers = tuple(map(float, value))
            # a sum is finite only where every term is, and one look is enough for a good document
            if math.isfinite(math.fsum(numbers) if len(numbers) < 2 else sum(numbers)):
                return numbers
        return tuple(self.number(item, f"{at}[{n}]") for n, item in enumerate(value))

    def flag(self, value: Any, at: str) -> bool:
        if not isinstance(value, bool):
            raise self.error(at, "true or false", value)
        return value

    def amounts(self, value: Any, at: str, names: Collection[str]) -> dict[str, float]:
        """Numbers by name, each of them one of `names`."""
        found = self.table(value, at)
        for name in found:
            if name not in names:
                raise self.error(at, f"by {', '.join(names)}", name)
        return {name: self.number(found[name], f"{at}[{name!r}]", 0.0) for name in found}

    def text(self, value: Any, at: str) -> str:
        if not isinstance(value, str):
            raise self.error(at, "a text", value)
        return value

    def texts(self, value: Any, at: str) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise self.error(at, "a list of texts", value)
        return tuple(self.text(item, f"{at}[{n}]") for n, item in enumerate(value))

    def pair(self, value: Any) -> tuple[Any, Any]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise self.error("efficiency.levels", "pairs [bytes, bytes_per_s]", value)
        return value[0], value[1]
