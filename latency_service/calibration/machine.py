"""Where facts about a machine are read: its files, its commands, its variables.

A test puts recorded texts in their place.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


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
        return as_number(self.text(path))


THIS_MACHINE = Machine()


def as_number(text: str | None) -> float | None:
    """The finite number that a text is; None if it is none."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def scaled(number: float | None, unit: float) -> float | None:
    """A number times a unit; None stays None."""
    return None if number is None else number * unit
