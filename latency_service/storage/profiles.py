"""Device profiles as numbered revisions that are only ever added."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    case,
    func,
    literal,
    or_,
    select,
    union_all,
)

from latency_service.core.errors import UnknownRevisionError
from latency_service.core.profile import Profile, Revision, profile_from_json
from latency_service.storage.catalogue import (
    Catalogue,
    default_revision,
    normal_name,
    unknown_device,
    unknown_runtime,
)
from latency_service.storage.engine import LOCK_REVISIONS, reading, writing
from latency_service.storage.ledger import Ledger, check_profile, device_names
from latency_service.storage.samples import Elsewhere, read_samples, write_samples
from latency_service.storage.tables import aliases, devices, revisions

__all__ = ["Catalogue", "ProfileRepository"]

# Shorter than that, a decimal text is a number; as long, it is the beginning of a digest.
_SHORTEST_PREFIX = 12
_DIGEST_PREFIX = re.compile(rf"(?:sha256:)?([0-9a-f]{{{_SHORTEST_PREFIX},64}})")

_EPOCH = select(func.coalesce(func.max(revisions.c.id), 0))
_SELECT = select(*(column for column in revisions.c))


class ProfileRepository:
    """The profiles of all devices, over one database.

    It can be shared among threads and processes, and guarantees that

    * a revision, once returned, never changes and never goes away;
    * a device's revisions are numbered 1, 2, 3, ... over all its runtimes, without a gap, in the
      order in which they became visible, however many append at once;
    * the same profile is kept once: appending it again finds the first;
    * a name, slug or alias, belongs to one device for good;
    * everything that a call appends becomes visible at once, or nothing does;
    * `epoch()` changes with every revision that becomes visible, so that a `Catalogue` whose epoch
      it still is lacks nothing.

    Device names are found in any case and with blanks around them. Every method raises
    DatabaseError if the database cannot be used.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def append(
        self,
        profile: Profile,
        origin: str,
        samples: Sequence[Mapping[str, Any]] | None = None,
        samples_source: str | None = None,
        samples_digest: str | None = None,
    ) -> tuple[Revision, bool]:
        """Publish a profile as its device's next revision.

        The device is made when new, and gets the profile's aliases.

        Args:
            profile: what is known about the device under one runtime.
            origin: "datasheet", "published" or "measured".
            samples: the measurements it was fitted from; an empty list with a source where they
                are published elsewhere.
            samples_source: where they come from; None: measured by this installation.
            samples_digest: of the published samples; None: computed from `samples`.

        Returns:
            The revision, and whether it is new: False if the device has this profile already, in
            which case the samples are not stored either.

        Raises:
            ConflictError: if its slug or an alias belongs to another device.
            ProfileError: if the profile or a sample holds what a database cannot keep.
        """
        check_profile(profile, origin)
        with writing(self._engine, lock=LOCK_REVISIONS) as connection:
            ledger = Ledger(connection, [profile.device.slug])
            known = ledger.find(profile)
            if known is not None:
                row = connection.execute(_SELECT.where(revisions.c.id == known)).one()
                return _revision(row), False
            revision_id, revision = ledger.append(profile, origin)
            if samples is not None:
                write_samples(connection, revision_id, samples, samples_source, samples_digest)
        return revision, True

    def seed(
        self,
        profiles: Iterable[Profile],
        origin: str = "datasheet",
        samples: Sequence[Elsewhere] | None = None,
    ) -> int:
        """Append those of many profiles that are not there yet, all or none.

        Several processes may do it at once. When there is nothing to append it only reads.

        Args:
            samples: for each profile, where the measurements behind it are published.

        Returns:
            How many were appended.

        Raises:
            ConflictError, ProfileError: as `append` does.
        """
        profiles = list(profiles)
        for profile in profiles:
            check_profile(profile, origin)
        slugs = sorted({profile.device.slug for profile in profiles})
        with reading(self._engine) as connection:
            ledger = Ledger(connection, slugs)
            if all(ledger.find(profile) is not None for profile in profiles):
                return 0
        with writing(self._engine, lock=LOCK_REVISIONS) as connection:
            ledger = Ledger(connection, slugs)
            appended = 0
            for n, profile in enumerate(profiles):
                if ledger.find(profile) is None:
                    revision_id, _ = ledger.append(profile, origin)
                    if samples is not None:
                        write_samples(connection, revision_id, [], *samples[n])
                    appended += 1
        return appended

    def has_all(self, wanted: Iterable[tuple[str, str, str]]) -> bool:
        """Whether there is a revision of each (device, runtime, digest)."""
        keys = set(wanted)
        columns = revisions.c
        query = select(columns.device, columns.runtime, columns.digest).where(
            columns.digest.in_(sorted(digest for _, _, digest in keys))
        )
        with reading(self._engine) as connection:
            return keys <= {tuple(row) for row in connection.execute(query)}

    def resolve(self, name: str) -> str:
        """The slug of a device by its slug or an alias.

        Raises:
            UnknownDeviceError: with the names that come close.
        """
        with reading(self._engine) as connection:
            return _resolve(connection, name)

    def get(self, device: str, revision: int | str) -> Revision:
        """One revision of a device.

        Args:
            device: slug or alias.
            revision: its number, or its digest, or the first 12 or more hexadecimal digits of the
                digest, with or without "sha256:".

        Raises:
            UnknownDeviceError: if there is no device of that name.
            UnknownRevisionError: if it has no such revision, or several begin so.
        """
        with reading(self._engine) as connection:
            slug = _resolve(connection, device)
            wanted = _wanted(revision)
            rows = []
            if wanted is not None:
                query = _SELECT.where(revisions.c.device == slug, wanted).limit(2)
                rows = list(connection.execute(query))
            if len(rows) == 1:
                return _revision(rows[0])
            last = connection.execute(
                select(func.max(revisions.c.revision)).where(revisions.c.device == slug)
            ).scalar_one()
        if rows:
            raise UnknownRevisionError(
                f"several revisions of device {slug!r} have a digest that begins with "
                f"{revision!r}; give more of its digits"
            )
        raise UnknownRevisionError(
            f"device {slug!r} has no revision {revision!r}; it has 1 to {last}. Name one of these, "
            f"or the digest of one, or none for the latest; GET /v1/devices/{slug}/revisions lists "
            "them"
        )

    def latest(self, device: str, runtime: str) -> Revision:
        """The latest revision of a device for a runtime.

        Raises:
            UnknownDeviceError: if there is no device of that name.
            UnknownRevisionError: if it has none for that runtime.
        """
        found = self.runtimes(device)
        if runtime not in found:
            slug = next(iter(found.values())).device
            raise unknown_runtime(slug, runtime, found)
        return found[runtime]

    def runtimes(self, device: str) -> dict[str, Revision]:
        """The latest revision of each runtime of a device, the runtime it got first coming first.

        Raises:
            UnknownDeviceError: if there is no device of that name.
        """
        with reading(self._engine, snapshot=True) as connection:
            latest, _ = _current(connection, revisions.c.device == _resolve(connection, device))
        return {revision.runtime: revision for revision in latest}

    def history(self, device: str) -> list[Revision]:
        """All revisions of a device, newest first.

        Raises:
            UnknownDeviceError: if there is no device of that name.
        """
        with reading(self._engine) as connection:
            slug = _resolve(connection, device)
            query = _SELECT.where(revisions.c.device == slug).order_by(revisions.c.id.desc())
            return [_revision(row) for row in connection.execute(query)]

    def samples(self, device: str, revision: int | str) -> dict[str, Any] | None:
        """The measurements behind a revision: `{"samples": [...], "source", "digest"}`.

        Returns:
            None if it was published without.

        Raises:
            UnknownDeviceError, UnknownRevisionError: as `get` does.
        """
        found = self.get(device, revision)
        with reading(self._engine) as connection:
            return read_samples(connection, found.device, found.revision)

    def epoch(self) -> int:
        """A number that grows with every revision; 0 while there is none."""
        with reading(self._engine) as connection:
            return int(connection.execute(_EPOCH).scalar_one())

    def catalogue(self) -> Catalogue:
        """The latest revisions of all devices as they are now."""
        with reading(self._engine, snapshot=True) as connection:
            epoch = int(connection.execute(_EPOCH).scalar_one())
            names = device_names(connection)
            latest, measured = _current(connection, None)
        by_device: dict[str, dict[str, Revision]] = {slug: {} for slug in sorted(names.values())}
        for revision in latest:
            by_device[revision.device][revision.runtime] = revision
        own: dict[str, list[Revision]] = {slug: [] for slug in by_device}
        for revision in measured:
            own[revision.device].append(revision)
        return Catalogue(
            epoch=epoch,
            names=MappingProxyType(names),
            by_device=MappingProxyType(
                {slug: MappingProxyType(found) for slug, found in by_device.items()}
            ),
            defaults=MappingProxyType(
                {slug: default_revision(found, own[slug]) for slug, found in by_device.items()}
            ),
        )


def _wanted(revision: int | str) -> ColumnElement[bool] | None:
    """The condition that a number or digest stands for; None if it is neither."""
    text = str(revision).strip().lower()
    if text.isascii() and text.isdigit() and len(text) < _SHORTEST_PREFIX:
        # Larger than the column holds.
        number = int(text)
        return revisions.c.revision == number if number < 2**31 else None
    prefix = _DIGEST_PREFIX.fullmatch(text)
    if prefix is None or isinstance(revision, int):
        return None
    return revisions.c.digest.startswith("sha256:" + prefix[1])


def _resolve(connection: Connection, name: str) -> str:
    normal = normal_name(name)
    # PostgreSQL takes no NUL in a text, and no name holds one.
    if "\x00" not in normal:
        slug = connection.execute(
            union_all(
                select(devices.c.slug).where(devices.c.slug == normal),
                select(aliases.c.device).where(aliases.c.alias == normal),
            )
        ).scalar()
        if slug is not None:
            return str(slug)
    raise unknown_device(name, device_names(connection))


def _current(
    connection: Connection, where: ColumnElement[bool] | None
) -> tuple[list[Revision], list[Revision]]:
    """The latest revision of each (device, runtime), and the latest measured one of each.

    Both in the order in which the devices got the runtimes.
    """
    measured_id = case((revisions.c.origin == literal("measured"), revisions.c.id))
    summary = (
        select(
            func.min(revisions.c.id).label("first"),
            func.max(revisions.c.id).label("latest"),
            func.max(measured_id).label("measured"),
        )
        .where(*([] if where is None else [where]))
        .group_by(revisions.c.device, revisions.c.runtime)
    ).subquery()
    query = (
        select(*revisions.c, summary.c.latest, summary.c.measured)
        .join(
            summary,
            or_(revisions.c.id == summary.c.latest, revisions.c.id == summary.c.measured),
        )
        .order_by(summary.c.first, revisions.c.id)
    )
    latest, measured = [], []
    for row in connection.execute(query):
        revision = _revision(row)
        if row.id == row.latest:
            latest.append(revision)
        if row.id == row.measured:
            measured.append(revision)
    return latest, measured


def _revision(row: Any) -> Revision:
    return Revision(
        device=row.device,
        revision=row.revision,
        runtime=row.runtime,
        digest=row.digest,
        origin=row.origin,
        created_at=row.created_at,
        profile=profile_from_json(row.profile, f"revision {row.revision} of {row.device}"),
    )
