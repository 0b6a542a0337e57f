"""Device profiles as files: the shipped folder, and what `devices import` and `export` exchange.

One TOML file is one device: the tables of an ideal profile at the top and, under
`[runtimes.NAME]`, what differs when NAME executes the network, facts about the device among it. See
device_profiles/README.md.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import tomli_w

from latency_service.core.errors import ProfileError
from latency_service.core.profile import Profile, profile_from_json, profile_to_json

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_profiles_folder() -> Path:
    """The folder of profiles that came with this installation.

    Inside the package in an installed wheel, beside it in a checkout.

    Raises:
        ProfileError: if neither is there.
    """
    candidates = (_PACKAGE / "device_profiles", _PACKAGE.parent / "device_profiles")
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ProfileError(
        f"no shipped device profiles: neither {candidates[0]} nor {candidates[1]} is a folder. "
        "Install latency-service again, or set LATENCY_SERVICE_PROFILES_DIRECTORY"
    )


def read_profiles(folder: Path | None = None) -> list[Profile]:
    """Every profile of a folder of TOML files, by file name; a device's ideal profile first.

    Args:
        folder: None is `shipped_profiles_folder()`.

    Raises:
        ProfileError: naming the file and the field; or both files, where two claim one name.
    """
    folder = shipped_profiles_folder() if folder is None else folder
    if not folder.is_dir():
        raise ProfileError(f"{folder} is not a folder of device profiles")
    profiles: list[Profile] = []
    owner: dict[str, Path] = {}
    for path in sorted(folder.glob("*.toml")):
        found = read_profile_file(path)
        device = found[0].device
        for name in (device.slug, *device.aliases):
            if name in owner:
                where = (
                    f"both {owner[name]} and {path}" if owner[name] != path else f"{path}, twice"
                )
                raise ProfileError(f"device name {name!r} is claimed by {where}; remove one")
            owner[name] = path
        profiles += found
    return profiles


def read_profile_file(path: Path) -> list[Profile]:
    """The profiles of one file.

    Args:
        path: `.toml` as in device_profiles/, or `.json` with one profile or a list of them as
            `profile_to_json` gives them.

    Raises:
        ProfileError: naming the file and the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} cannot be read: {error}") from error
    if path.suffix.lower() == ".toml":
        return _profiles_of_toml(text, str(path))
    if path.suffix.lower() == ".json":
        return _profiles_of_json(text, str(path))
    raise ProfileError(f"{path} must end in .toml or .json to be read as device profiles")


def profile_to_toml(profiles: Iterable[Profile]) -> str:
    """The profiles of one device as a TOML file, which `read_profile_file` reads as equal ones.

    The file has one [device]; a runtime whose calibration found other facts keeps its own.

    Raises:
        ProfileError: if they are none, of different devices, or of one runtime twice.
    """
    profiles = sorted(profiles, key=lambda profile: (profile.runtime != "ideal", profile.runtime))
    if not profiles:
        raise ProfileError("no profile to write")
    device = profiles[0].device
    runtimes = [profile.runtime for profile in profiles]
    for profile in profiles:
        if replace(profile.device, facts=device.facts) != device:
            raise ProfileError(
                "one file holds one device: "
                f"the [device] tables of {device.slug!r} ({profiles[0].runtime}) and "
                f"{profile.device.slug!r} ({profile.runtime}) differ"
            )
        if runtimes.count(profile.runtime) > 1:
            raise ProfileError(f"{device.slug!r} has two profiles for runtime {profile.runtime!r}")
    document: dict[str, Any] = {}
    for profile in profiles:
        tables = _without_nulls(profile_to_json(profile))
        described = tables.pop("device")
        if document.setdefault("device", described) != described:
            tables["device"] = {"facts": described.get("facts", {})}
        del tables["runtime"]
        if profile.runtime == "ideal":
            document |= tables
        else:
            document.setdefault("runtimes", {})[profile.runtime] = tables
    text = tomli_w.dumps(document)
    if _profiles_of_toml(text, f"the TOML of {device.slug!r}") != profiles:
        raise ProfileError(
            f"{device.slug!r} holds a value that TOML cannot (a null among its facts?); "
            "export it as JSON"
        )
    return text


def _profiles_of_toml(text: str, where: str) -> list[Profile]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where} is not TOML: {error}") from error
    _check_values(document, where)
    runtimes = document.pop("runtimes", {})
    if not isinstance(runtimes, dict):
        raise ProfileError(f"{where}: runtimes must be a table of tables")
    device = document.get("device")
    profiles = []
    # A device that was only ever measured has no ideal profile, hence no [memory] at the top.
    if set(document) != {"device"} or not runtimes:
        profiles.append(profile_from_json(document, where))
    for runtime, tables in runtimes.items():
        if not isinstance(tables, dict):
            raise ProfileError(f"{where}: runtimes.{runtime} must be a table")
        own = tables.pop("device", {})
        if "runtime" in tables or not isinstance(own, dict) or not {*own} <= {"facts"}:
            raise ProfileError(
                f"{where}: runtimes.{runtime} cannot have a device (but for its facts) or a "
                "runtime of its own; the file's [device] and the table's name say it"
            )
        if runtime in [profile.runtime for profile in profiles]:
            raise ProfileError(f"{where}: runtime {runtime!r} is there twice")
        within = f"{where}: runtimes.{runtime}"
        whole = {**device, **own} if isinstance(device, dict) else device
        profiles.append(profile_from_json({"device": whole, "runtime": runtime, **tables}, within))
    return profiles


def _profiles_of_json(text: str, where: str) -> list[Profile]:
    def refuse(constant: str) -> NoReturn:
        raise ProfileError(f"{where}: {constant} is not a number")

    try:
        document = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ProfileError(f"{where} is not JSON: {error}") from error
    if isinstance(document, dict):
        return [profile_from_json(document, where)]
    if not isinstance(document, list) or not document:
        raise ProfileError(f"{where} must hold a profile or a list of at least one")
    for n, row in enumerate(document):
        if not isinstance(row, dict):
            raise ProfileError(f"{where}: [{n}] must be a profile; it is {row!r}")
    return [profile_from_json(row, f"{where}: [{n}]") for n, row in enumerate(document)]


def _check_values(value: Any, where: str, at: str = "") -> None:
    """Refuse what TOML can say and JSON cannot: dates, inf and nan."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_values(inner, where, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            _check_values(inner, where, f"{at}[{n}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ProfileError(f"{where}: {at} must be a finite number; it is {value}")
    elif not isinstance(value, str | int | float):
        raise ProfileError(f"{where}: {at} must be a text in quotes or a number; it is {value}")


def _without_nulls(value: Any) -> Any:
    """The same tables without the fields that are None: TOML has no null."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(v) for key, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(v) for v in value if v is not None]
    return value
