"""The README's example made small, the same for both frameworks."""

from __future__ import annotations

from types import ModuleType

import pytest

from examples.digits import compare, parse, report


def runs_and_prints_what_it_promises(
    example: ModuleType, service_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prune a narrow network for one epoch and look at the table."""
    words = ["--service", service_url, "--device", "t4", "--also", "p100", "--width", "16"]
    options = parse("", [*words, "--epochs", "1", "--share", "0.97"])
    rows = compare(options, example.networks, example.predicted_s)
    report(rows)

    assert [row["network"] for row in rows] == ["seed network", "GammaLatency", "GammaFlops"]
    for row in rows:
        assert 0.0 <= row["accuracy"] <= 1.0
        assert min(row["measured_s"], row["t4"], row["p100"]) > 0.0
    assert "of the seed's latency" in capsys.readouterr().out
