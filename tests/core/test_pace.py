"""Samples of a machine whose pace changes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_service.core.errors import SampleError
from latency_service.core.pace import at_one_pace, pace_spread, usual_reference_s
from latency_service.core.sample import Sample, Workload, sample_from_json, sample_to_json

RELU = Workload("Relu", ((7, 11),), outputs=((7, 11),))
# more than count as measured at one time
LONG = 97


def sample(latency_s: float, reference_s: float | None) -> Sample:
    return Sample(RELU, latency_s, (latency_s, 2 * latency_s), False, latency_s / 2, reference_s)


def test_kernels_follow_half_of_the_references_pace() -> None:
    usual, slow = [sample(3e-5, 1e-4)] * 5 * LONG, [sample(3e-5, 1.21e-4)] * 3 * LONG
    paced = at_one_pace([*usual, *slow, *usual])

    assert paced[0] == usual[0]
    middle = paced[len(usual) + len(slow) // 2]
    assert middle.latency_s == pytest.approx(3e-5 / 1.1)
    assert middle.rounds_s == pytest.approx((3e-5 / 1.1, 6e-5 / 1.1))
    assert middle.cached_s == pytest.approx(1.5e-5 / 1.1)


def test_a_reference_that_was_held_up_tells_nothing() -> None:
    usual, held_up = [sample(3e-5, 1e-4)] * LONG, [sample(3e-5, 1.9e-4)] * 24
    samples = [*usual, *held_up, *usual]

    assert at_one_pace(samples) == tuple(samples)
    assert usual_reference_s(samples) == 1e-4


def test_two_paces_are_half_as_far_apart_as_their_references() -> None:
    quick, slow = [sample(3e-5, 1.00e-4)] * 5 * LONG, [sample(3e-5, 1.21e-4)] * 5 * LONG
    assert pace_spread([*quick, *slow]) == pytest.approx(math.log(1.1) / 2)
    assert pace_spread(slow) == 0
    assert pace_spread([sample(3e-5, None)]) == 0
    # what comes and goes within a batch is not the machine's pace
    assert pace_spread([*slow[:24], *quick[:72]] * 9) == 0
    # no clock changes by half for long: something else had the processor
    assert pace_spread([*quick, *[sample(4.5e-5, 1.5e-4)] * 5 * LONG]) == 0


def test_recordings_without_a_reference_stay_as_they_are() -> None:
    recorded = sample(3e-5, None)
    assert at_one_pace([recorded, recorded]) == (recorded, recorded)
    slow = [sample(5e-5, 1.21e-4)] * LONG
    mixed = [*[sample(5e-5, 1e-4)] * 3 * LONG, recorded, *slow, recorded, *slow]
    paced = at_one_pace(mixed)
    assert [row for row, was in zip(paced, mixed, strict=True) if was is recorded] == [recorded] * 2
    assert at_one_pace([]) == ()


@given(st.lists(st.floats(1e-5, 1e-3), min_size=1, max_size=400))
def test_no_pace_is_beyond_those_of_the_references(references: list[float]) -> None:
    usual = usual_reference_s([sample(3e-5, r) for r in references])
    assert usual is not None
    for paced in at_one_pace([sample(3e-5, r) for r in references]):
        factor = paced.latency_s / 3e-5
        assert factor >= math.sqrt(usual / max(references)) * (1 - 1e-9)
        assert factor <= math.sqrt(usual / min(references)) * (1 + 1e-9)


def test_a_recording_keeps_the_reference() -> None:
    kept = sample(3e-5, 1.3e-4)
    assert sample_from_json(sample_to_json(kept)) == kept


@pytest.mark.parametrize("value", [0, -1e-4, "1", True, float("inf")])
def test_an_impossible_reference_is_named(value: object) -> None:
    row = sample_to_json(sample(3e-5, None)) | {"reference_s": value}
    with pytest.raises(SampleError, match="reference_s must be a positive number"):
        sample_from_json(row)
