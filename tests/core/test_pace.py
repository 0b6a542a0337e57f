"""Samples of a machine whose pace changes."""

import math

import pytest

from latency_service.core.errors import SampleError
from latency_service.core.sample import (
    Sample,
    Workload,
    at_one_pace,
    pace_spread,
    sample_from_json,
    sample_to_json,
)

RELU = Workload("Relu", ((7, 11),), outputs=((7, 11),))


def sample(latency_s: float, reference_s: float | None) -> Sample:
    return Sample(RELU, latency_s, (latency_s, 2 * latency_s), False, latency_s / 2, reference_s)


def test_the_median_is_the_machines_pace() -> None:
    quick, slow = [sample(3e-5, 1.00e-4)] * 3, [sample(3.3e-5, 1.10e-4)] * 7

    for paced in at_one_pace([*slow, *quick]):
        assert paced.latency_s == pytest.approx(3.3e-5)
        assert paced.rounds_s == pytest.approx((3.3e-5, 6.6e-5))


def test_two_paces_are_as_far_apart_as_they_are() -> None:
    quick, slow = sample(3e-5, 1.00e-4), sample(3.3e-5, 1.10e-4)
    assert pace_spread([quick, slow] * 50) == pytest.approx(math.log(1.1) / 2)
    assert pace_spread([slow] * 100) == 0
    assert pace_spread([sample(3e-5, None)]) == 0
    # no clock changes by half: something else had the processor
    assert pace_spread([quick, sample(4.5e-5, 1.5e-4)] * 50) == 0


def test_of_a_reference_that_was_held_up_the_median_counts() -> None:
    usual, slow, fast = at_one_pace([sample(3e-5, 1e-4), sample(6e-5, 2e-4), sample(1e-5, 0.8e-4)])

    assert usual == sample(3e-5, 1e-4)
    assert slow.latency_s == pytest.approx(3e-5)
    assert slow.rounds_s == pytest.approx((3e-5, 6e-5))
    assert slow.cached_s == pytest.approx(1.5e-5)
    assert fast.latency_s == pytest.approx(1.25e-5)


def test_recordings_without_a_reference_stay_as_they_are() -> None:
    recorded = sample(3e-5, None)
    assert at_one_pace([recorded, recorded]) == (recorded, recorded)
    assert at_one_pace([recorded, sample(5e-5, 1e-4)])[0] == recorded


def test_a_recording_keeps_the_reference() -> None:
    kept = sample(3e-5, 1.3e-4)
    assert sample_from_json(sample_to_json(kept)) == kept


@pytest.mark.parametrize("value", [0, -1e-4, "1", True, float("inf")])
def test_an_impossible_reference_is_named(value: object) -> None:
    row = sample_to_json(sample(3e-5, None)) | {"reference_s": value}
    with pytest.raises(SampleError, match="reference_s must be a positive number"):
        sample_from_json(row)
