"""What a workload's runs find in the caches, and where they read and write."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from latency_service.calibration.backends import onnxruntime_session
from latency_service.calibration.backends.onnx_models import build_model
from latency_service.calibration.backends.onnx_placement import (
    is_cold,
    weight_bytes,
    writes_afar,
)
from latency_service.calibration.backends.onnxruntime_backend import OnnxRuntime
from latency_service.calibration.backends.onnxruntime_session import turn_of
from latency_service.core.sample import Workload


def _nodes(work: Workload) -> list[tuple[str, tuple[str, ...]]]:
    graph = onnx.load_from_string(build_model(work, 1, lead=True)[0]).graph
    return [(node.op_type, tuple(node.input)) for node in graph.node]


def test_a_softmax_may_write_over_what_it_reads():
    scores = (2, 7, 13)
    nodes = _nodes(Workload("Softmax", (scores,), {"axis": -1}, outputs=(scores,)))
    # a kernel behind it reads what it wrote; a graph's output would be a place of its own
    assert [op for op, _ in nodes] == ["Neg", "Softmax", "Neg"]
    tanh = Workload("Tanh", (scores,), outputs=(scores,))
    assert [op for op, _ in _nodes(tanh)] == ["Neg", "Tanh"]


def test_what_is_written_before_a_convolution_goes_where_the_kernel_before_has_read():
    image, kernel = (1, 5, 7, 11), (3, 5, 1, 1)
    work = Workload("Conv", (image, kernel, (3,)), learned=(1, 2), outputs=((1, 3, 7, 11),))
    # the second kernel writes to a place of its own and gives back the one that it has read; what
    # the convolution writes is read, so that it is no graph's output either
    assert _nodes(work) == [
        ("Neg", ("x0_0",)), ("Max", ("x0_0_read", "x0_0_read")),
        ("Conv", ("x0_0_written", "w1_0", "w2_0")), ("Neg", ("y0_0",)),
    ]  # fmt: skip


def test_a_shortcut_was_written_long_before():
    image = (1, 5, 7, 11)
    both = Workload("Add", (image, image), outputs=(image,))
    assert _nodes(both) == [("Neg", ("x1_0",)), ("Add", ("x0_0", "x1_0_written"))]
    product = replace(both, op="Mul")
    assert [op for op, _ in _nodes(product)] == ["Neg", "Neg", "Mul"]
    bias = Workload("Add", (image, (5, 1, 1)), learned=(1,), outputs=(image,))
    assert [op for op, _ in _nodes(bias)] == ["Neg", "Add"]


@pytest.mark.parametrize(
    ("op", "inputs", "learned", "afar"),
    [
        ("Transpose", 1, False, True), ("MaxPool", 1, False, True), ("Concat", 2, False, True),
        ("LayerNormalization", 2, True, True), ("Softmax", 1, False, False),
        ("Tanh", 1, False, False), ("Add", 2, False, True), ("Add", 2, True, False),
        ("Mul", 2, False, False), ("Div", 2, True, True), ("MatMul", 2, False, False),
    ],
)  # fmt: skip
def test_who_writes_where_no_layer_has_been_for_a_while(
    op: str, inputs: int, learned: bool, afar: bool
) -> None:
    work = Workload(op, ((7, 7),) * inputs, learned=(1,) if learned else (), outputs=((7, 7),))
    assert writes_afar(work) is afar


def test_the_weights_of_a_recurrent_layer_come_from_afar_only_once():
    weight, recurrence = (1, 2048, 509), (1, 2048, 512)
    inputs = ((3, 1, 509), weight, recurrence)
    lstm = Workload("LSTM", inputs, learned=(1, 2), outputs=((3, 1, 1, 512),))
    assert weight_bytes(lstm) > 8e6
    assert not is_cold(lstm)
    product = Workload("MatMul", ((3, 512), (512, 2048)), learned=(1,), outputs=((3, 2048),))
    assert is_cold(product)
    table = Workload("Gather", ((4096, 512), (7,)), {"axis": 0}, learned=(0,), outputs=((7, 512),))
    assert weight_bytes(table) > 8e6
    assert not is_cold(table)  # few of its rows are read


def test_runs_of_a_turn_find_more_and_more_in_the_caches() -> None:
    backend = OnnxRuntime("CPUExecutionProvider", 1)
    turned = Workload("Transpose", ((61, 97),), {"perm": [1, 0]}, outputs=((97, 61),))
    product = Workload("MatMul", ((3, 31), (31, 7)), learned=(1,), outputs=((3, 7),))
    large = Workload("MatMul", ((1, 509), (509, 521)), learned=(1,), outputs=((1, 521),))
    for work, at_once, found in (
        (turned, 2, [False, True] * 3),
        (product, 1, [False] * 6),
        (large, 4, [False, None, True, True, False, None]),
    ):
        prepared = backend.prepare(work)
        assert (prepared.at_once, prepared.evicts) == (at_once, work is large)
        for _ in found:
            prepared.run()
        assert [run.cached for run in prepared.finish()] == found


def test_products_of_matrices_write_where_nothing_was_for_a_while() -> None:
    product = Workload("MatMul", ((3, 31), (31, 7)), learned=(1,), outputs=((3, 7),))
    spread = Workload(
        "Conv", ((1, 3, 5, 7), (11, 3, 1, 1)), {}, learned=(1,), outputs=((1, 11, 5, 7),)
    )
    assert [step.afar for step in turn_of(product)] == [True]
    assert [step.afar for step in turn_of(spread)] == [False]


def test_what_is_timed_follows_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OnnxRuntime("CPUExecutionProvider", 1)
    products: list[int] = []
    monkeypatch.setattr(backend, "multiply", lambda: products.append(1))
    tanh = Workload("Tanh", ((7, 13),), outputs=((7, 13),))
    prepared = backend.prepare(tanh)
    for _ in range(3):
        prepared.run()
    assert len(products) == 3
    prepared.finish()

    # a network multiplies by itself, or does not
    products.clear()
    backend.network(*build_model(tanh, 1)).run()
    assert not products


def test_a_view_is_measured_as_one() -> None:
    # were its output the network's, it would be copied there: 33 MB take milliseconds
    shape, flat = (1, 4099, 2017), (4099, 2017)
    view = Workload("Reshape", (shape,), {"shape": list(flat)}, outputs=(flat,))
    assert [op for op, _ in _nodes(view)] == ["Neg", "Reshape", "Neg"]
    prepared = OnnxRuntime("CPUExecutionProvider", 1).prepare(view)
    for _ in range(3):
        prepared.run()
    assert min(run.kernel_s for run in prepared.finish()) < 1e-3


def test_outputs_lie_one_behind_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    place = np.zeros(64)
    monkeypatch.setattr(onnxruntime_session, "_SCRATCH", place)
    outputs = ((1, 5, 5), (1, 2, 5), (1, 3, 5))
    split = {"axis": 1, "split": [5, 2, 3]}
    work = Workload("Split", ((1, 10, 5),), split, outputs=outputs)
    prepared = OnnxRuntime("CPUExecutionProvider", 1).prepare(work)
    prepared.run()
    prepared.finish()

    # 100, 40 and 60 bytes, each from a line of 64 on
    written = place.view(np.float32) != 0
    for begin, end in ((0, 25), (32, 42), (48, 63)):
        assert written[begin:end].mean() > 0.4
        written[begin:end] = False
    assert not written.any()


@pytest.mark.parametrize(
    "work",
    [
        Workload("Tanh", ((7, 13),), outputs=((7, 13),)),
        Workload("Transpose", ((7, 13),), {"perm": [1, 0]}, outputs=((13, 7),)),
        Workload("Add", ((1, 3, 5, 7),) * 2, outputs=((1, 3, 5, 7),)),
        Workload("MatMul", ((3, 131), (131, 149)), learned=(1,), outputs=((3, 149),)),
        Workload("ReduceMax", ((31, 17),), {"axes": [-1], "keepdims": 1}, outputs=((31, 1),)),
    ],
    ids=lambda work: work.op,
)
def test_every_run_reads_the_same_though_it_writes_over_it(
    work: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = np.zeros(4096)
    monkeypatch.setattr(onnxruntime_session, "_SCRATCH", place)
    model, feeds = build_model(work, 1, lead=True)
    (expected,) = onnxruntime.InferenceSession(model).run(None, feeds)
    prepared = OnnxRuntime("CPUExecutionProvider", 1).prepare(work)
    for _ in range(5):
        prepared.run()
        assert place.view(np.float32)[: expected.size] == pytest.approx(expected.ravel(), rel=1e-6)
    prepared.finish()
