"""Where a calibration goes: this installation's database, or a server's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from latency_service.core.errors import UnknownDeviceError
from latency_service.core.profile import Device, Profile
from latency_service.storage.engine import shown
from latency_service.usecases import devices
from latency_service.usecases.workbench import Workbench


class Known(NamedTuple):
    """A device that the destination has.

    Attributes:
        sheet: its data-sheet profile; None where it was only ever measured.
    """

    device: Device
    sheet: Profile | None


class Appended(NamedTuple):
    """A revision at its destination.

    Attributes:
        created: whether it is new; False: the same profile was there already.
        where: the destination, for people.
    """

    device: str
    revision: int
    runtime: str
    digest: str
    created: bool
    where: str


class Destination(Protocol):
    """Where devices are looked up and revisions appended."""

    @property
    def options(self) -> str:
        """What the command line says to get here, secrets left out."""
        ...

    def check(self) -> None:
        """Find out whether appending will be possible, before anything is measured."""
        ...

    def devices(self) -> list[Device]:
        """All devices."""
        ...

    def find(self, name: str) -> Known | None:
        """A device by name or alias; None if there is none."""
        ...

    def latest(self, device: str, runtime: str) -> Profile | None:
        """The latest measured profile of a device for a runtime; None if there is none."""
        ...

    def append(
        self,
        profile: Profile,
        origin: str,
        samples: Sequence[Mapping[str, Any]],
        source: str | None,
    ) -> Appended:
        """Append a revision with its samples: all of it or nothing."""
        ...


class Database:
    """This installation's own database."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.options = ""

    def check(self) -> None:
        """Ask the database something.

        Raises:
            DatabaseError: if it cannot be used.
        """
        self.bench.profiles.epoch()

    def devices(self) -> list[Device]:
        """All devices."""
        catalogue = self.bench.catalogue()
        return [catalogue.default(slug).profile.device for slug in catalogue.devices()]

    def find(self, name: str) -> Known | None:
        """A device by name or alias; None if there is none."""
        catalogue = self.bench.catalogue()
        try:
            runtimes = catalogue.runtimes(name)
        except UnknownDeviceError:
            return None
        if "ideal" in runtimes:
            sheet = runtimes["ideal"].profile
            return Known(sheet.device, sheet)
        return Known(catalogue.default(name).profile.device, None)

    def latest(self, device: str, runtime: str) -> Profile | None:
        """The latest measured profile of a device for a runtime; None if there is none."""
        try:
            past = self.bench.profiles.history(device)
        except UnknownDeviceError:
            return None
        own = (r.profile for r in past if r.runtime == runtime and r.origin == "measured")
        return next(own, None)

    def append(
        self,
        profile: Profile,
        origin: str,
        samples: Sequence[Mapping[str, Any]],
        source: str | None,
    ) -> Appended:
        """Append a revision with its samples, in one transaction."""
        slug = profile.device.slug
        revision, created = devices.append(self.bench, slug, profile, origin, samples, source)
        where = shown(self.bench.engine.url)
        return Appended(slug, revision.revision, revision.runtime, revision.digest, created, where)
