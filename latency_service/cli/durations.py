"""Durations as people type them: 90s, 3m, 1h, 1m30s."""

from __future__ import annotations

import re

from latency_service.core.errors import OptionError

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:([0-9.]+)h)?(?:([0-9.]+)m)?(?:([0-9.]+)s?)?")


def seconds(option: str, text: str) -> float:
    """Seconds of a duration; a bare number is seconds.

    Raises:
        OptionError: if it is none, or not longer than nothing.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    try:
        parts = [float(part or 0) for part in match.groups()] if match else []
    except ValueError:
        parts = []
    total = sum(part * unit for part, unit in zip(parts, _SECONDS.values(), strict=False))
    if not 0 < total < float("inf"):
        raise OptionError(f"{option} {text!r} is no duration; write 90s, 3m or 1h")
    return total


def shown(duration_s: float) -> str:
    """A duration for people: "1:05"."""
    whole = max(0, round(duration_s))
    hours, rest = divmod(whole, 3600)
    minutes = f"{rest // 60}:{rest % 60:02d}"
    return f"{hours}:{int(rest // 60):02d}:{rest % 60:02d}" if hours else minutes
