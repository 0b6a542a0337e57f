"""The registry, and the contract on every backend that is installed."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest

from latency_service.calibration import backends
from latency_service.calibration.backends import (
    BACKENDS,
    Backend,
    Row,
    open_backend,
)
from latency_service.calibration.backends.onnx_models import BLOCKER, build_model
from latency_service.calibration.backends.onnx_placement import leads
from latency_service.calibration.backends.onnxruntime_accelerator import (
    DeviceSession,
    empty_call_s,
)
from latency_service.calibration.backends.onnxruntime_backend import OnnxRuntime
from latency_service.calibration.workloads import FAMILIES, draw, merged_workloads
from latency_service.core.channels_last import CHANNELS_LAST
from latency_service.core.errors import CalibrationError, MissingExtraError, OptionError
from latency_service.core.patterns import PATTERNS
from latency_service.core.quantised_patterns import SIGNED, SIGNED_ONCE
from latency_service.core.sample import Workload
from tests.contracts.calibration_backend import WORKLOADS, CalibrationBackendContract

POOL = Workload(
    "MaxPool",
    ((1, 64, 12, 12),),
    {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4},
    outputs=((1, 64, 6, 6),),
)


def test_every_backend_of_the_registry_has_its_module():
    for row in BACKENDS.values():
        assert importlib.util.find_spec(row.module) is not None


def test_an_unknown_backend_names_those_there_are():
    with pytest.raises(OptionError, match="choose one of onnxruntime, torch"):
        open_backend("tensorrt")


def test_no_threads_are_refused():
    with pytest.raises(OptionError, match="threads is 0"):
        open_backend("onnxruntime", threads=0)


def test_a_framework_that_is_not_installed_gives_the_command(monkeypatch: pytest.MonkeyPatch):
    row = Row("latency_service.calibration.backends.no_such_module", "torch")
    monkeypatch.setitem(dict(BACKENDS), "torch", row)
    monkeypatch.setattr(backends, "BACKENDS", {"torch": row})
    with pytest.raises(MissingExtraError, match=r"pip install 'latency-service\[torch\]'"):
        open_backend("torch")


class TestOnnxRuntime(CalibrationBackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return open_backend("onnxruntime")

    def test_its_runtime_tells_the_threads(self):
        assert open_backend("onnxruntime").runtime == "onnxruntime-cpu-1-thread"
        assert open_backend("onnxruntime", threads=2).runtime == "onnxruntime-cpu-2-threads"

    def test_an_unknown_provider_names_those_installed(self):
        with pytest.raises(OptionError, match="CPUExecutionProvider"):
            open_backend("onnxruntime", "NoSuchExecutionProvider")

    def test_patterns_and_layout_are_those_of_the_optimised_graph(self, backend: Backend):
        fusion, layout = backend.discover("float32")
        # x times the inverse of a root, as TensorFlow's exporter writes it, stays as it is
        assert {"gelu-divided", "swish"} <= set(fusion.patterns)
        assert set(fusion.patterns) <= {*PATTERNS, SIGNED, SIGNED_ONCE, CHANNELS_LAST} - {"gelu"}
        assert {"Conv Relu", "Conv Add Relu"} <= set(fusion.sequences)
        if layout is None:
            pytest.skip("this processor's kernels keep one layout")
        assert "MaxPool" in layout.converts

    def test_what_the_runtime_merges_is_merged_where_it_is_measured(
        self, backend: Backend, tmp_path: Path
    ):
        rules = backend.discover("float32")[0].sequences
        measured = [work for work in merged_workloads(3, "float32", 1) if work.merges]
        convs = [work for work in measured if work.op == "Conv"]
        merged = [work for work in convs if " ".join(("Conv", *work.merges)) in rules]
        assert ("HardSwish",) in [work.merges for work in merged]
        for work in merged:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
            onnxruntime.InferenceSession(build_model(work, 1, lead=True)[0], options)
            nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
            own = {node.op_type for node in nodes if not node.op_type.startswith("Reorder")}
            assert own <= {*leads("Conv"), BLOCKER, "Conv", "FusedConv"}, work.merges

    def test_a_reorder_is_told_apart_from_the_pooling(self, backend: Backend):
        if backend.discover("float32")[1] is None:
            pytest.skip("this processor's kernels keep one layout")
        prepared = backend.prepare(replace(POOL, inputs=((1, 64, 112, 112),), outputs=()))
        prepared.run()
        (run,) = prepared.finish()
        assert run.to_blocks_s > 0
        assert run.from_blocks_s > 0

    def test_casts_around_a_kernel_are_not_its_own(self, backend: Backend):
        # this build computes in float32 what is stored in float16
        shape = (1, 499, 499)
        wide = Workload("Neg", (shape,), outputs=(shape,))
        for work in (wide, replace(wide, dtype="float16")):
            prepared = backend.prepare(work)
            prepared.run()
            assert len(prepared.finish()) == 1

    @pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
    def test_it_runs_every_family(self, backend: Backend, dtype: str):
        met: set[str] = set()
        for family, work in itertools.islice(draw(5, dtype), 260):
            if family.name not in met:
                met.add(family.name)
                prepared = backend.prepare(work)
                prepared.run()
                assert prepared.finish()[0].kernel_s > 0

    def test_the_accelerators_session_takes_calls_off_and_shares_the_rest(self):
        backend = OnnxRuntime("CPUExecutionProvider", 1)
        assert 0 < empty_call_s(backend) < 1
        model, feeds = build_model(WORKLOADS[1], 3)
        session = DeviceSession(backend, model, feeds, copies=3, call_s=0.0)
        wall = session.run()
        assert session.finish()[0].kernel_s == pytest.approx(wall / 3)

    def test_the_accelerators_session_refuses_what_cannot_run(self):
        with pytest.raises(CalibrationError, match="cannot run the model"):
            DeviceSession(OnnxRuntime("CPUExecutionProvider", 1), b"no model", {})


class TestTorch(CalibrationBackendContract):
    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        torch = pytest.importorskip("torch")
        threads = torch.get_num_threads()
        yield open_backend("torch", "cpu")
        torch.set_num_threads(threads)

    def test_its_runtime_tells_the_device(self, backend: Backend):
        assert backend.runtime == "pytorch-eager-cpu-1-thread"

    def test_an_unknown_device_names_those_there_are(self, backend: Backend):
        with pytest.raises(OptionError, match="cpu"):
            open_backend("torch", "abacus")

    def test_it_computes_what_onnx_says(self, backend: Backend):
        from latency_service.calibration.backends.torch_operators import compute_of

        torch = pytest.importorskip("torch")
        met: set[str] = set()
        for family, work in itertools.islice(draw(7), 260):
            # eager mode adds and normalises in two kernels, and runs none for a view
            others = ("LSTM", "GRU", "SkipLayerNormalization", "Reshape")
            if family.name in met or work.op in others:
                continue
            met.add(family.name)
            compute = compute_of(work)
            assert compute is not None, work.op
            operands = [torch.rand(shape) for shape in work.inputs]
            if work.op == "Where":
                operands[0] = operands[0] > 0.5
            with torch.inference_mode():
                found = compute(operands)
            results = found if isinstance(found, tuple) else (found,)
            assert tuple(tuple(result.shape) for result in results) == work.outputs, work

    @pytest.mark.parametrize("op", ["Conv", "Pow", "MaxPool", "Clip", "InstanceNormalization"])
    def test_its_numbers_are_onnxruntimes(self, backend: Backend, op: str):
        import onnxruntime

        from latency_service.calibration.backends.torch_operators import compute_of

        torch = pytest.importorskip("torch")
        work = next(work for _, work in draw(11) if work.op == op and len(work.inputs[0]) == 4)
        model, feeds = build_model(work, 1)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        expected = session.run(None, feeds)[0]
        operands = []
        for place in range(len(work.inputs)):
            value = feeds.get(f"x{place}_0")
            operands.append(torch.from_numpy(_constant(model, place) if value is None else value))
        compute = compute_of(work)
        assert compute is not None
        np.testing.assert_allclose(compute(operands).numpy(), expected, rtol=2e-3, atol=2e-3)

    def test_it_refuses_what_eager_mode_does_not_have(self, backend: Backend):
        with pytest.raises(CalibrationError, match="no Conv merging Relu"):
            backend.prepare(replace(WORKLOADS[0], merges=("Relu",)))
        with pytest.raises(CalibrationError, match="no Add in int8"):
            backend.prepare(replace(WORKLOADS[2], dtype="int8"))


def _constant(model: bytes, place: int) -> np.ndarray:
    import onnx
    from onnx import numpy_helper

    found = {value.name: value for value in onnx.load_from_string(model).graph.initializer}
    return numpy_helper.to_array(found[f"w{place}_0"]).copy()


def test_what_the_profile_adds_is_what_it_adds_on_a_core_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
):
    found = iter([4.1e-6, 1.9e-6, 3.5e-6, 1.7e-6, 1.8e-6, 3.6e-6, 2.0e-6, 3.2e-6, 2.1e-6, 9.9])
    monkeypatch.setattr(OnnxRuntime, "_measure_added", lambda _: next(found))
    backend = OnnxRuntime("CPUExecutionProvider", threads=1)
    assert backend.added_s == backend.added_s == pytest.approx(1.9e-6)


def test_a_power_with_a_number_is_a_square():
    # networks write nothing else, and runtimes have a kernel of its own for it
    work = Workload("Pow", ((5, 7), ()), learned=(1,), outputs=((5, 7),))
    model, _ = build_model(work, 1)
    (exponent,) = onnx.load_from_string(model).graph.initializer
    assert onnx.numpy_helper.to_array(exponent) == 2.0


@pytest.mark.parametrize("name", ["max pooling", "QLinearAveragePool", "QLinearGlobalAveragePool"])
def test_pools_of_quantised_images_have_their_channels_last(name: str):
    # between quantised convolutions the runtime turns images; plain MaxPool is fifty times slower
    family = next(row for row in FAMILIES if row.name == f"{name}, int8")
    work = replace(family.make(np.random.default_rng(0)), dtype="int8")
    model, feeds = build_model(work, 1)
    n, c, h, w = work.inputs[0]
    assert feeds["x0_0"].shape == (n, h, w, c)
    written = onnxruntime.InferenceSession(model).run(None, feeds)[0].shape
    assert (written[0], written[3], *written[1:3]) == work.outputs[0]
