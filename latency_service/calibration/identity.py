"""Which device a calibration is for: what was asked, held against what the machine has.

A name that nobody has yet becomes a device with this machine's own facts. A name that is known has
to be this machine: numbers measured on one card must never be published as another's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from latency_service.calibration.environment import Environment
from latency_service.calibration.gpu import Gpu
from latency_service.core.errors import OptionError
from latency_service.core.profile import Device, check_device_name

DETECTED = "detected on the machine"
GENERIC_CPU = "cpu-generic"

# Words that tell no two devices apart, whoever prints them.
_NOISE = frozenset({
    "nvidia", "tesla", "geforce", "amd", "instinct", "radeon", "intel", "generation", "gpu",
    "developer", "kit", "engineering", "reference", "processor", "cpu", "gen", "model", "b",
})  # fmt: skip
# What tells cards of one family apart: form factor, size and kind of memory.
_FORM = re.compile(r"sxm[0-9]*|pcie|nvl")
_SIZE = re.compile(r"[0-9]+gb")
_MEMORY = re.compile(r"hbm[0-9]+e?|gddr[0-9]+x?")

# Sizes that a card reports, over the size that is printed on it: error correction in GDDR memory
# keeps a sixteenth for itself, the driver some hundred megabytes; a Jetson's GPU shares the main
# memory, of which firmware and kernel keep up to a fifth.
_CARD_SHARE = 0.88
_SHARED_SHARE = 0.75
_MOST_SHARE = 1.02


@dataclass(frozen=True, slots=True)
class Identity:
    """The device that the calibration's revision belongs to.

    Attributes:
        device: a known one, or a new one with the facts that were detected.
        notes: what the user should be told about the choice.
    """

    slug: str
    device: Device
    notes: tuple[str, ...] = ()


def resolve(
    requested: str,
    device: Device | None,
    environment: Environment,
    provider_kind: str,
    candidates: Sequence[Device],
    provider: str | None = None,
) -> Identity:
    """Decide what device a calibration is for.

    Args:
        requested: the name that the user gave, in any case.
        device: what the catalogue has under that name; None if it has nothing.
        provider_kind: where the measured code runs: "cpu" or "gpu".
        candidates: every known device.
        provider: what runs the code ("CPUExecutionProvider", "cuda"), for messages.

    Raises:
        OptionError: if the name stands for something else than what would be measured.
        ProfileError: if a new name cannot be a slug.
    """
    provider = provider or f"{'CPU' if provider_kind == 'cpu' else 'CUDA'}ExecutionProvider"
    name = requested.strip().lower()
    if device is None:
        check_device_name(name, "calibrate --device")
        gpu = _measured_gpu(environment) if provider_kind == "gpu" else None
        return _new(name, environment, gpu, candidates)
    if provider_kind == "cpu":
        if device.kind == "cpu":
            return _cpu(name, device, environment)
        raise OptionError(_not_this_cpu(name, device, environment, provider))
    if device.kind == "cpu":
        raise OptionError(
            f"{name} is the CPU {device.name!r}; the provider {provider} runs on a GPU. Leave "
            f"--provider away, or calibrate the GPU under {_own_name(name, 'gpu')}"
        )
    return _gpu(name, device, environment, candidates)


def is_cpu(device: Device, environment: Environment) -> bool:
    """Whether a device is this machine's CPU."""
    cpu, board = environment.cpu, environment.board or ""
    if device.kind != "cpu":
        return False
    if device.name == cpu.model:
        return True
    if _recorded(device):
        # A processor that hides its number ("Intel Xeon CPU @ 2.20GHz") is only itself.
        return False
    # A cloud's own processor names its cores only; who sold the machine tells the rest.
    if cpu.core and device.architecture and device.vendor == "AWS" and "Amazon EC2" in board:
        return _words(device.architecture) == _words(cpu.core)
    names = {_words(cpu.model), _words(board) if cpu.core else frozenset()} - {frozenset()}
    return not names.isdisjoint(_names(device))


def is_gpu(device: Device, gpu: Gpu, environment: Environment) -> bool:
    """Whether a device is this GPU: the same words in its name, and as much memory."""
    if device.kind != "gpu":
        return False
    name, memory, least = _measured_name(gpu), gpu.memory_bytes, _CARD_SHARE
    most = 1 / least if _recorded(device) else _MOST_SHARE
    if device.name != name:
        if _recorded(device):
            return False
        if name.partition(" ")[0] in ("Orin", "Xavier"):  # the chip: the board tells which Jetson
            name, least = environment.board or name, _SHARED_SHARE
            memory = memory or environment.memory_bytes
        if _family(_words(name)) not in {_family(words) for words in _names(device)}:
            return False
    printed = device.facts.get("memory_bytes", {}).get("value")
    if memory is not None and printed:
        return bool(least <= memory / printed <= most)
    sizes = {word for word in _words(name) if _SIZE.fullmatch(word)}
    return not sizes or any(sizes <= words for words in _names(device))


def _new(
    slug: str, environment: Environment, gpu: Gpu | None, candidates: Sequence[Device]
) -> Identity:
    cpu = environment.cpu
    known: Callable[[Device], bool]
    facts: dict[str, tuple[float | None, str | None]]
    if gpu is not None:
        kind, name, architecture = "gpu", _measured_name(gpu), None
        vendor = "AMD" if name.startswith("AMD") else "NVIDIA" if environment.gpus else "unknown"
        facts = {
            # Of an instance nvidia-smi prints the whole card's.
            "memory_bytes": (None if gpu.mig and gpu.units is None else gpu.memory_bytes, None),
            "units": (gpu.units, "CU" if vendor == "AMD" else "SM"),
            "boost_clock_hz": (gpu.max_sm_clock_hz, None),
            "power_w": (gpu.power_limit_w, "power limit"),
        }

        def known(device: Device) -> bool:
            return is_gpu(device, gpu, environment)

    else:
        kind, name, vendor = "cpu", cpu.model, cpu.vendor
        architecture = f"{cpu.architecture} {cpu.core}" if cpu.core else cpu.architecture
        facts = {
            "memory_bytes": (environment.memory_bytes, None),
            "units": (cpu.cores, "core"),
            "boost_clock_hz": (cpu.max_clock_hz, None),
        }

        def known(device: Device) -> bool:
            return is_cpu(device, environment)

    notes = [
        f"this machine's {name!r} is also known as {device.slug}"
        for device in candidates
        if known(device)
    ]
    if gpu is not None and gpu.mig:
        notes.append(f"MIG mode is on: {slug} is an instance, not the whole card")
    if gpu is not None and not environment.gpus:
        notes.append(f"nvidia-smi sees no GPU: nothing tells which one {slug} is")
    return Identity(
        slug,
        Device(
            slug=slug,
            name=name,
            vendor=vendor,
            kind=kind,
            architecture=architecture,
            facts={key: _fact(*told) for key, told in facts.items() if told[0] is not None},
        ),
        tuple(notes),
    )


def _fact(value: float | None, note: str | None) -> dict[str, Any]:
    whole = int(value) if value is not None and float(value).is_integer() else value
    fact = {"value": whole, "origin": "measured", "source": DETECTED}
    return fact if note is None else fact | {"note": note}


def _cpu(name: str, device: Device, environment: Environment) -> Identity:
    model = environment.cpu.model
    if device.slug == GENERIC_CPU:
        return Identity(device.slug, device, (f"{device.slug} is any CPU; this one is {model!r}",))
    if is_cpu(device, environment):
        cores, now = device.facts.get("units", {}).get("value"), environment.cpu.cores
        if cores and now and cores != now:
            note = f"the profile of {device.slug} is of {cores} cores; this machine has {now}"
            return Identity(device.slug, device, (note,))
        return Identity(device.slug, device)
    raise OptionError(
        f"{name} is the CPU {device.name!r}; this machine has the CPU {model!r}. Calibrate it "
        f"under {_own_name(name, 'cpu')}, or run this on the {device.name}"
    )


def _gpu(
    name: str, device: Device, environment: Environment, candidates: Sequence[Device]
) -> Identity:
    gpu = _measured_gpu(environment)
    if is_gpu(device, gpu, environment):
        return Identity(device.slug, device)
    if not environment.gpus:
        raise OptionError(_not_this_cpu(name, device, environment, None))
    # The shipped device before one that an earlier calibration made of the same card.
    found = sorted((c for c in candidates if is_gpu(c, gpu, environment)), key=_recorded)
    actual = found[0] if found else None
    if actual is not None and name != device.slug and _generalises(name, device, actual):
        note = f"{name} is an alias of several cards; this machine has a {actual.slug}"
        return Identity(actual.slug, actual, (note,))
    size = "" if gpu.memory_bytes is None else f" with {gpu.memory_bytes / 2**30:.1f} GiB"
    own = f"its name: calibrate --device {actual.slug}" if actual else _own_name(name, "gpu")
    raise OptionError(
        f"{name} is the {_title(device)}; this machine has the GPU {_measured_name(gpu)!r}{size}. "
        f"Calibrate it under {own}, or run this on the {device.name}"
    )


def _measured_gpu(environment: Environment) -> Gpu:
    """The GPU that CUDA counts first; a name that is no card's where none can be seen."""
    gpus = environment.gpus
    if not gpus:
        return Gpu(f"unidentified GPU beside {environment.cpu.model}")
    kinds = sorted({gpu.name for gpu in gpus})
    if len(kinds) > 1 and gpus[0].units is None:  # else CUDA itself told which is its first
        raise OptionError(
            f"this machine has GPUs of several kinds ({', '.join(kinds)}), and nothing tells which "
            "of them would be measured. Set CUDA_VISIBLE_DEVICES to the UUID of one; "
            "`nvidia-smi -L` prints them"
        )
    return gpus[0]


def _measured_name(gpu: Gpu) -> str:
    """A card's name; that of an instance, which CUDA prints with its size, if it is split."""
    return gpu.name if not gpu.mig or " MIG " in gpu.name else f"{gpu.name} MIG instance"


def _not_this_cpu(name: str, device: Device, environment: Environment, provider: str | None) -> str:
    """Why what runs on this machine's CPU, or finds no GPU, is not a calibration of `device`."""
    gpus = environment.gpus
    if provider is not None and any(is_gpu(device, gpu, environment) for gpu in gpus):
        wanted = "cuda" if provider == "cpu" else "CUDAExecutionProvider"
        return (
            f"{name} is the {_title(device)}, and this machine has it; but the provider {provider} "
            f"runs on the CPU; add --provider {wanted}"
        )
    seen = ", ".join(sorted({repr(gpu.name) for gpu in gpus}))
    there = f"the GPU {seen} and" if gpus else "no GPU that nvidia-smi can see, only"
    return (
        f"{name} is the {_title(device)}; this machine has {there} the CPU "
        f"{environment.cpu.model!r}. Calibrate that CPU under {_own_name(name, 'cpu')}, or run "
        f"this on the {device.name}"
    )


def _own_name(name: str, kind: str) -> str:
    example = f"my-{kind}"
    if example == name:  # which an earlier calibration took for another machine
        example = f"{name}-2"
    return f"a name of its own: calibrate --device {example}"


def _title(device: Device) -> str:
    return f"{device.kind.upper()} {device.name!r}"


def _recorded(device: Device) -> bool:
    """Whether an earlier calibration made the device of the machine it ran on."""
    return any(fact.get("source") == DETECTED for fact in device.facts.values())


def _words(name: str) -> frozenset[str]:
    """The words of a name that tell it from others: "Tesla V100-PCIE-32GB" is v100, pcie, 32gb."""
    name = re.sub(
        r"\([^)]*\)|@.*|\brev [0-9.]+|\b[0-9]+-core\b|\b[0-9]+th gen\b", " ", name.lower()
    )
    name = re.sub(r"\b([0-9]+) gb\b", r"\1gb", name)
    return frozenset(re.findall(r"[a-z0-9.+]+", name)) - _NOISE


def _names(device: Device) -> set[frozenset[str]]:
    return {_words(name) for name in (device.slug, device.name, *device.aliases)}


def _family(words: frozenset[str]) -> frozenset[str]:
    """The words without the memory, whose size is compared as a number."""
    return frozenset(w for w in words if not (_SIZE.fullmatch(w) or _MEMORY.fullmatch(w)))


def _generalises(name: str, device: Device, actual: Device) -> bool:
    """Whether an alias of `device` may stand for `actual` as well.

    It may if both are of one family (the same name but for form factor and memory), and what the
    alias does say of these holds of `actual`: v100 may be a PCIe card, v100-sxm2 may not.
    """

    def bare(words: frozenset[str]) -> frozenset[str]:
        return frozenset(w for w in _family(words) if not _FORM.fullmatch(w))

    if bare(_words(device.name)) != bare(_words(actual.name)):
        return False
    told = _words(name) - bare(_words(name))
    has = frozenset().union(*_names(actual))
    return all(any(word.startswith(wanted) for word in has) for wanted in told)
