"""What machine this is, and how busy it was: the circumstances of a measurement.

`detect` reads the hardware, its limits, its state and its software, once. Linux tells most; what
another system does not tell is None.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

from latency_service.calibration.cpu import Cpu, detect_cpu
from latency_service.calibration.gpu import Gpu, detect_gpus, no_cuda
from latency_service.calibration.machine import THIS_MACHINE, Machine, as_number

_LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch")


@dataclass(frozen=True, slots=True)
class Environment:
    """Hardware, limits, state and software of a machine.

    Attributes:
        board: what the firmware calls the machine.
        cpu_quota: CPUs' worth of time that the control group may use; None: all.
        cpu_pressure_percent: of the last ten seconds in which some task waited for a CPU.
        stolen_ticks: that the hypervisor gave to others since the machine started.
        libraries: version by distribution, of those that are installed.
        gpus: those that CUDA may use, in the order of CUDA_VISIBLE_DEVICES or of the bus.
    """

    cpu: Cpu
    board: str | None
    cpu_quota: float | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    load_average: tuple[float, ...]
    cpu_pressure_percent: float | None
    stolen_ticks: int | None
    system: str
    kernel: str
    python: str
    libraries: Mapping[str, str]
    gpus: tuple[Gpu, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document


def detect(
    machine: Machine = THIS_MACHINE, cuda: Callable[[], tuple[Gpu, ...]] = no_cuda
) -> Environment:
    """Everything about a machine that its measurements depend on; never fails.

    Args:
        cuda: `torch_cuda` for a run on a GPU: it counts the multiprocessors, and sees GPUs that
            nvidia-smi does not.
    """
    uname = machine.uname()
    board = _board(machine)
    memory = _memory_bytes(machine)
    limits = [machine.number(f"{at}/memory.max") for at in _cgroups(machine, None)]
    limits += [machine.number(f"{at}/memory.limit_in_bytes") for at in _cgroups(machine, "memory")]
    limit = min((int(n) for n in limits if n is not None), default=None)
    release = re.search(r'^PRETTY_NAME="?([^"\n]+)', machine.text("etc/os-release") or "", re.M)
    return Environment(
        cpu=detect_cpu(machine, board),
        board=board,
        cpu_quota=_cpu_quota(machine),
        memory_bytes=memory,
        # Version 1 says "no limit" by a number larger than any memory.
        memory_limit_bytes=limit if limit is not None and limit < (memory or limit + 1) else None,
        load_average=tuple(float(n) for n in (machine.text("proc/loadavg") or "").split()[:3]),
        cpu_pressure_percent=_cpu_pressure_percent(machine),
        stolen_ticks=_stolen_ticks(machine),
        system=release[1] if release else f"{uname.system} {uname.version}".strip(),
        kernel=f"{uname.system} {uname.release}".strip(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        libraries=_libraries(),
        gpus=detect_gpus(machine, cuda()),
    )


def _stolen_ticks(machine: Machine) -> int | None:
    words = (machine.text("proc/stat") or "").partition("\n")[0].split()
    # cpu user nice system idle iowait irq softirq steal guest guest_nice
    return int(words[8]) if len(words) > 8 and words[0] == "cpu" else None


def _cpu_pressure_percent(machine: Machine) -> float | None:
    text = machine.text("proc/pressure/cpu") or ""
    found = re.search(r"^some\b.*\bavg10=([0-9.]+)", text, re.M)
    return float(found[1]) if found else None


def _libraries() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _cgroups(machine: Machine, controller: str | None) -> Iterator[str]:
    """Folders of this process's control group and of those above it.

    Args:
        controller: of version 1; None is version 2.
    """
    own = "/"
    for line in (machine.text("proc/self/cgroup") or "").splitlines():
        _, controllers, path = (line + "::").split(":")[:3]
        if controllers == "" if controller is None else controller in controllers.split(","):
            own = path
    base = "sys/fs/cgroup" if controller is None else f"sys/fs/cgroup/{controller}"
    # A container may see the host's path without the folders: its own limits stand at the top.
    for folder in (PurePosixPath(own), *PurePosixPath(own).parents):
        yield base + str(folder).rstrip("/")


def _cpu_quota(machine: Machine) -> float | None:
    pairs = [(machine.text(f"{at}/cpu.max") or "").split() for at in _cgroups(machine, None)]
    pairs += [
        [machine.text(f"{at}/cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        for at in _cgroups(machine, "cpu")
    ]
    quotas = []
    for pair in pairs:
        quota, period = (as_number(word) for word in [*pair, "", ""][:2])
        if quota and period and quota > 0:  # "max" and -1 say that there is none
            quotas.append(quota / period)
    return min(quotas, default=None)


def _memory_bytes(machine: Machine) -> int | None:
    found = re.search(r"^MemTotal:\s+([0-9]+) kB", machine.text("proc/meminfo") or "", re.M)
    if found:
        return int(found[1]) * 1024
    if machine.uname().system != "Linux":
        with contextlib.suppress(AttributeError, ValueError, OSError):
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _board(machine: Machine) -> str | None:
    if tree := machine.text("proc/device-tree/model"):
        return tree
    names = [machine.text(f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    return " ".join(name for name in names if name) or None
