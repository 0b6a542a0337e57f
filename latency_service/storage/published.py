"""Profiles fitted from published measurements, as they are shipped: device_profiles/published/.

One JSON file is one device under one runtime: the profile itself and, beside it, its digest, where
the samples are published, their digest and the error of each operator family. The samples are not
shipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latency_service.core.errors import ProfileError
from latency_service.core.profile import Profile, profile_from_json, profile_to_json
from latency_service.storage.samples import Elsewhere

FOLDER = "published"
_BESIDE = ("digest", "samples_source", "samples_digest", "errors")


@dataclass(frozen=True, slots=True)
class Published:
    """A profile that was fitted from somebody's measurements.

    Attributes:
        samples: where they are published.
        errors: per operator family `median_error` (of samples left out of the fit) and `samples`.
    """

    profile: Profile
    samples: Elsewhere
    errors: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file whose profile has not been looked at yet: that of a known digest need not be.

    Attributes:
        key: (device, runtime, digest) that it says it holds.
    """

    path: Path
    key: tuple[str, str, str]
    document: Mapping[str, Any]

    def read(self) -> Published:
        """The profile, checked.

        Raises:
            ProfileError: naming the file and the field.
        """
        where = str(self.path)
        profile = profile_from_json(
            {name: value for name, value in self.document.items() if name not in _BESIDE}, where
        )
        key = (profile.device.slug, profile.runtime, profile.digest)
        if key != self.key:
            raise ProfileError(
                f"{where}: digest is {self.key[2]}, but the profile's is {profile.digest}. Write "
                "the file with python -m latency_service.cli.published"
            )
        texts = [self.document.get(name) for name in ("samples_source", "samples_digest")]
        for name, text in zip(("samples_source", "samples_digest"), texts, strict=True):
            if not isinstance(text, str) or not text:
                raise ProfileError(f"{where}: {name} must be a text; it is {text!r}")
        errors = self.document.get("errors")
        if not isinstance(errors, Mapping):
            raise ProfileError(f"{where}: errors must be a table by operator family")
        return Published(profile, Elsewhere(str(texts[0]), str(texts[1])), errors)


def published_files(folder: Path) -> list[PublishedFile]:
    """The files of a folder of device profiles; none where it has no folder `published`.

    Raises:
        ProfileError: naming a file that is no JSON, or does not say what it holds.
    """
    found = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ProfileError(f"{path} cannot be read as JSON: {error}") from error
        try:
            key = (document["device"]["slug"], document["runtime"], document["digest"])
        except (KeyError, TypeError):
            raise ProfileError(f"{path} must hold device.slug, runtime and digest") from None
        if not all(isinstance(part, str) for part in key):
            raise ProfileError(f"{path}: device.slug, runtime and digest must be texts")
        found.append(PublishedFile(path, key, document))
    return found


def write_published(folder: Path, found: Published) -> Path:
    """Write a file that `published_files` reads; its path."""
    profile = found.profile
    document = {
        **profile_to_json(profile),
        "digest": profile.digest,
        "samples_source": found.samples.source,
        "samples_digest": found.samples.digest,
        "errors": {name: dict(row) for name, row in found.errors.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{profile.device.slug}.{profile.runtime}.json"
    # one line a support point: a change of a fit is then a readable difference
    path.write_text(_lines(document) + "\n", encoding="utf-8")
    return path


def _lines(value: Any, indent: str = "") -> str:
    """JSON with objects spread over lines, and lists of lists one row a line."""
    deeper = indent + " "
    if isinstance(value, Mapping) and value:
        rows = [f"{json.dumps(key)}: {_lines(v, deeper)}" for key, v in value.items()]
        return "{\n" + ",\n".join(deeper + row for row in rows) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple | Mapping):
        rows = [deeper + _lines(row, deeper) for row in value]
        return "[\n" + ",\n".join(rows) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
