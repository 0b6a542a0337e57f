"""The GPUs that CUDA may use: what nvidia-smi and CUDA itself say of them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from latency_service.calibration.machine import Machine, as_number, scaled

_BASE = ("name", "uuid", "driver_version", "memory.total")
_THROTTLE = ("clocks_throttle_reasons.active", "clocks_event_reasons.active")  # old, new drivers
_MORE = (
    "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem", "power.limit", "temperature.gpu",
    "ecc.mode.current", "mig.mode.current", "persistence_mode",
)  # fmt: skip
# Bit by bit the word that nvidia-smi prints: nvmlClocksEventReasons in NVML's nvml.h.
_REASONS = (
    "gpu_idle", "applications_clocks_setting", "sw_power_cap", "hw_slowdown", "sync_boost",
    "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown",
    "display_clock_setting",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU and the state it was found in.

    Attributes:
        mig: whether it is split into instances.
        throttle_reasons: why its clock is below the highest.
        units: multiprocessors, where CUDA was asked.
    """

    name: str
    memory_bytes: int | None = None
    driver: str | None = None
    sm_clock_hz: float | None = None
    max_sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    max_memory_clock_hz: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    ecc: bool | None = None
    mig: bool | None = None
    persistence: bool | None = None
    throttle_reasons: tuple[str, ...] = ()
    units: int | None = None


def no_cuda() -> tuple[Gpu, ...]:
    """Do not ask CUDA."""
    return ()


def torch_cuda() -> tuple[Gpu, ...]:
    """What torch says of CUDA's (or ROCm's) devices; () without torch, or where it sees none.

    It imports torch and opens the device: only for a run that uses the GPU anyway.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch

            found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    except (ImportError, OSError, RuntimeError, AssertionError):
        return ()
    return tuple(Gpu(p.name, p.total_memory, units=p.multi_processor_count) for p in found)


def detect_gpus(machine: Machine, cuda: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """What nvidia-smi sees and CUDA may use, with what CUDA itself says of it."""
    found = _visible(_smi_rows(machine), machine.variables)
    if not found or not cuda:
        return tuple(found) or cuda
    # CUDA counts the fastest first, nvidia-smi goes along the bus: CUDA's first card comes first.
    found.sort(key=lambda gpu: not _same(gpu, cuda[0]))
    return tuple(
        _merged(gpu, next((own for own in cuda if _same(gpu, own)), None)) for gpu in found
    )


def _same(gpu: Gpu, own: Gpu) -> bool:
    """Whether CUDA's name is that of nvidia-smi, or of an instance of its card."""
    return own.name.partition(" MIG ")[0] == gpu.name.removesuffix(" (nvgpu)")


def _merged(gpu: Gpu, own: Gpu | None) -> Gpu:
    if own is None:
        return gpu
    if gpu.mig:  # nvidia-smi prints the whole card's name and memory
        return replace(gpu, name=own.name, memory_bytes=own.memory_bytes, units=own.units)
    return replace(gpu, units=own.units, memory_bytes=gpu.memory_bytes or own.memory_bytes)


def _visible(rows: Sequence[Mapping[str, str]], variables: Mapping[str, str]) -> list[Gpu]:
    every = [_gpu(row) for row in rows]
    wanted = variables.get("CUDA_VISIBLE_DEVICES")
    if wanted is None or "MIG-" in wanted:
        return every
    by_bus = variables.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    alike = len({gpu.name for gpu in every}) < 2
    chosen = []
    for entry in (entry.strip() for entry in wanted.split(",")):
        if entry.startswith("GPU-"):
            chosen += [
                gpu for row, gpu in zip(rows, every, strict=True) if row["uuid"].startswith(entry)
            ]
        elif not entry.isdigit():
            break  # CUDA stops at what it does not know: "-1" hides every GPU
        elif alike or by_bus:
            chosen += every[int(entry) : int(entry) + 1]
        else:
            return every
    return chosen


def _smi_rows(machine: Machine) -> list[dict[str, str]]:
    """One row a GPU, by field; drivers differ in the fields they know, and fail at one other."""

    def ask(*fields: str) -> list[dict[str, str]]:
        command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        rows = [line.split(",") for line in (machine.run(command) or "").splitlines()]
        return [
            dict(zip(fields, (word.strip() for word in row), strict=True))
            for row in rows
            if len(row) == len(fields)
        ]

    if not ask(*_BASE):
        return []
    for throttle in _THROTTLE:
        if rows := ask(*_BASE, *_MORE, throttle):
            return rows
    return ask(*_BASE, *(name for name in (*_MORE, *_THROTTLE) if ask("name", name)))


def _gpu(row: Mapping[str, str]) -> Gpu:
    """A GPU of a row, in which "[N/A]", "[Not Supported]" and the like stand for nothing."""

    def number(name: str, unit: float = 1) -> float | None:
        return scaled(as_number(row.get(name)), unit)

    def switch(name: str) -> bool | None:
        return {"Enabled": True, "Disabled": False}.get(row.get(name, ""))

    memory = number("memory.total", 2**20)
    active = row.get(_THROTTLE[0]) or row.get(_THROTTLE[1]) or ""
    bits = int(active, 16) if re.fullmatch(r"0x[0-9a-fA-F]+", active) else 0
    return Gpu(
        name=row["name"],
        memory_bytes=None if memory is None else int(memory),
        driver=row["driver_version"] if re.match("[0-9]", row["driver_version"]) else None,
        sm_clock_hz=number("clocks.sm", 1e6),
        max_sm_clock_hz=number("clocks.max.sm", 1e6),
        memory_clock_hz=number("clocks.mem", 1e6),
        max_memory_clock_hz=number("clocks.max.mem", 1e6),
        power_limit_w=number("power.limit"),
        temperature_c=number("temperature.gpu"),
        ecc=switch("ecc.mode.current"),
        mig=switch("mig.mode.current"),
        persistence=switch("persistence_mode"),
        throttle_reasons=tuple(name for n, name in enumerate(_REASONS) if bits >> n & 1),
    )
