import re
from pathlib import Path

import pytest

from latency_service.calibration.report import NetworkPoint, describe, family_rows, write_report
from latency_service.core.errors import CalibrationError
from latency_service.core.profile import ComputeRate, Device, Memory, Profile
from latency_service.core.sample import Sample, Workload
from latency_service.usecases.fitted import revision_profile
from tests.calibration.builders import measurement

DEVICE = Device("abacus", "Abacus <5>", "nobody", "cpu")
SHEET = Profile(
    DEVICE, "ideal", Memory(13e9, "datasheet", "a sheet"),
    (ComputeRate("float32", "float32", 67e9, "datasheet", "a sheet", True),),
)  # fmt: skip
MEASURED = measurement(noise="a neighbour & his drum")
PROFILE, FITS = revision_profile(DEVICE, SHEET, MEASURED)


def test_a_report_needs_no_network_and_shows_everything(tmp_path: Path) -> None:
    page = tmp_path / "report.html"

    networks = [NetworkPoint("tiny-net", 1.1e-3, 1.2e-3, 1.0e-3, 1.4e-3)]
    write_report(page, PROFILE, SHEET, MEASURED, FITS, networks)

    text = page.read_text()
    assert re.findall(r"<(?:script|link)[^>]+(?:src|href)=", text) == []
    assert text.count("<!doctype html>") == 1
    for shown in (
        "Abacus &lt;5&gt;", "onnxruntime-cpu-1-thread", "Abacus 5", "a neighbour &amp; his drum",
        "Operators: predicted", "Error by operator family", "Bandwidth by working set",
        "Rates: measured against the data sheet", "tiny-net", "float32 MatMul",
    ):  # fmt: skip
        assert shown in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_report_without_sheet_and_levels_shows_the_rest(tmp_path: Path) -> None:
    recorded = measurement(levels=(), rates={})
    profile, fits = revision_profile(DEVICE, None, recorded)

    write_report(tmp_path / "report.html", profile, None, recorded, fits)

    text = (tmp_path / "report.html").read_text()
    assert "Error by operator family" in text
    assert "Bandwidth by working set" not in text


def test_errors_are_predicted_by_measured(tmp_path: Path) -> None:
    rows = family_rows(FITS)

    assert [row.samples for row in rows] == [len(row.errors) for row in rows] == [18, 9]
    assert all(-1 < error < 10 for row in rows for error in row.errors)


def test_a_report_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"nowhere.*report\.html"):
        write_report(tmp_path / "nowhere" / "report.html", PROFILE, SHEET, MEASURED, FITS)


def test_a_sample_is_described_by_its_shapes() -> None:
    work = Workload("Conv", ((1, 3, 7, 7), (5, 3, 3, 3)), {"strides": [2, 2]}, merges=("Relu",))

    assert describe(Sample(work, 1e-6)) == "Conv 1x3x7x7, 5x3x3x3 strides [2, 2] + Relu"
