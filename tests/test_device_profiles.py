"""The shipped device profiles: sourced, plausible, and MorphNet's figures to the digit."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from latency_service.core.profile import ORIGINS, Profile
from latency_service.storage.seeds import read_profiles, shipped_profiles_folder

PROFILES = read_profiles()
FILES = sorted(shipped_profiles_folder().glob("*.toml"))
IDEAL = {profile.device.slug: profile for profile in PROFILES if profile.runtime == "ideal"}
MORPHNET = {profile.device.slug: profile for profile in PROFILES if profile.runtime == "morphnet"}

# The accelerator hangs on USB: its bandwidth is the cable's, so its ridge point is far out.
BEHIND_A_CABLE = "coral-edge-tpu-usb"


def test_every_device_has_one_ideal_profile_and_there_are_about_a_hundred() -> None:
    assert 95 <= len(FILES) == len(IDEAL)


def witnesses(table: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every table that holds a number of its own, apart from the device's year."""
    if at != "device" and any(isinstance(v, int | float) for v in table.values()):
        yield at, table
    for key, value in table.items():
        rows = value if isinstance(value, list) else [value]
        for n, row in enumerate(rows):
            if isinstance(row, dict):
                inner = f"{key}[{n}]" if isinstance(value, list) else key
                yield from witnesses(row, f"{at}.{inner}" if at else inner)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_device_profile_names_its_sources(path: Path) -> None:
    rows = list(witnesses(tomllib.loads(path.read_text(encoding="utf-8"))))

    assert {at for at, _ in rows} >= {"memory", "compute[0]"}
    for at, row in rows:
        origin, source = row["origin"], row["source"]
        assert origin in ORIGINS, at
        assert origin not in ("measured", "published"), f"{at}: a sheet measures nothing"
        named = "https://" in source or "http://" in source or "(no address known)" in source
        assert named or origin in ("derived", "recalled"), f"{at}: {source}"
        assert source != "no document seen" or origin in ("derived", "recalled"), at
        if origin == "derived":
            assert any(sign.isdigit() for sign in row["note"]), f"{at}: no formula"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_named_after_its_device(path: Path) -> None:
    assert tomllib.loads(path.read_text(encoding="utf-8"))["device"]["slug"] == path.stem


def test_no_two_devices_share_a_name() -> None:
    names = Counter(name for p in IDEAL.values() for name in {p.device.slug, *p.device.aliases})
    assert [name for name, times in names.items() if times > 1] == []


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: f"{p.device.slug}-{p.runtime}")
def test_rates_and_ridge_points_are_plausible(profile: Profile) -> None:
    assert profile.device.kind in {"gpu", "cpu", "tpu", "npu"}
    assert 4e8 <= profile.memory.bytes_per_s <= 2e13
    for rate in profile.compute:
        assert 1e9 <= rate.flops_per_s <= 1e16
        ridge_flops_per_byte = rate.flops_per_s / profile.memory.bytes_per_s
        most = 10_000 if profile.device.slug == BEHIND_A_CABLE else 3_000
        assert 0.05 <= ridge_flops_per_byte <= most, rate


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: f"{p.device.slug}-{p.runtime}")
def test_every_dtype_names_its_default_rate(profile: Profile) -> None:
    for dtype in {rate.dtype for rate in profile.compute}:
        defaults = [r for r in profile.compute if r.dtype == dtype and r.default]
        assert len(defaults) == 1, dtype


@pytest.mark.parametrize("profile", IDEAL.values(), ids=lambda p: p.device.slug)
def test_narrower_matrix_precisions_are_not_slower(profile: Profile) -> None:
    """A factor beyond these is a slipped unit, or a sparse figure beside a dense one."""
    rates = {(r.dtype, r.math): r.flops_per_s for r in profile.compute}

    for wide, narrow, ratios in (
        (("float16", "float16"), ("float8", "float8"), (1, 2.1)),
        (("bfloat16", "bfloat16"), ("float8", "float8"), (1, 2.1)),
        (("float32", "tfloat32"), ("float16", "float16"), (1, 2.6)),
        (("float32", "float32"), ("float32", "tfloat32"), (1, 17)),
    ):
        if wide in rates and narrow in rates:
            assert ratios[0] <= rates[narrow] / rates[wide] <= ratios[1], (wide, narrow)


def test_facts_are_positive_numbers_in_the_unit_of_their_name() -> None:
    bands = {
        "memory_bytes": (2**28, 2**39),
        "last_level_cache_bytes": (2**17, 2**30),
        "units": (1, 1024),
        "base_clock_hz": (1e8, 6e9),
        "boost_clock_hz": (1e8, 6e9),
        "power_w": (0.5, 1500),
    }
    for profile in IDEAL.values():
        for name, fact in profile.device.facts.items():
            least, most = bands.get(name, (1e9, 1e16))
            assert name in bands or name.startswith("flops_per_s_"), name
            assert least <= fact["value"] <= most, (profile.device.slug, name)


def rates_of(profile: Profile, dtype: str) -> dict[str, float]:
    return {r.math: r.flops_per_s for r in profile.compute if r.dtype == dtype}


def by_name(name: str) -> Profile:
    return next(p for p in IDEAL.values() if name in (p.device.slug, *p.device.aliases))


def test_p100_is_the_pcie_card_that_morphnet_publishes() -> None:
    p100 = by_name("p100")

    assert p100.device.slug == "p100-pcie-16gb"
    assert p100.rate("float32")[0].flops_per_s == 9.3e12
    assert p100.rate("float32")[1] is None
    assert p100.memory.bytes_per_s == 732e9


def test_v100_multiplies_float32_on_its_tensor_cores_by_default() -> None:
    v100 = by_name("v100")

    assert v100.device.slug == "v100-sxm2-16gb"
    assert rates_of(v100, "float32") == {"float16": 125e12, "float32": 15.7e12}
    assert rates_of(v100, "float16") == {"float16": 125e12}
    assert v100.memory.bytes_per_s == 900e9
    rate, assumption = v100.rate("float32")
    assert (rate.math, rate.flops_per_s) == ("float16", 125e12)
    assert assumption is not None
    assert "math=float32 gives 1.57e+13" in assumption


def test_other_nvidia_cards_multiply_float32_in_float32_by_default() -> None:
    for name, own, tensor in (("v100-sxm2-32gb", 15.7e12, 125e12), ("t4", 8.1e12, 65e12)):
        card = by_name(name)
        assert card.rate("float32")[0].flops_per_s == own
        assert card.rate("float32", "float16")[0].flops_per_s == tensor


def test_tpus_multiply_float32_in_bfloat16() -> None:
    tpus = [p for p in IDEAL.values() if p.device.kind == "tpu"]

    assert len(tpus) >= 7
    for tpu in tpus:
        rate, _ = tpu.rate("float32")
        assert (rate.math, rate.flops_per_s) == (
            "bfloat16",
            tpu.rate("bfloat16")[0].flops_per_s,
        )


def test_the_edge_tpu_has_int8_only() -> None:
    assert [(r.dtype, r.math) for r in by_name("edge-tpu").compute] == [("int8", "int8")]


def test_cpu_is_the_generic_placeholder() -> None:
    cpu = by_name("cpu")

    assert cpu.rate("float32")[0].flops_per_s == 2 * 8 * 2 * 3.0e9  # FMA units, lanes, FLOPs, Hz
    assert cpu.memory.origin == "derived"
    assert "placeholder" in (cpu.device.notes or "")


def test_runtime_morphnet_holds_exactly_its_two_numbers() -> None:
    gflops_and_gbs = {  # PEAK_COMPUTE, MEMORY_BANDWIDTH of MorphNet's resource_function.py
        "k80": (8740, 480),
        "p4": (5500, 192),
        "t4": (8100, 300),
        "p100-pcie-16gb": (9300, 732),
        "v100-sxm2-16gb": (125000, 900),
        "tpu-v2-core": (22500, 300),
    }
    assert set(MORPHNET) == set(gflops_and_gbs)
    for slug, (gflops, gbs) in gflops_and_gbs.items():
        (rate,) = MORPHNET[slug].compute
        assert (rate.dtype, rate.math, rate.default) == ("float32", "float32", True)
        assert rate.flops_per_s == gflops * 1e9
        assert MORPHNET[slug].memory.bytes_per_s == gbs * 1e9
        assert MORPHNET[slug].device == IDEAL[slug].device
