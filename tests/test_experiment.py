"""The slides' experiment: FLOPs tell the latency on P100, and do not on V100."""

from pathlib import Path

import pytest

from examples.flops_against_latency import correlations, draw, experiment


def test_flops_track_latency_on_p100_and_not_on_v100() -> None:
    flops, latency_s = experiment(count=5000)

    assert latency_s.shape == (5000, 2)
    on_p100, on_v100 = correlations(flops, latency_s)
    assert on_p100 >= 0.95
    assert on_v100 <= 0.85


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'latency-service[figures]'")
    flops, latency_s = experiment(count=50)

    draw(flops, latency_s, tmp_path / "figure.png")

    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
