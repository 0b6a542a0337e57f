import json
from dataclasses import replace
from pathlib import Path

import pytest

from latency_service.core.errors import ProfileError
from latency_service.settings import Settings
from latency_service.storage.published import Published, published_files, write_published
from latency_service.storage.samples import Elsewhere
from latency_service.storage.seeds import read_profiles, shipped_profiles_folder
from latency_service.usecases import open_workbench
from latency_service.usecases.devices import samples
from latency_service.usecases.fitted import revision_profile
from tests.calibration.builders import measurement

SHEETS = {p.device.slug: p for p in read_profiles() if p.runtime == "ideal"}
FITTED = ("p100-pcie-16gb", "v100-sxm2-16gb")


def published(slug: str, **changes: object) -> Published:
    whole = measurement(runtime="pytorch-eager-cuda", rates={}, levels=(), **changes)
    sheet = SHEETS[slug]
    profile, _ = revision_profile(sheet.device, sheet, whole, "published", "somebody's paper")
    errors = {"float32 MatMul": {"median_error": 0.05, "samples": 18}}
    return Published(profile, Elsewhere("somebody's paper", "sha256:7a"), errors)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped data sheets of two devices, and a published fit of each."""
    found = tmp_path / "profiles"
    found.mkdir()
    for slug in FITTED:
        name = f"{slug}.toml"
        (found / name).write_text((shipped_profiles_folder() / name).read_text())
        write_published(found / "published", published(slug))
    return found


def settings(folder: Path) -> Settings:
    return Settings(data_directory=folder.parent, profiles_directory=folder)


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    found = published("v100-sxm2-16gb")

    path = write_published(tmp_path / "published", found)

    assert path.name == "v100-sxm2-16gb.pytorch-eager-cuda.json"
    (file,) = published_files(tmp_path)
    assert file.read() == found
    assert file.read().profile.digest == found.profile.digest


def test_published_fits_are_loaded_once_beside_the_data_sheets(folder: Path) -> None:
    bench = open_workbench(settings(folder))
    for slug in FITTED:
        revision = bench.profiles.latest(slug, "pytorch-eager-cuda")
        assert revision.origin == "published"
        assert revision.profile == published(slug).profile
        assert samples(bench, slug, str(revision.revision)) == {
            "samples": [], "source": "somebody's paper", "digest": "sha256:7a",
        }  # fmt: skip
    before = bench.profiles.epoch()
    bench.close()

    again = open_workbench(settings(folder))
    assert again.profiles.epoch() == before
    again.close()


@pytest.mark.parametrize(
    ("name", "flops_per_s", "bytes_per_s"), [("p100", 9.3e12, 732e9), ("v100", 125e12, 900e9)]
)
def test_without_a_runtime_the_slides_table_stays(
    folder: Path, name: str, flops_per_s: float, bytes_per_s: float
) -> None:
    bench = open_workbench(settings(folder))
    default = bench.catalogue().default(name)
    bench.close()

    assert default.runtime == "ideal"
    assert default.profile.rate("float32")[0].flops_per_s == flops_per_s
    assert default.profile.memory.bytes_per_s == bytes_per_s
    assert default.profile.efficiency is None


def test_a_new_fit_is_a_further_revision(folder: Path) -> None:
    open_workbench(settings(folder)).close()
    better = published("v100-sxm2-16gb", dispatch_s=1e-6)
    write_published(folder / "published", better)

    bench = open_workbench(settings(folder))

    past = [r for r in bench.profiles.history("v100") if r.runtime == "pytorch-eager-cuda"]
    bench.close()
    assert [r.digest for r in past] == [
        better.profile.digest,
        published("v100-sxm2-16gb").profile.digest,
    ]


def test_a_file_that_was_edited_is_refused_by_name(folder: Path) -> None:
    path = folder / "published" / "v100-sxm2-16gb.pytorch-eager-cuda.json"
    document = json.loads(path.read_text())
    for changed, complaint in (
        (document | {"digest": "sha256:00"}, "digest"),
        (document | {"samples_source": ""}, "samples_source"),
        (document | {"errors": 3}, "errors"),
        ({"device": 3}, "must hold device.slug"),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(ProfileError, match=complaint) as caught:
            published_files(folder)[-1].read()
        assert path.name in str(caught.value)
    path.write_text("{")
    with pytest.raises(ProfileError, match="JSON"):
        published_files(folder)


def test_a_published_fit_of_a_name_that_is_taken_waits(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = published("v100-sxm2-16gb")
    device = replace(found.profile.device, slug="impostor", aliases=("p100",))
    write_published(
        folder / "published", replace(found, profile=replace(found.profile, device=device))
    )

    bench = open_workbench(settings(folder))

    assert bench.catalogue().resolve("p100") == "p100-pcie-16gb"
    bench.close()
    assert "impostor was not loaded" in caplog.text


@pytest.mark.parametrize(
    "file", published_files(shipped_profiles_folder()), ids=lambda f: f.path.stem
)
def test_every_shipped_fit_names_its_samples_and_errors(file) -> None:
    found = file.read()

    assert found.samples.digest.startswith("sha256:")
    assert found.profile.efficiency is not None
    assert set(found.errors) == set(found.profile.efficiency.families)
    assert not {r.origin for r in found.profile.compute} & {"measured"}
