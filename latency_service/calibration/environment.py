"""What machine this is, and how busy it was: the circumstances of a measurement.

`detect` reads the hardware, its limits, its state and its software, once. Linux tells most; what
another system does not tell is None.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

_LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "torch")
_INSTRUCTIONS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile",
    "amx_int8", "amx_bf16", "amx_fp16", "neon", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip
_VENDORS = {
    "AuthenticAMD": "AMD", "GenuineIntel": "Intel", "HygonGenuine": "Hygon", "0x41": "ARM",
    "0x42": "Broadcom", "0x43": "Cavium", "0x46": "Fujitsu", "0x48": "HiSilicon",
    "0x4e": "NVIDIA", "0x50": "APM", "0x51": "Qualcomm", "0x61": "Apple", "0xc0": "Ampere",
}  # fmt: skip
# "CPU implementer" and "CPU part" of /proc/cpuinfo, as in Linux' arch/arm64/include/asm/cputype.h.
_CORES = {
    "0x41": {
        "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57",
        "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76",
        "0xd0c": "Neoverse-N1", "0xd0d": "Cortex-A77", "0xd40": "Neoverse-V1",
        "0xd41": "Cortex-A78", "0xd42": "Cortex-A78AE", "0xd44": "Cortex-X1",
        "0xd46": "Cortex-A510", "0xd47": "Cortex-A710", "0xd48": "Cortex-X2",
        "0xd49": "Neoverse-N2", "0xd4d": "Cortex-A715", "0xd4e": "Cortex-X3",
        "0xd4f": "Neoverse-V2", "0xd80": "Cortex-A520", "0xd81": "Cortex-A720",
        "0xd82": "Cortex-X4", "0xd83": "Neoverse-V3AE", "0xd84": "Neoverse-V3",
        "0xd8e": "Neoverse-N3",
    },
    "0x46": {"0x001": "A64FX"},
    "0x48": {"0xd01": "TaiShan v110"},
    "0x4e": {"0x003": "Denver 2", "0x004": "Carmel"},
    "0xc0": {"0xac3": "Ampere-1", "0xac4": "Ampere-1a"},
}  # fmt: skip
# How the firmware of virtual machines calls itself.
_GUESTS = ("Amazon EC2", "Google Compute", "Microsoft Corporation Virtual", "QEMU", "VMware", "Xen")
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


def run_command(command: Sequence[str]) -> str | None:
    """What a command prints; None if it is not there, fails, or takes more than 20 seconds."""
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def usable_cpus() -> int:
    """Logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Machine:
    """Where facts are read from: this machine, or recorded texts."""

    root: Path = Path("/")
    run: Callable[[Sequence[str]], str | None] = run_command
    uname: Callable[[], platform.uname_result] = platform.uname
    cpus: Callable[[], int] = usable_cpus
    variables: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def text(self, path: str) -> str | None:
        """A file's text without the white space (and NULs) around it; None if it has none."""
        try:
            return (self.root / path).read_text(errors="replace").strip("\0 \t\n") or None
        except OSError:
            return None

    def number(self, path: str) -> float | None:
        """The number that a file holds."""
        return _number(self.text(path))


THIS_MACHINE = Machine()


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache of the first CPU, and how many logical CPUs share it."""

    level: int
    kind: str
    bytes: int
    shared_by: int


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processors.

    Attributes:
        model: as the system names it; a board's name, or its cores', where it does not.
        core: what an ARM core is called ("Neoverse-V1"); None on others.
        cores: physical ones, of all sockets.
        usable: logical CPUs that this process may run on.
    """

    model: str
    vendor: str
    architecture: str
    core: str | None
    sockets: int | None
    cores: int | None
    usable: int
    caches: tuple[Cache, ...]
    instructions: tuple[str, ...]
    governor: str | None
    clock_hz: float | None
    max_clock_hz: float | None
    hypervisor: bool


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
        cpu=_cpu(machine, board),
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
        gpus=_gpus(machine, cuda()),
    )


def _stolen_ticks(machine: Machine) -> int | None:
    words = (machine.text("proc/stat") or "").partition("\n")[0].split()
    # cpu user nice system idle iowait irq softirq steal guest guest_nice
    return int(words[8]) if len(words) > 8 and words[0] == "cpu" else None


def _cpu_pressure_percent(machine: Machine) -> float | None:
    text = machine.text("proc/pressure/cpu") or ""
    found = re.search(r"^some\b.*\bavg10=([0-9.]+)", text, re.M)
    return float(found[1]) if found else None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _scaled(number: float | None, unit: float) -> float | None:
    return None if number is None else number * unit


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
        quota, period = (_number(word) for word in [*pair, "", ""][:2])
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


def _cpu(machine: Machine, board: str | None) -> Cpu:
    uname = machine.uname()
    blocks = [
        dict(re.findall(r"^([^:\n]*?)\s*:[ \t]*(.*)$", block, re.M))
        for block in re.split(r"\n\s*\n", machine.text("proc/cpuinfo") or "")
    ]
    first = blocks[0]
    parts = dict.fromkeys(
        (block["CPU implementer"], block["CPU part"]) for block in blocks if "CPU part" in block
    )
    core = " + ".join(_CORES.get(maker, {}).get(part, f"core {part}") for maker, part in parts)
    vendor = _VENDORS.get(first.get("vendor_id") or first.get("CPU implementer", ""))
    if parts:
        # "model name", where an ARM kernel has it, is only "ARMv8 Processor rev 0 (v8l)".
        model = machine.text("proc/device-tree/model") or f"{vendor or 'ARM'} {core}"
    else:
        model = first.get("model name", "")
    sockets, cores = _topology(machine, blocks)
    # Elsewhere than on Linux the system's word has to do: "Intel64 Family 6 ... GenuineIntel".
    model = model or uname.processor or f"{uname.machine} CPU".strip()
    flags = set((first.get("flags") or first.get("Features") or "").split())
    if "asimd" in flags:
        flags.add("neon")
    guest = (board or "").startswith(_GUESTS) and ".metal" not in (board or "")
    frequency = "sys/devices/system/cpu/cpu0/cpufreq"
    clock = _scaled(machine.number(f"{frequency}/scaling_cur_freq"), 1e3)
    return Cpu(
        model=model,
        vendor=vendor or next((v for k, v in _VENDORS.items() if k in model), "unknown"),
        architecture=uname.machine,
        core=core or None,
        sockets=sockets,
        cores=cores,
        usable=machine.cpus(),
        caches=_caches(machine),
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags),
        governor=machine.text(f"{frequency}/scaling_governor"),
        clock_hz=clock or _scaled(_number(first.get("cpu MHz")), 1e6),
        max_clock_hz=_scaled(machine.number(f"{frequency}/cpuinfo_max_freq"), 1e3),
        hypervisor="hypervisor" in flags
        or guest
        or machine.text("sys/hypervisor/type") is not None,
    )


def _topology(
    machine: Machine, blocks: Sequence[Mapping[str, str]]
) -> tuple[int | None, int | None]:
    """Sockets and physical cores."""
    folders = [
        str(path.relative_to(machine.root))
        for path in machine.root.glob("sys/devices/system/cpu/cpu[0-9]*/topology")
    ]
    packages = {machine.text(f"{at}/physical_package_id") for at in folders} - {None}
    siblings = {machine.text(f"{at}/thread_siblings_list") for at in folders} - {None}
    if packages and siblings:
        return len(packages), len(siblings)
    pairs = {
        (block["physical id"], block.get("core id")) for block in blocks if "physical id" in block
    }
    if pairs:
        return len({package for package, _ in pairs}), len(pairs)
    return None, None


def _caches(machine: Machine) -> tuple[Cache, ...]:
    caches = []
    for index in sorted(machine.root.glob("sys/devices/system/cpu/cpu0/cache/index[0-9]*")):
        at = str(index.relative_to(machine.root))
        level = machine.number(f"{at}/level")
        size = re.fullmatch(r"([0-9]+)([KMG]?)", machine.text(f"{at}/size") or "")
        if level is None or size is None:
            continue
        ranges = [
            [int(end) for end in part.split("-")]
            for part in (machine.text(f"{at}/shared_cpu_list") or "0").split(",")
        ]
        caches.append(
            Cache(
                level=int(level),
                kind=(machine.text(f"{at}/type") or "unified").lower(),
                bytes=int(size[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[size[2]],
                shared_by=sum(part[-1] - part[0] + 1 for part in ranges),
            )
        )
    return tuple(caches)


def _gpus(machine: Machine, cuda: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
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
        return _scaled(_number(row.get(name)), unit)

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
