"""Fitting a calibration again from its stored samples: a better fit needs no new measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latency_service.core.errors import CalibrationError
from latency_service.core.fit import FamilyFit
from latency_service.core.profile import Profile
from latency_service.core.sample import sample_from_json
from latency_service.usecases.destinations import Appended
from latency_service.usecases.fitted import refitted
from latency_service.usecases.workbench import Workbench


@dataclass(frozen=True, slots=True)
class Refit:
    """A revision that was fitted again.

    Attributes:
        before: number of the revision whose samples it rests on.
    """

    profile: Profile
    fits: Sequence[FamilyFit]
    before: int
    appended: Appended


def refit(bench: Workbench, device: str, revision: str | None = None) -> Refit:
    """Fit a revision again from its stored samples, and append what is found.

    Args:
        revision: number or digest; None: the latest of the device that rests on stored samples.

    Raises:
        CalibrationError: if it rests on no samples that are stored here.
    """
    past = bench.profiles.history(device)
    if revision is None:
        fitted = [one for one in past if one.profile.efficiency is not None]
        chosen = next((one for one in fitted if one.origin == "measured"), None)
        if chosen is None:
            raise CalibrationError(
                f"device {past[0].device!r} has not been calibrated here; run: latency-service "
                f"calibrate --device {past[0].device}"
            )
    else:
        chosen = bench.profiles.get(device, revision)
    kept = bench.profiles.samples(chosen.device, chosen.revision) or {"samples": [], "source": ""}
    where = f"revision {chosen.revision} of {chosen.device!r}"
    if not kept["samples"]:
        elsewhere = f": they are published elsewhere ({kept['source']})" if kept["source"] else ""
        raise CalibrationError(
            f"the samples of {where} are not stored here{elsewhere}. With a file of them: "
            f"calibrate --device {chosen.device} --runtime {chosen.runtime} --samples FILE"
        )
    samples = [
        sample_from_json(row, f"{where}, sample {n}")
        for n, row in enumerate(kept["samples"], start=1)
    ]
    profile, fits = refitted(chosen.profile, samples)
    source = None if chosen.origin == "measured" else kept["source"]
    new, created = bench.profiles.append(
        profile, chosen.origin, kept["samples"], source, kept["digest"]
    )
    bench.forget_catalogue()
    appended = Appended(new.device, new.revision, new.runtime, new.digest, created, "")
    return Refit(profile, fits, chosen.revision, appended)
