"""`validate`: networks run here, beside what a profile predicts of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import ModelProto, TensorProto, helper, save

from latency_service.core.profile import Device, profile_to_json
from latency_service.core.units import format_seconds
from latency_service.usecases.fitted import revision_profile
from tests.calibration.builders import measurement
from tests.cli.conftest import Run

DEVICE = Device("abacus-5", "Abacus 5", "nobody", "cpu")
HERE = "onnxruntime-cpu-1-thread"


def perceptron() -> ModelProto:
    """Two products and what stands between them, over a batch that is left open."""
    learned = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, [0.01] * (shape[0] * shape[1]))
        for name, shape in (("v", (37, 61)), ("w", (61, 13)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 37])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 13])],
        learned,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "perceptron.onnx"
    save(perceptron(), path)
    return path


@pytest.fixture
def calibrated(run: Run, tmp_path: Path) -> str:
    """The name of a device that was measured, or so its profile says."""
    beside = tuple(replace(sample, reference_s=1e-4) for sample in measurement().samples)
    profile, _ = revision_profile(DEVICE, None, measurement(samples=beside))
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(profile_to_json(profile)))
    result = run("devices", "import", file)
    assert result.exit_code == 0, result.stderr
    return DEVICE.slug


def test_predicted_stands_beside_measured(run: Run, calibrated: str, model: Path):
    result = run("validate", model, "-d", calibrated, "--dim", "rows=7", "--json")
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)
    assert row["model"] == str(model)
    assert row["measured_s"] > 0
    assert row["spread_s"] >= 0
    assert row["pace"] > 0
    assert 0 <= row["shared"] <= 1
    assert row["error"] == pytest.approx(row["predicted_s"] / row["measured_s"] - 1)
    assert row["low_s"] < row["predicted_s"] < row["high_s"]
    assert row["inside"] is (row["low_s"] <= row["measured_s"] <= row["high_s"])
    kernels = {part["family"]: part["kernels"] for part in row["families"]}
    assert kernels == {"MatMul/learned": 2, "Relu": 1}
    assert sum(part["predicted_s"] for part in row["families"]) == pytest.approx(row["predicted_s"])


def test_a_table_holds_all_models_and_their_mean_error(run: Run, calibrated: str, model: Path):
    result = run("validate", model, model, "-d", calibrated, "--dim", "rows=7")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("perceptron.onnx") == 4
    assert "mean absolute error" in result.stdout
    assert "MatMul/learned" in result.stdout


@pytest.mark.parametrize(("shared", "told"), [(0.1, False), (0.6, True)])
def test_runs_that_were_not_alone_are_told(
    run: Run,
    calibrated: str,
    model: Path,
    shared: float,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(
        "latency_service.usecases.validate._measure", lambda *_: (31e-6, 1e-6, shared, 1e-4)
    )
    shown = run("validate", model, "-d", calibrated, "--dim", "rows=7").stdout
    assert format_seconds(31e-6) in shown
    assert ("60 % of the runs" in shown) is told


@pytest.mark.parametrize(
    ("reference_s", "told"),
    [(1.01e-4, None), (1.12e-4, "12 % longer than during"), (0.9e-4, "10 % less than during")],
)
def test_a_machine_at_another_pace_is_told(
    run: Run,
    calibrated: str,
    model: Path,
    reference_s: float,
    told: str | None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(
        "latency_service.usecases.validate._measure", lambda *_: (31e-6, 1e-6, 0.0, reference_s)
    )
    shown = " ".join(run("validate", model, "-d", calibrated, "--dim", "rows=7").stdout.split())
    assert told in shown if told else "reference kernel" not in shown


@pytest.mark.parametrize("runtime", [(), ("--runtime", "ideal")])
def test_a_device_that_was_not_calibrated_is_refused(
    refused: Callable[..., str], model: Path, runtime: tuple[str, ...]
):
    assert "calibrate --device v100" in refused("validate", model, "-d", "v100", *runtime)


def test_an_unknown_device_is_named(refused: Callable[..., str], model: Path):
    assert "'abacus-99'" in refused("validate", model, "-d", "abacus-99")


def test_a_profile_of_another_runtime_is_refused(
    run: Run, refused: Callable[..., str], calibrated: str, model: Path
):
    message = refused(
        "validate", model, "-d", calibrated, "--runtime", HERE, "--threads", "2", "--dim", "rows=7"
    )
    assert f"the profile is for {HERE!r}" in message
    assert "'onnxruntime-cpu-2-threads'" in message


def test_a_missing_model_is_named(refused: Callable[..., str], calibrated: str, tmp_path: Path):
    assert str(tmp_path / "none.onnx") in refused(
        "validate", tmp_path / "none.onnx", "-d", calibrated
    )
