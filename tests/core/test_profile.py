import json
from dataclasses import replace

import pytest

from latency_service.core.errors import MissingRateError, OptionError, ProfileError
from latency_service.core.profile import (
    ComputeRate,
    Device,
    Memory,
    Profile,
    profile_from_json,
    profile_to_json,
)


def rate(dtype: str, math: str, flops_per_s: float, default: bool = False) -> ComputeRate:
    return ComputeRate(dtype, math, flops_per_s, "derived", "a test", default)


def profile(*rates: ComputeRate) -> Profile:
    return Profile(
        Device("board", "Board", "nobody", "cpu", ("b",)),
        "ideal",
        Memory(11e9, "derived", "a test"),
        rates,
    )


V100_LIKE = profile(
    rate("float32", "float16", 125e12, default=True),
    rate("float32", "float32", 15.7e12),
    rate("float16", "float16", 125e12, default=True),
)


def test_the_default_rate_of_a_dtype_says_what_it_assumes() -> None:
    chosen, assumption = V100_LIKE.rate("float32")

    assert chosen.flops_per_s == 125e12
    assert assumption == (
        "float32 tensors multiplied at the float16 rate (1.25e+14 FLOP/s); "
        "math=float32 gives 1.57e+13"
    )


def test_a_precision_that_is_asked_for_assumes_nothing() -> None:
    chosen, assumption = V100_LIKE.rate("float32", "float32")

    assert chosen.flops_per_s == 15.7e12
    assert assumption is None


def test_a_missing_precision_falls_back_to_the_next_wider_one() -> None:
    chosen, assumption = profile(rate("float32", "float32", 7e12)).rate("float16")

    assert chosen.flops_per_s == 7e12
    assert assumption is not None
    assert "board has no float16 rate" in assumption


def test_int8_falls_back_to_float16_before_float32() -> None:
    device = profile(rate("float32", "float32", 7e12), rate("float16", "float16", 13e12))

    assert device.rate("int8")[0].flops_per_s == 13e12


def test_nothing_falls_back_to_a_narrower_precision() -> None:
    with pytest.raises(MissingRateError, match=r"no compute rate for float32.*int8"):
        profile(rate("int8", "int8", 4e12)).rate("float32")


def test_an_unknown_precision_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match="float33"):
        V100_LIKE.rate("float32", "float33")


def test_the_digest_changes_with_every_number() -> None:
    other = replace(V100_LIKE, memory=replace(V100_LIKE.memory, bytes_per_s=12e9))

    assert V100_LIKE.digest == replace(V100_LIKE).digest
    assert V100_LIKE.digest != other.digest


def test_a_profile_survives_json() -> None:
    text = json.dumps(profile_to_json(V100_LIKE))

    again = profile_from_json(json.loads(text))

    assert again == V100_LIKE
    assert again.digest == V100_LIKE.digest


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("memory", "bytes_per_s"), 0, "memory.bytes_per_s"),
        (("memory", "bytes_per_s"), "fast", "memory.bytes_per_s"),
        (("memory", "bytes_per_s"), float("nan"), "memory.bytes_per_s"),
        (("memory", "origin"), "rumour", "memory.origin"),
        (("memory", "source"), "", "memory.source"),
        (("memory", "speed"), 1, "memory.speed"),
        (("device", "slug"), "My Board", "My Board"),
        (("compute", 0, "flops_per_s"), -1, r"compute\[0\].flops_per_s"),
        (("compute", 0, "dtype"), "float33", r"compute\[0\]"),
        (("compute",), [], "compute"),
        (("device",), None, "device"),
    ],
)
def test_a_malformed_profile_is_refused_by_field(path, value, field: str) -> None:
    document = json.loads(json.dumps(profile_to_json(V100_LIKE)))
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value

    with pytest.raises(ProfileError, match=field):
        profile_from_json(document, "board.toml")


def test_two_rates_for_one_precision_are_refused() -> None:
    document = profile_to_json(profile(rate("int8", "int8", 1.0), rate("int8", "int8", 2.0)))

    with pytest.raises(ProfileError, match="two rates"):
        profile_from_json(document)
