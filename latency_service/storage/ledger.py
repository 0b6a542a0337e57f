"""What has to be known before a revision can be appended, and the appending itself."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select, union_all

from latency_service.core.errors import ConflictError, ProfileError
from latency_service.core.profile import Profile, Revision, profile_to_json
from latency_service.storage.catalogue import normal_name
from latency_service.storage.tables import aliases, devices, revisions

ORIGINS_OF_REVISIONS = ("datasheet", "published", "measured")

# An escaped NUL, not an escaped backslash before "u0000".
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def device_names(connection: Connection) -> dict[str, str]:
    """Every slug and alias, with the slug it names."""
    query = union_all(
        select(devices.c.slug.label("name"), devices.c.slug.label("device")),
        select(aliases.c.alias, aliases.c.device),
    )
    return {row.name: row.device for row in connection.execute(query)}


class Ledger:
    """The names, numbers and digests there are; true for as long as its transaction may write."""

    def __init__(self, connection: Connection, slugs: Sequence[str]) -> None:
        self._connection = connection
        self._names = device_names(connection)
        self._ids: dict[tuple[str, str, str], int] = {}
        self._last: dict[str, int] = {}
        columns = revisions.c
        for row in connection.execute(
            select(columns.id, columns.device, columns.revision, columns.runtime, columns.digest)
            .where(columns.device.in_(slugs))
            .order_by(columns.id)
        ):
            self._ids[row.device, row.runtime, row.digest] = row.id
            self._last[row.device] = row.revision

    def find(self, profile: Profile) -> int | None:
        """The id of the revision that holds exactly this profile."""
        return self._ids.get((profile.device.slug, profile.runtime, profile.digest))

    def append(self, profile: Profile, origin: str) -> tuple[int, Revision]:
        """Insert the device's next revision, and the device and aliases that are new.

        Returns:
            The row's id, and the revision.

        Raises:
            ConflictError: if its slug or an alias belongs to another device.
        """
        now = datetime.now(UTC)
        self._claimdevice_names(profile, now)
        slug = profile.device.slug
        number = self._last.get(slug, 0) + 1
        values = {
            "device": slug,
            "revision": number,
            "runtime": profile.runtime,
            "digest": profile.digest,
            "origin": origin,
            "created_at": now,
        }
        new_id = self._connection.execute(
            insert(revisions)
            .values(**values, profile=profile_to_json(profile))
            .returning(revisions.c.id)
        ).scalar_one()
        self._last[slug] = number
        self._ids[slug, profile.runtime, profile.digest] = new_id
        return new_id, Revision(
            device=slug,
            revision=number,
            runtime=profile.runtime,
            digest=profile.digest,
            origin=origin,
            created_at=now,
            profile=profile,
        )

    def _claimdevice_names(self, profile: Profile, now: datetime) -> None:
        slug = profile.device.slug
        for name in dict.fromkeys((slug, *map(normal_name, profile.device.aliases))):
            owner = self._names.get(name)
            if owner is None:
                if name == slug:
                    self._connection.execute(insert(devices).values(slug=slug, created_at=now))
                else:
                    self._connection.execute(insert(aliases).values(alias=name, device=slug))
                self._names[name] = slug
            elif owner != slug:
                raise _conflict(name, slug, owner)


def _conflict(name: str, slug: str, owner: str) -> ConflictError:
    kind = "a device" if name == owner else "an alias of device"
    if name == slug:
        return ConflictError(
            f"device {slug!r} cannot be made: {name!r} is already {kind} {owner!r}. Give the new "
            f"device another slug, or append the profile to {owner!r}"
        )
    return ConflictError(
        f"alias {name!r} of device {slug!r} is already {kind} {owner!r}. Remove it from the "
        f"aliases of {slug!r}, or append the profile to {owner!r}"
    )


def check_profile(profile: Profile, origin: str) -> None:
    """Refuse what one of the databases could not keep, before anything is written.

    Raises:
        ProfileError: naming the device and what is wrong.
    """
    slug = profile.device.slug
    if origin not in ORIGINS_OF_REVISIONS:
        raise ProfileError(
            f"origin {origin!r} of a revision of {slug!r} is none of "
            f"{', '.join(ORIGINS_OF_REVISIONS)}"
        )
    if not slug or slug != normal_name(slug):
        raise ProfileError(f"device slug {slug!r} must be lower case, without blanks around it")
    if not all(map(normal_name, profile.device.aliases)):
        raise ProfileError(f"device {slug!r} has an alias that is empty")
    try:
        text = json.dumps(profile_to_json(profile), allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise ProfileError(
            f"the profile of {slug!r} holds a value that JSON cannot: {error}"
        ) from error
    if _NUL.search(text):
        raise ProfileError(f"the profile of {slug!r} holds a text with a NUL character; remove it")
