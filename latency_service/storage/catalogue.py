"""The latest profiles in memory, so that answering a request needs no SQL."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from latency_service.core.errors import UnknownDeviceError, UnknownRevisionError
from latency_service.core.profile import Revision

_ACCELERATORS = {"gpu", "npu", "tpu"}
# "onnxruntime-cpu-1-thread" has one, "onnxruntime-cpu-11-threads" eleven, "pytorch-eager-cuda"
# does not say.
_THREADS = re.compile(r"(?<![0-9])([0-9]+)-threads?(?![a-z0-9])")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The latest revision of every device and runtime at one moment; never changes.

    It is out of date once `ProfileRepository.epoch()` is no longer `epoch`.

    Attributes:
        epoch: of the database when this was read.
        names: the device's slug by each slug and alias, lower case.
        by_device: slug to runtime to its latest revision; slugs sorted, runtimes in the order in
            which the device got them.
        defaults: slug to the revision that a request without a runtime gets.
    """

    epoch: int
    names: Mapping[str, str]
    by_device: Mapping[str, Mapping[str, Revision]]
    defaults: Mapping[str, Revision]

    def devices(self) -> tuple[str, ...]:
        """Every slug, sorted."""
        return tuple(self.by_device)

    def resolve(self, name: str) -> str:
        """The slug of a device by its slug or an alias, in any case.

        Raises:
            UnknownDeviceError: with the names that come close.
        """
        slug = self.names.get(normal_name(name))
        if slug is None:
            raise unknown_device(name, self.names)
        return slug

    def aliases(self, device: str) -> tuple[str, ...]:
        """The further names of a device, sorted."""
        slug = self.resolve(device)
        return tuple(sorted(name for name, of in self.names.items() if of == slug and name != slug))

    def runtimes(self, device: str) -> Mapping[str, Revision]:
        """The latest revision of each runtime of a device.

        Raises:
            UnknownDeviceError: if there is none of that name.
        """
        return self.by_device[self.resolve(device)]

    def latest(self, device: str, runtime: str) -> Revision:
        """The latest revision for a runtime.

        Raises:
            UnknownDeviceError: if there is no device of that name.
            UnknownRevisionError: if the device has none for that runtime.
        """
        slug = self.resolve(device)
        found = self.by_device[slug].get(runtime)
        if found is None:
            raise unknown_runtime(slug, runtime, self.by_device[slug])
        return found

    def default(self, device: str) -> Revision:
        """The revision that a request without a runtime gets.

        Raises:
            UnknownDeviceError: if there is no device of that name.
        """
        return self.defaults[self.resolve(device)]

    def default_runtime(self, device: str) -> str:
        """The runtime that a request without one gets.

        Raises:
            UnknownDeviceError: if there is no device of that name.
        """
        return self.default(device).runtime


def default_revision(latest: Mapping[str, Revision], measured: Iterable[Revision]) -> Revision:
    """What a request without a runtime gets.

    The latest measurement of this installation that a single stream of work explains: of one
    thread, or of an accelerator. Without one the data sheet, and without that the first runtime.
    Published fits never displace it, nor do multi-thread measurements.

    Args:
        latest: the latest revision by runtime, the oldest runtime first.
        measured: revisions of origin "measured", at least the latest of each runtime.
    """
    own = [revision for revision in measured if _may_be_default(revision)]
    if own:
        return max(own, key=lambda revision: revision.revision)
    return latest["ideal"] if "ideal" in latest else next(iter(latest.values()))


def _may_be_default(revision: Revision) -> bool:
    threads = _THREADS.search(revision.runtime)
    if threads is not None:
        return threads[1] == "1"
    return revision.profile.device.kind in _ACCELERATORS


def normal_name(name: str) -> str:
    """The form in which device names are kept and compared."""
    return name.strip().lower()


def unknown_device(name: str, names: Iterable[str]) -> UnknownDeviceError:
    """The error for a name that no device has, with those that come close."""
    near = difflib.get_close_matches(normal_name(name), sorted(names), n=3, cutoff=0.5)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    return UnknownDeviceError(
        f"no device is called {name.strip()!r}.{guess} List the devices with GET /v1/devices or "
        "`latency-service devices list`; `latency-service calibrate` adds one"
    )


def unknown_runtime(device: str, runtime: str, known: Iterable[str]) -> UnknownRevisionError:
    """The error for a runtime that a device has no profile for."""
    return UnknownRevisionError(
        f"device {device!r} has no profile for runtime {runtime!r}; it has: {', '.join(known)}. "
        "Name one of these, or none for the default"
    )
