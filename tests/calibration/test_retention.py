"""How long the last cache keeps what is not used."""

from __future__ import annotations

import numpy as np
import pytest

from latency_service.calibration import retention
from latency_service.calibration.retention import Retention, half_life_s

WAITS_S = (0.0, 1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3)


def after(half_life_s: float) -> dict[float, float]:
    """Readings of 40 us from the cache and 140 us from memory."""
    share = {wait: 1.0 - 1.0 / (1.0 + (wait / half_life_s) ** 2.5) for wait in WAITS_S}
    return {wait: 4e-5 + 1e-4 * lost for wait, lost in share.items()}


@pytest.mark.parametrize("expected", [1e-3, 5.3e-3, 16e-3, 61e-3])
def test_it_is_the_one_that_describes_the_readings(expected: float):
    assert half_life_s(after(expected), 14e-5) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_disturbed_reading_hardly_matters(factor: float):
    readings = after(5.3e-3)
    readings[4e-3] *= factor
    assert half_life_s(readings, 14e-5) == pytest.approx(5.3e-3, rel=0.35)


def test_a_cache_of_ones_own_forgets_nothing():
    assert half_life_s(dict.fromkeys(WAITS_S, 4e-5), 14e-5) == 0.0


def test_without_a_last_cache_there_is_nothing_to_lose():
    assert half_life_s(after(5.3e-3), 4.9e-5) == 0.0


def test_readings_of_all_rounds_count_by_their_median(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retention, "_ALL", 1 << 21)
    monkeypatch.setattr(retention, "_WAITS_S", WAITS_S)
    found = Retention()
    assert found.half_life_s() == 0.0
    paces = iter((1.0, 3.0, 1.0))
    for pace in paces:
        # after each wait three readings that fill the caches and one that counts, last from memory
        taken = [s for wait in WAITS_S for s in (1.0, 1.0, 1.0, pace * after(5.3e-3)[wait])]
        answers = iter([*taken, pace * 14e-5])
        monkeypatch.setattr(Retention, "_read", lambda _, answers=answers: next(answers))
        monkeypatch.setattr(np, "copyto", lambda *_: None)
        found.round()
        assert next(answers, None) is None
    assert found.half_life_s() == pytest.approx(5.3e-3, rel=0.02)


def test_a_reading_on_this_machine():
    found = Retention()
    found.round()
    assert 0.0 <= found.half_life_s() <= 0.2
