"""From a measurement to a profile: measured rates, the fitted efficiency, the sheet beside them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from latency_service.calibration.measurement import Measurement, Rate
from latency_service.core.efficiency import Efficiency, Layout, core_cache_bytes
from latency_service.core.errors import CalibrationError
from latency_service.core.fit import FamilyFit, fit, merged_costs
from latency_service.core.fit_settings import Settings, gpu_settings
from latency_service.core.pace import at_one_pace, pace_spread, usual_reference_s
from latency_service.core.profile import (
    ComputeRate,
    Device,
    Memory,
    Profile,
    profile_from_json,
    profile_to_json,
)
from latency_service.core.sample import Sample
from latency_service.core.units import format_count
from latency_service.usecases.whole_networks import in_networks

# Standard deviation, in logarithms, of what all layers of a network err together at one pace.
SHARED_SPREAD = 0.055
# Channels that hardware handles at once where nothing says otherwise.
CHANNEL_STEP = 8
_RESOLUTION, _ENVIRONMENT, NOISE = "clock_resolution_s", "environment", "noise"
# What the kernel beside all samples usually took.
REFERENCE = "reference_s"


def revision_profile(
    device: Device,
    sheet: Profile | None,
    measurement: Measurement,
    origin: str = "measured",
    source: str | None = None,
) -> tuple[Profile, list[FamilyFit]]:
    """The profile that a measurement gives, and how each operator family was fitted.

    Rates that were not measured stay the sheet's, and what was measured has the sheet's figure
    beside it among the device's facts. Without a measured bandwidth or peak rate, as in somebody
    else's recordings, the sheet's count, and without a sheet the fastest samples'.

    Args:
        sheet: the device's data-sheet profile; None where there is none.
        origin: "measured" or "published".
        source: where the measurement comes from; None: it is this installation's own.

    Raises:
        CalibrationError: if nothing tells the device's compute rate.
        SampleError: if a sample's shapes are impossible.
    """
    how = source or f"latency-service calibrate: {measurement.runtime} on {_processor(measurement)}"
    levels = tuple((size, rate.value) for size, rate in measurement.levels)
    own_bytes = _own_cache_bytes(measurement)
    settings = replace(
        _settings(measurement.units, measurement.layout, own_bytes or core_cache_bytes(levels)),
        resolution_s=measurement.resolution_s,
    )
    samples = at_one_pace(measurement.samples)
    fits = fit(samples, settings)
    bandwidth = _streaming(fits, sheet)
    if levels:
        last = measurement.levels[-1][1]
        memory = Memory(last.value, origin, how, f"main memory, {_interval(last, 'B/s')}")
    else:
        levels = ((_memory_bytes(device), bandwidth),)
        note = "median over operators without multiplications of their fastest samples"
        memory = sheet.memory if sheet else Memory(bandwidth, origin, how, note)
    compute = _compute(sheet, measurement, fits, origin, how)
    layout = measurement.layout
    efficiency = Efficiency(
        families={found.name: found.model for found in fits},
        dispatch_s=measurement.dispatch_s,
        levels=levels,
        channel_step=CHANNEL_STEP if layout is None else layout.block,
        shared_spread=math.hypot(SHARED_SPREAD, pace_spread(measurement.samples)),
        merged=merged_costs(samples),
        slow_runs=measurement.slow_runs,
        own_bytes=own_bytes,
        kept_s=measurement.kept_s,
        layout=layout,
        source=f"{len(measurement.samples)} samples; {how}",
        launches_ahead=measurement.launches_ahead,
    )
    efficiency = in_networks(efficiency, measurement.fusion, measurement.networks)
    facts = {**device.facts, **_sheet_facts(sheet, memory, compute)}
    facts |= _run_facts(measurement, origin, how)
    profile = Profile(
        device=replace(device, facts=facts),
        runtime=measurement.runtime,
        memory=memory,
        compute=compute,
        fusion=measurement.fusion if any(_rules(measurement)) else None,
        efficiency=efficiency,
    )
    return _as_stored(profile), fits


def refitted(profile: Profile, samples: Sequence[Sample]) -> tuple[Profile, list[FamilyFit]]:
    """The same profile with its operator families fitted anew from their samples.

    Raises:
        CalibrationError: if the profile has no efficiency model.
    """
    before = profile.efficiency
    if before is None:
        raise CalibrationError(
            f"the profile of {profile.device.slug!r} for {profile.runtime!r} has no efficiency "
            "model to fit again; calibrate the device, or name another --revision"
        )
    units = max((model.units for model in before.families.values()), default=1)
    resolution_s = profile.device.facts.get(_RESOLUTION, {}).get("value")
    settings = _settings(units, before.layout, before.core_bytes)
    if isinstance(resolution_s, int | float):
        settings = replace(settings, resolution_s=float(resolution_s))
    samples = at_one_pace(samples)
    fits = fit(samples, settings)
    families = {found.name: found.model for found in fits}
    efficiency = replace(before, families=families, merged=merged_costs(samples), slower=0.0)
    # what whole networks said of that measurement, they say of it still
    efficiency = efficiency.slowed(before.slower)
    return _as_stored(replace(profile, efficiency=efficiency)), fits


def _settings(units: int, layout: Layout | None, core_bytes: float) -> Settings:
    usual = gpu_settings(units) if units > 1 else Settings()
    return replace(usual, layout=layout, core_bytes=core_bytes)


def _own_cache_bytes(measurement: Measurement) -> float:
    """Of the second of three caches, which processors give to each core; 0 with fewer.

    With two, the last may be a core's or everybody's.
    """
    named = (measurement.environment.get("cpu") or {}).get("caches") or ()
    sizes = {row["level"]: row["bytes"] for row in named if row["kind"] != "instruction"}
    return float(sizes[2]) if measurement.units == 1 and {1, 2, 3} <= set(sizes) else 0.0


def _as_stored(profile: Profile) -> Profile:
    """The profile as it will be read back: 1 and 1.0 are equal, and have different digests."""
    document = json.dumps(profile_to_json(profile))
    return profile_from_json(json.loads(document), f"the profile of {profile.device.slug}")


def _rules(measurement: Measurement) -> tuple[tuple[str, ...], ...]:
    rules = measurement.fusion
    return rules.fold, rules.fuse, rules.sequences, rules.patterns, rules.views


def _processor(measurement: Measurement) -> str:
    known = measurement.environment
    if not measurement.runtime.startswith("onnxruntime-cpu"):
        for gpu in known.get("gpus") or ():
            return str(gpu.get("name"))
    named = known.get("gpu") or known.get("processor") or known.get("cpu", {}).get("model")
    return str(named or "this machine")


def _interval(rate: Rate, unit: str) -> str:
    low, high = format_count(rate.low, unit), format_count(rate.high, unit)
    return f"90 % interval {low} to {high}"


def _streaming(fits: Sequence[FamilyFit], sheet: Profile | None) -> float:
    """Bandwidth of operators that multiply nothing; never more than the sheet's."""
    own = [found.model.bytes_per_s for found in fits if found.model.flops_per_s is None]
    rates = own or [found.model.bytes_per_s for found in fits] or [float("inf")]
    most = sheet.memory.bytes_per_s if sheet else float("inf")
    return min(statistics.median(rates), most)


def _memory_bytes(device: Device) -> float:
    value = device.facts.get("memory_bytes", {}).get("value")
    return float(value) if isinstance(value, int | float) and value > 0 else float(2**30)


def _compute(
    sheet: Profile | None,
    measurement: Measurement,
    fits: Sequence[FamilyFit],
    origin: str,
    how: str,
) -> tuple[ComputeRate, ...]:
    """Measured rates first; the sheet's for what was not measured."""
    rows = [
        ComputeRate(dtype, dtype, rate.value, origin, how, True, _interval(rate, "FLOP/s"))
        for dtype, rate in measurement.rates.items()
    ]
    taken = {(row.dtype, row.math) for row in rows}
    kept = [row for row in (sheet.compute if sheet else ()) if (row.dtype, row.math) not in taken]
    ran = {sample.workload.dtype for sample in measurement.samples} | set(measurement.rates)
    own = {row.dtype for row in (*rows, *kept) if row.math == row.dtype}
    for row in kept:
        # a runtime multiplies in the tensors' own precision unless it is told to use another
        default = row.math == row.dtype if row.dtype in ran & own else row.default
        rows.append(replace(row, default=default))
    if not rows:
        note = "the fastest samples of the fastest operator family"
        for dtype in sorted(ran):
            rates = [f.model.flops_per_s for f in fits if f.name.split()[0] == dtype]
            fastest = max((rate for rate in rates if rate is not None), default=None)
            if fastest is not None:
                rows.append(ComputeRate(dtype, dtype, fastest, origin, how, True, note))
    if not rows:
        raise CalibrationError(
            "the samples hold no operator that multiplies (Conv, Gemm, MatMul), and the device "
            "has no data sheet: nothing tells its compute rate. Add such samples, or import a "
            "profile first (latency-service devices import)"
        )
    return tuple(rows)


def _sheet_facts(
    sheet: Profile | None, memory: Memory, compute: Sequence[ComputeRate]
) -> dict[str, dict[str, Any]]:
    """What the sheet says about every rate that was replaced."""
    if sheet is None:
        return {}
    facts = {}
    if memory != sheet.memory:
        facts["sheet_bytes_per_s"] = _fact(
            sheet.memory.bytes_per_s, sheet.memory.origin, sheet.memory.source, sheet.memory.note
        )
    kept = {(row.dtype, row.math): row.flops_per_s for row in compute}
    for row in sheet.compute:
        if kept.get((row.dtype, row.math)) != row.flops_per_s:
            name = f"sheet_flops_per_s_{row.dtype}"
            name += "" if row.math == row.dtype else f"_in_{row.math}"
            facts[name] = _fact(row.flops_per_s, row.origin, row.source, row.note)
    return facts


def _run_facts(measurement: Measurement, origin: str, how: str) -> dict[str, dict[str, Any]]:
    facts = {_RESOLUTION: _fact(measurement.resolution_s, origin, how)}
    environment = _without_nulls(json.loads(json.dumps(dict(measurement.environment), default=str)))
    if environment:
        facts[_ENVIRONMENT] = _fact(environment, origin, how)
    beside_s = usual_reference_s(measurement.samples)
    if beside_s is not None:
        facts[REFERENCE] = _fact(beside_s, origin, how)
    if measurement.noise:
        facts[NOISE] = _fact(measurement.noise, origin, how)
    return facts


def _fact(value: Any, origin: str, source: str, note: str | None = None) -> dict[str, Any]:
    fact = {"value": value, "origin": origin, "source": source}
    return fact if note is None else {**fact, "note": note}


def _without_nulls(value: Any) -> Any:
    """A profile is written as TOML too, which has no null."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(v) for key, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value if v is not None]
    return value
