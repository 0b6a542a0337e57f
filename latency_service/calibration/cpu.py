"""The processors of a machine: model, cores, caches, instructions and clock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latency_service.calibration.machine import Machine, as_number, scaled

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


def detect_cpu(machine: Machine, board: str | None) -> Cpu:
    """The processors.

    Args:
        board: what the firmware calls the machine; some virtual machines show only there.
    """
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
    clock = scaled(machine.number(f"{frequency}/scaling_cur_freq"), 1e3)
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
        clock_hz=clock or scaled(as_number(first.get("cpu MHz")), 1e6),
        max_clock_hz=scaled(machine.number(f"{frequency}/cpuinfo_max_freq"), 1e3),
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
