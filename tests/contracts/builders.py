"""Profiles for the storage tests."""

from __future__ import annotations

from typing import Any

from latency_service.core.profile import ComputeRate, Device, Memory, Profile


def profile(
    slug: str = "v100-sxm2-16gb",
    runtime: str = "ideal",
    *,
    flops_per_s: float = 15.7e12,
    aliases: tuple[str, ...] = (),
    kind: str = "gpu",
    notes: str | None = None,
    facts: dict[str, Any] | None = None,
) -> Profile:
    """A small profile; a different rate makes a different digest."""
    return Profile(
        device=Device(
            slug=slug,
            name=slug.upper(),
            vendor="NVIDIA",
            kind=kind,
            aliases=aliases,
            notes=notes,
            facts=facts or {},
        ),
        runtime=runtime,
        memory=Memory(900e9, "datasheet", "a sheet"),
        compute=(ComputeRate("float32", "float32", flops_per_s, "datasheet", "a sheet"),),
    )
