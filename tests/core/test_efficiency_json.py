import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from latency_service.core.efficiency import Efficiency, Layout
from latency_service.core.efficiency_json import efficiency_from_json, efficiency_to_json
from latency_service.core.errors import ProfileError
from latency_service.core.family import FamilyModel
from latency_service.core.features import features_of
from latency_service.core.profile import (
    ComputeRate,
    Device,
    FusionRules,
    Memory,
    Profile,
    profile_from_json,
    profile_to_json,
)

FEATURES = tuple(features_of(True, 1))[:2]
MODEL = FamilyModel(
    fixed_s=1e-6, flops_per_s=5e10, bytes_per_s=7e9, units=1, features=FEATURES,
    lengths=(1.5, 2.0), points=((0.1, 0.2), (0.3, 0.4), (0.5, 0.6)), weights=(0.1, -0.2, 0.3),
    mean=0.01, spread=0.03, median_error=0.02, samples=17, block=16, alignment=4,
    parts={"steps": 7e-7, "reads": 29e-12},
)  # fmt: skip
EFFICIENCY = Efficiency(
    families={"float32 MatMul": MODEL, "float32 Relu": replace(MODEL, flops_per_s=None,
              features=(), lengths=(), points=(), weights=())},
    dispatch_s=3e-7, levels=((32768.0, 9e10), (1e8, 1e10)), channel_step=16, shared_spread=0.02,
    merged={"float32 Conv Relu": 1e-11}, slow_runs={"masked": 7e-8, "product": 4e-8},
    layout=Layout(16, 4, ("Conv",), ("Relu", "Add")),
    source="17 samples",
)  # fmt: skip
PROFILE = Profile(
    Device("board", "Board", "nobody", "cpu"),
    "onnxruntime-cpu-1-thread",
    Memory(11e9, "measured", "a test"),
    (ComputeRate("float32", "float32", 5e10, "measured", "a test", True),),
    FusionRules(fold=("BatchNormalization",), patterns=("Gelu",)),
    EFFICIENCY,
)


def test_an_efficiency_model_survives_json() -> None:
    document = json.loads(json.dumps(efficiency_to_json(EFFICIENCY)))

    assert efficiency_from_json(document, "here") == EFFICIENCY


def test_what_the_caches_save_survives_json() -> None:
    model = replace(MODEL, cached_s_per_byte=4e-11, measured_cached=True, nearby_s_per_byte=3e-11)
    model = replace(
        model, cached_bytes=8e6, cached_rows=64.0, panel=16, packing=43.0, way_flops=(7.0, 1.0, 3.0)
    )
    whole = replace(
        EFFICIENCY, families={"float32 MatMul": model}, near_bytes=2e6, near_fixed=0.1, kept_s=6e-3,
        own_bytes=1e6, slower=-0.02,
    )  # fmt: skip
    document = json.loads(json.dumps(efficiency_to_json(whole)))

    assert efficiency_from_json(document, "here") == whole


def test_only_a_model_on_blocks_may_tell_its_ways() -> None:
    document = json.loads(json.dumps(efficiency_to_json(EFFICIENCY)))
    row = document["families"]["float32 MatMul"]
    row["features"][0] = "way"
    again = efficiency_from_json(document, "here").families["float32 MatMul"]
    assert again.features[0] == "way"
    row["block"] = 0
    with pytest.raises(ProfileError, match=r"features.*way"):
        efficiency_from_json(document, "here")


def test_older_revisions_are_read_without_what_is_gone() -> None:
    document = {**efficiency_to_json(EFFICIENCY), "near_s": 2e-5, "kept_bytes": 6e7}

    assert efficiency_from_json(document, "here") == EFFICIENCY


def test_a_calibrated_profile_survives_json_with_its_digest() -> None:
    again = profile_from_json(json.loads(json.dumps(profile_to_json(PROFILE))))

    assert again == PROFILE
    assert again.digest == PROFILE.digest


def test_the_digest_covers_every_number_of_the_model() -> None:
    assert PROFILE.digest == replace(PROFILE).digest
    family = replace(MODEL, weights=(0.1, -0.2, 0.300001))
    for other in (
        replace(EFFICIENCY, families={**EFFICIENCY.families, "float32 MatMul": family}),
        replace(EFFICIENCY, dispatch_s=4e-7),
        replace(EFFICIENCY, layout=None),
    ):
        assert replace(PROFILE, efficiency=other).digest != PROFILE.digest


def test_a_profile_without_a_model_has_the_document_that_it_always_had() -> None:
    plain = replace(PROFILE, efficiency=None, fusion=None)

    assert sorted(profile_to_json(plain)) == ["compute", "device", "fusion", "memory", "runtime"]


def test_what_a_runtime_merges_survives_json_whatever_it_is_called() -> None:
    lists: dict[str, Any] = {name: (f"{name} rule",) for name in FusionRules.__dataclass_fields__}
    lists |= {"origin": "measured", "source": "a test"}
    profile = replace(PROFILE, fusion=FusionRules(**lists))

    assert profile_from_json(profile_to_json(profile)).fusion == profile.fusion


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("families",), [], r"efficiency\.families"),
        (("families", "float32 MatMul", "fixed_s"), -1.0, r"MatMul'\]\.fixed_s"),
        (("families", "float32 MatMul", "fixed_s"), "1", r"MatMul'\]\.fixed_s"),
        (("families", "float32 MatMul", "mean"), float("nan"), r"MatMul'\]\.mean"),
        (("families", "float32 MatMul", "weights", 1), float("inf"), r"\.weights\[1\]"),
        (("families", "float32 MatMul", "weights", 1), True, r"\.weights\[1\]"),
        (("families", "float32 MatMul", "points", 2, 0), None, r"\.points\[2\]\[0\]"),
        (("families", "float32 MatMul", "points", 2), [0.1], "as many lengths and columns"),
        (("families", "float32 MatMul", "weights"), [0.1], "as many weights as points"),
        (("families", "float32 MatMul", "lengths", 0), 0.0, "lengths must be positive"),
        (("families", "float32 MatMul", "features", 0), "colour", r"\.features.*colour"),
        (("families", "float32 MatMul", "speed"), 1.0, r"unknown field .*speed"),
        (("families", "float32 MatMul", "block"), -16, r"MatMul'\]\.block"),
        (("families", "float32 MatMul", "parts", "steps"), -1.0, r"\.parts\['steps'\]"),
        (("families", "float32 MatMul", "parts", "limbs"), 1.0, r"\.parts must be by .*limbs"),
        (("families", "float32 MatMul", "alignment"), 0, r"needs an alignment"),
        (("families", "float32 MatMul", "way_flops"), [1.0, 2.0], r"way_flops must be 3 numbers"),
        (("families", "float32 MatMul", "way_flops"), [2.0, 3.0, 7.0], r"one of them 1; it is"),
        (("families", "float32 MatMul", "way_flops"), [1.0, -3.0, 7.0], r"no negative numbers"),
        (("families", "float32 MatMul", "way_flops"), 2.0, r"way_flops must be a list of numbers"),
        (("levels",), [], r"efficiency\.levels"),
        (("levels", 0), [1.0], r"efficiency\.levels"),
        (("levels", 0, 1), 0.0, r"efficiency\.levels\[0\]\[1\]"),
        (("channel_step",), 0, r"efficiency\.channel_step"),
        (("merged", "float32 Conv Relu"), -1e-11, r"efficiency\.merged"),
        (("slow_runs", "masked"), -7e-8, r"efficiency\.slow_runs\['masked'\]"),
        (("slow_runs", "moon"), 7e-8, r"slow_runs must be by masked, subnormal, product"),
        (("layout", "block"), 0, r"efficiency\.layout\.block"),
        (("layout", "keeps"), "Relu", r"efficiency\.layout\.keeps"),
        (("shared_spread",), None, r"efficiency\.shared_spread"),
    ],
)
def test_a_malformed_model_is_refused_by_field(path, value: Any, field: str) -> None:
    document = json.loads(json.dumps(profile_to_json(PROFILE)))
    target = document["efficiency"]
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value

    with pytest.raises(ProfileError, match=field) as caught:
        profile_from_json(document, "board.json")
    assert "board.json" in str(caught.value)


def test_every_field_of_the_model_is_needed_or_has_a_default() -> None:
    document = json.loads(json.dumps(efficiency_to_json(EFFICIENCY)))
    for key in document:
        left = copy.deepcopy(document)
        del left[key]
        if key in ("merged", "slow_runs", "layout", "source"):
            efficiency_from_json(left, "here")
        else:
            with pytest.raises(ProfileError, match=key):
                efficiency_from_json(left, "here")


def test_the_digest_of_a_profile_is_computed_once() -> None:
    profile = replace(PROFILE)

    assert profile.digest is profile.digest
