"""`python -m latency_service.cli.published SAMPLES OUT`: fit the profiles that are shipped.

For maintainers. SAMPLES is a folder of recordings named after their devices, DEVICE.jsonl.gz; OUT
gets one JSON file each, for device_profiles/published/. The recordings are not shipped.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from latency_service.calibration.backends.eager import EAGER
from latency_service.calibration.journal import read_samples
from latency_service.calibration.measurement import Measurement
from latency_service.core.errors import ProfileError
from latency_service.core.fit_settings import Settings
from latency_service.core.profile import Profile
from latency_service.storage.published import Published, write_published
from latency_service.storage.samples import Elsewhere
from latency_service.storage.seeds import read_profiles
from latency_service.usecases.fitted import revision_profile

RUNTIME = "pytorch-eager-cuda"
SOURCE = (
    "measurements published with NeuSight (Lee et al., ASPLOS 2025; github.com/sitar-lab/NeuSight, "
    "MIT licence), PyTorch 2.1 eager, CUDA events including the launch"
)


def main() -> None:
    """Fit every recording of a folder."""
    parser = argparse.ArgumentParser(prog="python -m latency_service.cli.published")
    parser.add_argument("samples", type=Path, help="folder of DEVICE.jsonl.gz")
    parser.add_argument("out", type=Path, help="folder for DEVICE.RUNTIME.json")
    given = parser.parse_args()
    sheets = {p.device.slug: p for p in read_profiles() if p.runtime == "ideal"}
    for path in sorted(given.samples.glob("*.jsonl*")):
        found = fitted(path, sheets)
        print(write_published(given.out, found))
        for name, row in found.errors.items():
            print(f"  {name}: {100 * row['median_error']:.1f} % of {row['samples']:.0f}")


def fitted(path: Path, sheets: dict[str, Profile], source: str = SOURCE) -> Published:
    """The profile of one recording.

    Args:
        sheets: data-sheet profiles by device.

    Raises:
        ProfileError: if the file is not named after a device that has a data sheet.
    """
    slug = path.name.split(".jsonl")[0]
    sheet = sheets.get(slug)
    if sheet is None:
        raise ProfileError(f"{path} is named after no device of device_profiles/")
    units = sheet.device.facts.get("units", {}).get("value", 1)
    measurement = Measurement(
        runtime=RUNTIME,
        samples=tuple(read_samples(path)),
        rates={},
        levels=(),
        dispatch_s=0.0,
        resolution_s=Settings().resolution_s,
        units=int(units),
        fusion=EAGER,
        launches_ahead=True,
    )
    profile, fits = revision_profile(sheet.device, sheet, measurement, "published", source)
    errors = {
        fit.name: {"median_error": round(fit.model.median_error, 4), "samples": fit.model.samples}
        for fit in fits
    }
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    return Published(profile, Elsewhere(source, digest), errors)


if __name__ == "__main__":
    main()
