"""Looking devices and their revisions up, and appending to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from latency_service.core.errors import ProfileError, UnknownRevisionError
from latency_service.core.profile import ComputeRate, Profile, Revision, profile_to_json
from latency_service.usecases.workbench import Workbench


class DeviceRow(TypedDict):
    """One line of the list of devices."""

    name: str
    aliases: list[str]
    title: str
    vendor: str
    kind: str
    default_runtime: str
    runtimes: list[str]
    revision: int
    digest: str
    origin: str
    peak_flops_per_s: float
    peak_dtype: str
    peak_math: str
    bytes_per_s: float


class DeviceList(TypedDict):
    """A page of devices; `total` counts all that match."""

    devices: list[DeviceRow]
    total: int


class RevisionRow(TypedDict):
    """One revision in a history."""

    device: str
    revision: int
    runtime: str
    digest: str
    origin: str
    created_at: str


class RevisionDocument(RevisionRow):
    """One revision, whole: the profile with every rate, its origin and its source."""

    profile: dict[str, Any]


class DeviceDocument(DeviceRow):
    """One device with its default profile."""

    default: RevisionDocument


class History(TypedDict):
    """A device's revisions, newest first."""

    device: str
    revisions: list[RevisionRow]


def list_devices(
    bench: Workbench,
    query: str | None = None,
    kind: str | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> DeviceList:
    """Devices by name.

    Args:
        query: part of a name, alias, title or vendor, in any case.
    """
    catalogue = bench.catalogue()
    wanted = (query or "").strip().lower()
    rows = []
    for slug in catalogue.devices():
        device = catalogue.default(slug).profile.device
        texts = (slug, device.name, device.vendor, *device.aliases, device.architecture or "")
        if kind is not None and device.kind != kind:
            continue
        if any(wanted in text.lower() for text in texts):
            rows.append(slug)
    end = None if limit is None else offset + limit
    return {"devices": [_row(bench, slug) for slug in rows[offset:end]], "total": len(rows)}


def show_device(bench: Workbench, name: str, runtime: str | None = None) -> DeviceDocument:
    """One device with its default profile, or that of a runtime.

    Raises:
        UnknownDeviceError: if there is no such device or alias.
    """
    catalogue = bench.catalogue()
    slug = catalogue.resolve(name)
    revision = catalogue.latest(slug, runtime) if runtime else catalogue.default(slug)
    return {**_row(bench, slug), "default": revision_document(revision)}


def history(bench: Workbench, name: str) -> History:
    """All revisions of a device, newest first."""
    slug = bench.catalogue().resolve(name)
    return {
        "device": slug,
        "revisions": [revision_row(revision) for revision in bench.profiles.history(slug)],
    }


def show_revision(bench: Workbench, name: str, revision: str) -> RevisionDocument:
    """One revision, by number or digest."""
    return revision_document(bench.profiles.get(bench.catalogue().resolve(name), revision))


def samples(bench: Workbench, name: str, revision: str) -> Mapping[str, Any]:
    """The raw measurements behind a revision.

    Raises:
        UnknownRevisionError: if it rests on none.
    """
    slug = bench.catalogue().resolve(name)
    number = bench.profiles.get(slug, revision).revision
    found = bench.profiles.samples(slug, number)
    if found is None:
        raise UnknownRevisionError(
            f"revision {number} of {slug!r} rests on no measurements: its numbers name their "
            "sources themselves"
        )
    return found


def append(
    bench: Workbench,
    name: str,
    profile: Profile,
    origin: str,
    measured: Sequence[Mapping[str, Any]] | None = None,
    source: str | None = None,
) -> tuple[Revision, bool]:
    """Append a revision; the device is created if it is new.

    Returns:
        The revision, and whether it is new.

    Raises:
        ProfileError: if the profile is for another device than `name`.
        ConflictError: if one of its names belongs to another device.
    """
    wanted = name.strip().lower()
    if wanted != profile.device.slug and wanted not in profile.device.aliases:
        raise ProfileError(
            f"the profile is for {profile.device.slug!r}, not for {name!r}: post it to "
            f"/v1/devices/{profile.device.slug}/revisions"
        )
    appended = bench.profiles.append(profile, origin, measured, source)
    bench.forget_catalogue()
    return appended


def revision_row(revision: Revision) -> RevisionRow:
    """A revision without its profile."""
    return {
        "device": revision.device,
        "revision": revision.revision,
        "runtime": revision.runtime,
        "digest": revision.digest,
        "origin": revision.origin,
        "created_at": revision.created_at.isoformat(),
    }


def revision_document(revision: Revision) -> RevisionDocument:
    """A revision with its profile."""
    return {**revision_row(revision), "profile": profile_to_json(revision.profile)}


def peak(profile: Profile) -> ComputeRate:
    """The rate that stands for a device in a list: float32's default, else its fastest."""
    own = [rate for rate in profile.compute if rate.dtype == "float32"]
    default = next((rate for rate in own if rate.default), None)
    return default or (own or sorted(profile.compute, key=lambda rate: -rate.flops_per_s))[0]


def _row(bench: Workbench, slug: str) -> DeviceRow:
    catalogue = bench.catalogue()
    revision = catalogue.default(slug)
    device, rate = revision.profile.device, peak(revision.profile)
    return {
        "name": slug,
        "aliases": list(device.aliases),
        "title": device.name,
        "vendor": device.vendor,
        "kind": device.kind,
        "default_runtime": revision.runtime,
        "runtimes": sorted(catalogue.runtimes(slug)),
        "revision": revision.revision,
        "digest": revision.digest,
        "origin": revision.origin,
        "peak_flops_per_s": rate.flops_per_s,
        "peak_dtype": rate.dtype,
        "peak_math": rate.math,
        "bytes_per_s": revision.profile.memory.bytes_per_s,
    }
