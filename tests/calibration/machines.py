"""Machines of recorded texts: what Linux and nvidia-smi print on them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from latency_service.calibration.machine import Machine

# /proc/cpuinfo of a virtual machine on AMD EPYC, shortened.
EPYC = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
cpu MHz\t\t: 2596.144
physical id\t: 0
siblings\t: 2
core id\t\t: 0
cpu cores\t: 2
flags\t\t: fpu sse2 fma avx hypervisor avx2 avx512f avx512dq avx512_bf16 avx512_vnni
bogomips\t: 5192.28

processor\t: 1
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC
physical id\t: 0
core id\t\t: 1
flags\t\t: fpu sse2 fma avx hypervisor avx2 avx512f avx512dq avx512_bf16 avx512_vnni
"""
SMI = {
    "name": "NVIDIA H200",
    "uuid": "GPU-d1000000-0000-0000-0000-000000000007",
    "driver_version": "580.159.03",
    "memory.total": "143771",
    "clocks.sm": "345",
    "clocks.max.sm": "1980",
    "clocks.mem": "3201",
    "clocks.max.mem": "3201",
    "power.limit": "700.00",
    "temperature.gpu": "29",
    "ecc.mode.current": "Enabled",
    "mig.mode.current": "Disabled",
    "persistence_mode": "Enabled",
    "clocks_event_reasons.active": "0x0000000000000001",
    "clocks_throttle_reasons.active": "0x0000000000000001",
}
V100 = SMI | {
    "name": "Tesla V100-PCIE-32GB",
    "uuid": "GPU-a2000000-0000-0000-0000-000000000003",
    "driver_version": "470.141.03",
    "memory.total": "32510",
    "clocks.sm": "135",
    "clocks.max.sm": "1380",
    "clocks.mem": "877",
    "clocks.max.mem": "877",
    "power.limit": "250.00",
    "temperature.gpu": "41",
    "mig.mode.current": "[N/A]",
    "persistence_mode": "Disabled",
    # sw_power_cap (4) and sw_thermal_slowdown (0x20)
    "clocks_throttle_reasons.active": "0x0000000000000024",
}


def smi(
    *cards: dict[str, str], unknown: Sequence[str] = ()
) -> Callable[[Sequence[str]], str | None]:
    """An nvidia-smi that sees these cards and fails at fields that it does not know."""

    def run(command: Sequence[str]) -> str | None:
        program, query, form = command
        assert program == "nvidia-smi"
        assert form == "--format=csv,noheader,nounits"
        fields = query.removeprefix("--query-gpu=").split(",")
        if set(fields) & set(unknown):
            return None
        return "".join(", ".join(card[field] for field in fields) + "\n" for card in cards)

    return run


def machine(
    root: Path,
    files: dict[str, str] | None = None,
    architecture: str = "x86_64",
    run: Callable[[Sequence[str]], str | None] = lambda command: None,
    cpus: int = 2,
    **variables: str,
) -> Machine:
    for path, text in (files or {}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    uname = platform.uname_result("Linux", "host", "6.1.0", "#1 SMP", architecture)
    return Machine(root, run, lambda: uname, lambda: cpus, variables)
