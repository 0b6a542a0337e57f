"""What has to be known before a calibration measures: backend, destination, machine, device."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latency_service.calibration.backends import Backend, open_backend
from latency_service.calibration.environment import detect
from latency_service.calibration.gpu import no_cuda, torch_cuda
from latency_service.calibration.identity import resolve
from latency_service.calibration.journal import Journal
from latency_service.core.errors import CalibrationError, OptionError
from latency_service.core.profile import Device, Profile, check_device_name
from latency_service.core.units import check_dtype
from latency_service.usecases.destinations import Destination

# What must not change between the start of a recording and its continuation; clocks may.
_LASTING = {"onnxruntime", "torch", "provider", "threads", "gpu", "cuda", "cudnn", "tf32"}


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be measured.

    Attributes:
        device: its name or alias, or the name of a new device.
        backend: of `latency_service.calibration.backends`.
        dtypes: of the tensors; none: those that networks on the backend's processor have.
        budget_s: seconds for everything.
    """

    device: str
    backend: str = "onnxruntime"
    provider: str | None = None
    threads: int = 1
    dtypes: tuple[str, ...] = ()
    budget_s: float = 180.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A calibration that is ready to measure.

    Attributes:
        sheet: the device's data-sheet profile, if it has one.
        machine: what this machine is, and the state that it is in.
        shares: of the budget, by dtype.
        journal: holds what an interrupted run has measured already.
        recording: where the whole measurement will be.
        messages: what the user should know about the device that was found.
    """

    job: Job
    backend: Backend
    device: Device
    sheet: Profile | None
    machine: Mapping[str, Any]
    shares: Mapping[str, float]
    journal: Journal
    recording: Path
    messages: tuple[str, ...] = ()


def begin(job: Job, destination: Destination, folder: Path) -> Run:
    """Find everything out that can go wrong before a measurement: device, backend, destination.

    Args:
        folder: for the journal and the recording.

    Raises:
        OptionError, MissingExtraError: for a backend, provider or dtype that there is not.
        CalibrationError: if this machine is not the device, or the journal is of another run.
        TokenError: if the destination refuses the token.
    """
    for dtype in job.dtypes:
        check_dtype(dtype, "--dtype")
    if not job.budget_s > 0:
        raise OptionError(f"the budget is {job.budget_s} seconds; it must be more than none")
    backend = open_backend(job.backend, job.provider, job.threads)
    destination.check()
    device, sheet, machine, messages = identify(job, backend, destination)
    shares = _shares(job, backend)
    stem = f"{device.slug}.{re.sub(r'[^a-z0-9.-]', '-', backend.runtime)}.{'-'.join(shares)}"
    facts = {key: value for key, value in backend.facts().items() if key in _LASTING}
    facts["processor"] = machine.get("cpu", {}).get("model")
    header = {**facts, "device": device.slug, "runtime": backend.runtime}
    try:
        journal = Journal(folder / f"{stem}.jsonl", header)
    except OSError as error:
        raise CalibrationError(
            f"{folder} cannot hold the recording: {error.strerror or error}. Make room, or let "
            "LATENCY_SERVICE_DATA_DIRECTORY name another folder"
        ) from None
    recording = folder / f"{stem}.measured.jsonl.gz"
    return Run(job, backend, device, sheet, machine, shares, journal, recording, messages)


def _shares(job: Job, backend: Backend) -> Mapping[str, float]:
    """Shares of the budget: as named, else mostly float32, and what runs quantised networks."""
    if job.dtypes:
        return dict.fromkeys(job.dtypes, 1.0 / len(job.dtypes))
    if backend.kind == "cpu" and job.backend == "onnxruntime":
        return {"float32": 0.8, "int8": 0.2}
    return {"float32": 1.0}


def identify(
    job: Job, backend: Backend, destination: Destination
) -> tuple[Device, Profile | None, Mapping[str, Any], tuple[str, ...]]:
    """What this machine is, and which device that makes it."""
    on_gpu = backend.kind == "gpu"
    asks_cuda = on_gpu and job.backend == "torch"
    found = detect(cuda=torch_cuda if asks_cuda else no_cuda)
    named = destination.find(job.device)
    identity = resolve(
        job.device,
        None if named is None else named.device,
        found,
        "gpu" if on_gpu else "cpu",
        destination.devices(),
        job.provider,
    )
    # an alias may stand for several cards: the one that is here has a data sheet of its own
    known = destination.find(identity.slug)
    device, sheet = (identity.device, None) if known is None else known
    return device, sheet, found.to_json(), identity.notes


def known_device(destination: Destination, name: str, kind: str) -> tuple[Device, Profile | None]:
    """A device of the destination with its data sheet; a new one where there is none.

    Args:
        kind: of a new device.

    Raises:
        ProfileError: if a new device cannot be called so.
    """
    found = destination.find(name)
    if found is not None:
        return found
    slug = name.strip().lower()
    check_device_name(slug, "a new device")
    return Device(slug=slug, name=name.strip(), vendor="unknown", kind=kind), None
