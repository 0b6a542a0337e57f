import json
from dataclasses import replace

import pytest

from latency_service.calibration.measurement import Rate
from latency_service.core.errors import CalibrationError
from latency_service.core.profile import (
    ComputeRate,
    Device,
    FusionRules,
    Memory,
    Profile,
    profile_from_json,
    profile_to_json,
)
from latency_service.core.sample import sample_from_json, sample_to_json
from latency_service.storage.seeds import profile_to_toml
from latency_service.usecases.fitted import CHANNEL_STEP, refitted, revision_profile
from tests.calibration.builders import measurement, samples

DEVICE = Device("abacus-5", "Abacus 5", "nobody", "cpu", facts={"units": {"value": 7}})
SHEET = Profile(
    DEVICE,
    "ideal",
    Memory(13e9, "datasheet", "a sheet"),
    (
        ComputeRate("float32", "float16", 97e9, "datasheet", "a sheet", True),
        ComputeRate("float32", "float32", 67e9, "datasheet", "a sheet", note="with AVX"),
        ComputeRate("int8", "int8", 131e9, "datasheet", "a sheet", True),
    ),
)


def test_measured_rates_replace_the_sheets_and_name_their_interval() -> None:
    profile, _ = revision_profile(DEVICE, SHEET, measurement())

    own = profile.rate("float32")[0]
    assert (own.flops_per_s, own.origin, own.default) == (59e9, "measured", True)
    assert own.note == "90 % interval 57 GFLOP/s to 61 GFLOP/s"
    assert "Abacus 5" in own.source
    assert (profile.memory.bytes_per_s, profile.memory.origin) == (11e9, "measured")
    assert profile.runtime == "onnxruntime-cpu-1-thread"


def test_the_sheet_stays_beside_what_was_measured() -> None:
    profile, _ = revision_profile(DEVICE, SHEET, measurement())

    facts = profile.device.facts
    assert facts["sheet_bytes_per_s"]["value"] == 13e9
    assert facts["sheet_flops_per_s_float32"] == {
        "value": 67e9, "origin": "datasheet", "source": "a sheet", "note": "with AVX",
    }  # fmt: skip
    assert facts["units"] == {"value": 7}
    assert facts["environment"]["value"] == {"processor": "Abacus 5", "load": [0.5, 0.25]}
    # rates that were not measured are the sheet's, and only the measured one is a default
    assert profile.rate("int8")[0].origin == "datasheet"
    assert [r.math for r in profile.compute if r.dtype == "float32" and r.default] == ["float32"]
    assert profile.rate("float32", "float16")[0].flops_per_s == 97e9


def test_the_efficiency_holds_what_was_measured() -> None:
    profile, fits = revision_profile(DEVICE, SHEET, measurement())

    model = profile.efficiency
    assert model is not None
    assert set(model.families) == {fit.name for fit in fits}
    assert model.levels == ((32768.0, 97e9), (2**27, 11e9))
    assert model.dispatch_s == 3e-7
    assert model.channel_step == 16
    assert profile.fusion == FusionRules(("BatchNormalization",), sequences=("Conv Relu",))
    plain, _ = revision_profile(DEVICE, SHEET, measurement(layout=None, fusion=FusionRules()))
    assert plain.efficiency is not None
    assert plain.efficiency.channel_step == CHANNEL_STEP
    assert plain.fusion is None


@pytest.mark.parametrize(
    ("levels", "expected"),
    [((1, 2, 3), 2.0**20), ((1, 2), 0.0), ((), 0.0)],  # of two, the last may be everybody's
)
def test_the_second_of_three_caches_is_a_cores_own(levels: tuple[int, ...], expected: float):
    caches = [
        {"level": level, "kind": "unified", "bytes": 2 ** (10 * level), "shared_by": level}
        for level in levels
    ]
    caches.append({"level": 2, "kind": "instruction", "bytes": 1, "shared_by": 1})
    run = replace(measurement(), environment={"cpu": {"model": "Abacus 5", "caches": caches}})
    profile, _ = revision_profile(DEVICE, SHEET, run)
    assert profile.efficiency is not None
    assert profile.efficiency.own_bytes == expected
    other, _ = revision_profile(DEVICE, SHEET, replace(run, environment={}))
    assert other.efficiency is not None
    assert other.efficiency.own_bytes == 0.0


def test_a_calibrated_profile_can_be_kept_as_json_and_as_toml() -> None:
    profile, _ = revision_profile(DEVICE, SHEET, measurement(noise="a drum"))

    document = json.loads(json.dumps(profile_to_json(profile), allow_nan=False))
    assert profile_from_json(document).digest == profile.digest
    assert profile_to_toml([profile])


def test_samples_alone_are_fitted_under_the_sheets_rates() -> None:
    recorded = measurement(rates={}, levels=())

    profile, _ = revision_profile(DEVICE, SHEET, recorded, "published", "somebody's paper")

    assert profile.rate("float32")[0] == replace(SHEET.compute[1], default=True)
    assert profile.memory == SHEET.memory
    assert profile.efficiency is not None
    assert "somebody's paper" in profile.efficiency.source
    assert profile.efficiency.levels[0][1] <= 13e9


def test_samples_alone_of_a_new_device_give_its_rates() -> None:
    profile, _ = revision_profile(DEVICE, None, measurement(rates={}, levels=()))

    # two of the eighteen products are large enough to come close to 53e9
    assert profile.rate("float32")[0].flops_per_s == pytest.approx(53e9, rel=0.1)
    assert profile.rate("float32")[0].origin == "measured"
    assert profile.memory.bytes_per_s == pytest.approx(11e9, rel=0.2)


def test_a_new_device_whose_samples_multiply_nothing_has_no_rate() -> None:
    relu = tuple(s for s in samples() if s.workload.op == "Relu")

    with pytest.raises(CalibrationError, match="no operator that multiplies"):
        revision_profile(DEVICE, None, measurement(rates={}, levels=(), samples=relu))
    revision_profile(DEVICE, None, measurement(rates={"float32": Rate(1.0, 1.0, 1.0)}))


def test_the_same_samples_give_the_same_profile_again() -> None:
    profile, _ = revision_profile(DEVICE, SHEET, measurement())
    rows = json.loads(json.dumps([sample_to_json(s) for s in samples()], sort_keys=True))

    again, _ = refitted(profile, [sample_from_json(row) for row in rows])

    assert again.digest == profile.digest


def test_what_whole_networks_said_outlives_another_fit() -> None:
    plain, _ = revision_profile(DEVICE, SHEET, measurement())
    assert plain.efficiency is not None
    slowed = replace(plain, efficiency=plain.efficiency.slowed(0.03))
    stored = profile_from_json(json.loads(json.dumps(profile_to_json(slowed))), "a profile")
    again, _ = refitted(stored, samples())

    assert again.efficiency is not None
    assert again.efficiency.slower == 0.03
    for name, model in plain.efficiency.families.items():
        assert again.efficiency.families[name].mean == pytest.approx(model.mean + 0.03)


def test_a_data_sheet_cannot_be_fitted_again() -> None:
    with pytest.raises(CalibrationError, match="calibrate the device"):
        refitted(SHEET, samples())
