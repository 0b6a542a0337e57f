"""Calibration as the product does it: measure, fit, append; nothing measured is lost on the way.

    begin -> measure ---+
                        +--> conclude      fits, asks whether the run may count, appends
    recorded (a file) --+

Samples go to a journal while they are taken, and to a recording once the measurement is whole; both
stay until the revision is at its destination.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latency_service.calibration import campaign
from latency_service.calibration.backends.eager import EAGER
from latency_service.calibration.measurement import Measurement
from latency_service.calibration.recording import read_recording, write_recording
from latency_service.calibration.report import NetworkPoint
from latency_service.core.errors import CalibrationError, LatencyServiceError, OptionError
from latency_service.core.fit import FamilyFit
from latency_service.core.fit_settings import Settings
from latency_service.core.profile import Device, FusionRules, Profile
from latency_service.core.sample import sample_to_json
from latency_service.usecases.destinations import Appended, Destination
from latency_service.usecases.fitted import NOISE, revision_profile
from latency_service.usecases.prepare import Job, Run, begin, known_device
from latency_service.usecases.whole_networks import report_points

__all__ = [
    "Job", "Measured", "Outcome", "Run", "again", "begin", "conclude", "measure", "recorded",
    "revision_profile",
]  # fmt: skip

# What the fit takes of a budget; the campaign gets the rest.
_FIT_SHARE, _FIT_MOST_S = 0.15, 45.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement with the device that it is about.

    Attributes:
        kept: the file that holds its samples.
        temporary: whether that file is ours to delete once the samples are safe.
        source: who measured, where it was not this installation.
    """

    device: Device
    sheet: Profile | None
    measurement: Measurement
    kept: Path
    temporary: bool = False
    source: str | None = None

    @property
    def origin(self) -> str:
        """Of the revision."""
        return "measured" if self.source is None else "published"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A calibration that is done.

    Attributes:
        appended: where the revision is; None after a dry run.
        kept: the file of samples that is still there; None where they are with the revision alone.
        networks: whole networks that took no part in the fit, measured and predicted.
    """

    profile: Profile
    sheet: Profile | None
    measurement: Measurement
    fits: Sequence[FamilyFit]
    appended: Appended | None
    kept: Path | None
    networks: Sequence[NetworkPoint] = ()


def measure(run: Run, progress: campaign.Progress) -> Measured:
    """Measure, and keep the whole measurement in a file.

    Raises:
        CalibrationError: if nothing can be measured, or it cannot be kept.
    """
    budget_s = run.job.budget_s
    budget_s -= min(_FIT_SHARE * budget_s, _FIT_MOST_S)
    plan = campaign.Plan(run.shares, budget_s, run.job.seed)
    measurement = campaign.run(run.backend, plan, run.journal, progress)
    measurement = replace(measurement, environment={**run.machine, **measurement.environment})
    write_recording(run.recording, run.device, measurement)
    run.journal.remove()
    return Measured(run.device, run.sheet, measurement, run.recording, temporary=True)


def recorded(
    path: Path,
    destination: Destination,
    device: str | None = None,
    runtime: str | None = None,
    source: str | None = None,
) -> Measured:
    """A measurement from a file.

    Args:
        path: a recording of `calibrate`, or samples that were taken in some other way.
        device, runtime: None where the file says them.
        source: who measured, where it was not this installation.

    Raises:
        OptionError: if nothing says which device or runtime it was.
        SampleError: if the file is not one of samples.
    """
    destination.check()
    found = read_recording(path)
    name = device or (found.device.slug if found.device else None)
    if name is None:
        raise OptionError(f"{path} does not say which device it is about: add --device NAME")
    runtime = runtime or (found.measurement.runtime if found.measurement else None)
    if runtime is None:
        raise OptionError(
            f"{path} does not say what executed its operators: add --runtime NAME, as in "
            "--runtime pytorch-eager-cuda"
        )
    kind = "gpu" if re.search("cuda|rocm|mps|xpu|tensorrt|dml", runtime) else "cpu"
    known, sheet = known_device(destination, name, kind)
    if found.device and sheet is None and found.device.slug == known.slug:
        known = found.device
    if found.measurement is not None:
        measurement = replace(found.measurement, runtime=runtime)
    else:
        units = known.facts.get("units", {}).get("value") if known.kind == "gpu" else None
        eager = runtime.startswith("pytorch-eager-")
        measurement = Measurement(
            runtime=runtime,
            samples=found.samples,
            rates={},
            levels=(),
            dispatch_s=0.0,
            resolution_s=Settings().resolution_s,
            units=int(units) if isinstance(units, int | float) else 1,
            fusion=EAGER if eager else FusionRules(),
            launches_ahead=eager and kind == "gpu",
        )
    return Measured(known, sheet, measurement, path, source=source)


def conclude(
    measured: Measured, destination: Destination, force: bool = False, dry_run: bool = False
) -> Outcome:
    """Fit a measurement and append it as a revision with its samples, all of it or nothing.

    Args:
        force: whether a noisy run may take the place of a better one.
        dry_run: whether to append nothing.

    Raises:
        CalibrationError: if the run is too noisy, or the destination cannot take it; the message
            says where the samples are and how to go on. Other errors say so too.
    """
    measurement = measured.measurement
    try:
        profile, fits = revision_profile(
            measured.device, measured.sheet, measurement, measured.origin, measured.source
        )
        networks = report_points(profile, measurement.networks)
        if dry_run:
            return Outcome(
                profile, measured.sheet, measurement, fits, None, measured.kept, networks
            )
        if measurement.noise and not force:
            _refuse_noise(measurement.noise, profile, destination)
        rows = [sample_to_json(sample) for sample in measurement.samples]
        appended = destination.append(profile, measured.origin, rows, measured.source)
    except LatencyServiceError as error:
        text = str(error).rstrip(".")
        raise type(error)(
            f"{text}. Nothing was stored. The samples are kept in {measured.kept}; to go on "
            f"without measuring again: {again(measured, destination)}"
        ) from error
    if measured.temporary:
        measured.kept.unlink(missing_ok=True)
    kept = None if measured.temporary else measured.kept
    return Outcome(profile, measured.sheet, measurement, fits, appended, kept, networks)


def _refuse_noise(noise: str, profile: Profile, destination: Destination) -> None:
    slug, runtime = profile.device.slug, profile.runtime
    better = destination.latest(slug, runtime)
    if better is not None and NOISE not in better.device.facts:
        raise CalibrationError(
            f"this run is too noisy to take the place of the revision that {slug!r} has for "
            f"{runtime!r}: {noise}. Calibrate again on a quieter machine, or add --force"
        )


def again(measured: Measured, destination: Destination) -> str:
    """The command that goes on from the samples of a measurement."""
    words = [
        "calibrate", "--device", measured.device.slug, "--samples", str(measured.kept),
        "--runtime", measured.measurement.runtime,
    ]  # fmt: skip
    if measured.source is not None:
        words += ["--source", measured.source]
    return shlex.join(words) + destination.options
