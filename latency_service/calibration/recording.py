"""A whole measurement as a file: the samples of a recording, and what was measured beside them.

Every line is a sample in the format of every recording, so that others can read the file; the first
carries `"run": {"device", "measurement"}` besides. Files with samples alone, somebody else's for
instance, are read as well.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from latency_service.calibration.journal import read_samples
from latency_service.calibration.measurement import Measurement, Rate
from latency_service.core.efficiency import Layout
from latency_service.core.errors import CalibrationError, SampleError
from latency_service.core.profile import Device, FusionRules
from latency_service.core.sample import Sample, sample_to_json


@dataclass(frozen=True, slots=True)
class Recording:
    """What a file of measurements holds.

    Attributes:
        device: that they were taken on; None where the file does not say.
        measurement: None where the file holds samples alone.
    """

    samples: tuple[Sample, ...]
    device: Device | None = None
    measurement: Measurement | None = None


def write_recording(path: Path, device: Device, measurement: Measurement) -> None:
    """Write a measurement, whole or not at all; `.gz` packs it.

    Raises:
        CalibrationError: if the file cannot be written.
    """
    rows = [sample_to_json(sample) for sample in measurement.samples]
    rows[0]["run"] = {"device": _plain(device), "measurement": _measured(measurement)}
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(partial, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row, default=str) + "\n" for row in rows)
        partial.replace(path)
    except OSError as error:
        _forget(partial)
        raise CalibrationError(
            f"{path} cannot be written: {error.strerror or error}. Make room, or name another file"
        ) from None


def read_recording(path: Path) -> Recording:
    """Read a file of measurements.

    Raises:
        SampleError: naming the file, the line and what is wrong with it.
    """
    samples = tuple(read_samples(path))
    run = _run(path)
    if run is None:
        return Recording(samples)
    try:
        device = Device(**_tuples(run["device"]))
        return Recording(samples, device, _measurement(run["measurement"], samples))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SampleError(
            f'{path}, line 1: "run" is not what this release writes ({error!r}). Remove it to use '
            "the samples alone"
        ) from None


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def _run(path: Path) -> Mapping[str, Any] | None:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        for line in file:
            if line.strip():
                run = json.loads(line).get("run")
                return run if isinstance(run, Mapping) else None
    return None


def _plain(value: Any) -> dict[str, Any]:
    """A dataclass's fields, without going into them."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _measured(measurement: Measurement) -> dict[str, Any]:
    row = _plain(measurement)
    del row["samples"]
    row["rates"] = {dtype: _numbers(rate) for dtype, rate in measurement.rates.items()}
    row["levels"] = [[size, _numbers(rate)] for size, rate in measurement.levels]
    row["layout"] = None if measurement.layout is None else _plain(measurement.layout)
    row["fusion"] = _plain(measurement.fusion)
    row["environment"] = dict(measurement.environment)
    row["networks"] = dict(measurement.networks)
    row["slow_runs"] = dict(measurement.slow_runs)
    return row


def _numbers(rate: Rate) -> list[float]:
    return [rate.value, rate.low, rate.high]


def _measurement(row: Mapping[str, Any], samples: tuple[Sample, ...]) -> Measurement:
    layout = row["layout"]
    return Measurement(
        **{
            **row,
            "samples": samples,
            "rates": {dtype: Rate(*map(float, rate)) for dtype, rate in row["rates"].items()},
            "levels": tuple((float(size), Rate(*map(float, r))) for size, r in row["levels"]),
            "layout": None if layout is None else Layout(**_tuples(layout)),
            "fusion": FusionRules(**_tuples(row["fusion"])),
        }
    )


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in row.items()}
