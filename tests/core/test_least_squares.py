"""Seconds of one of each, found in measurements of many."""

import numpy as np
import pytest

from latency_service.core.least_squares import nonnegative_parts

RNG = np.random.default_rng(5)
AMOUNTS = np.exp(RNG.uniform(0.0, 6.0, (83, 3)))


def test_exact_measurements_give_the_parts_back() -> None:
    parts = np.array([3e-6, 7e-9, 11e-12])
    assert nonnegative_parts(AMOUNTS, AMOUNTS @ parts) == pytest.approx(parts, rel=1e-6)


def test_none_is_negative() -> None:
    seconds = AMOUNTS @ np.array([3e-6, 0.0, 7e-6]) / (1.0 + 0.01 * AMOUNTS[:, 1])
    found = nonnegative_parts(AMOUNTS, seconds)
    assert (found >= 0.0).all()
    assert found[1] == 0.0


def test_outliers_pull_little() -> None:
    parts = np.array([3e-6, 7e-6, 11e-6])
    seconds = AMOUNTS @ parts
    seconds[::11] *= 5.0
    assert nonnegative_parts(AMOUNTS, seconds) == pytest.approx(parts, rel=0.1)


def test_what_never_occurs_takes_nothing() -> None:
    amounts = AMOUNTS * np.array([1.0, 0.0, 1.0])
    seconds = amounts @ np.array([3e-6, 0.0, 11e-6])
    assert nonnegative_parts(amounts, seconds) == pytest.approx([3e-6, 0.0, 11e-6], rel=1e-6)
