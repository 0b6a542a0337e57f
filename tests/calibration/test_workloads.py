"""What is drawn for measuring: every workload must bind, and be of the family it is drawn for."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from latency_service.calibration.workloads import (
    FAMILIES,
    draw,
    merged_workloads,
    peak_workloads,
)
from latency_service.calibration.workloads.convolutions import (
    one_dimension,
    pointwise,
    spatial,
)
from latency_service.calibration.workloads.elementwise import pool
from latency_service.calibration.workloads.products import recurrent
from latency_service.calibration.workloads.shapes import (
    LARGE_IMAGE,
    MOST_ELEMENTS,
    channels,
    tiny_shape,
)
from latency_service.core.bind import bind
from latency_service.core.binding import Binding
from latency_service.core.fit import sample_geometry
from latency_service.core.sample import Sample, sample_from_json, sample_to_json, workload_graph

DTYPES = ("float32", "float16", "int8")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_draws_operators_that_the_cost_model_binds(family):
    rng = np.random.default_rng(3)
    for _ in range(40):
        work = family.make(rng)
        (node,) = bind(workload_graph(work), Binding()).nodes
        assert tuple(tensor.shape for tensor in node.outputs) == work.outputs
        passed_on = [s for place, s in enumerate(work.inputs) if place not in work.learned]
        assert max(math.prod(shape) for shape in (*passed_on, *work.outputs)) <= LARGE_IMAGE
        sample = Sample(work, 1e-5)
        assert sample_from_json(sample_to_json(sample)) == sample


def test_a_family_draws_what_it_draws_without_the_others() -> None:
    alone = [w for family, w in itertools.islice(draw(0), 400) if family.name == "softmax"]
    favoured = [
        w
        for family, w in itertools.islice(draw(0, favour={"LSTM": 5.0, "Softmax": 3.0}), 400)
        if family.name == "softmax"
    ]
    assert len(favoured) > len(alone) > 3
    assert favoured[: len(alone)] == alone


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_stay_within_what_images_take(op: str) -> None:
    make, rng = pool(op), np.random.default_rng(5)
    drawn = [make(rng) for _ in range(2000)]
    assert max(math.prod(work.inputs[0]) for work in drawn) <= LARGE_IMAGE
    lines = [work for work in drawn if work.attributes["strides"] == [2, 1]]
    assert len(lines) > 100
    assert max(math.prod(work.inputs[0]) for work in lines) <= 1_500_000


def test_few_images_are_larger_than_usual():
    drawn = [work for _, work in itertools.islice(draw(0), 1500)]
    largest = [max(math.prod(shape) for shape in (*w.inputs, *w.outputs)) for w in drawn]
    beyond = sum(size > MOST_ELEMENTS for size in largest)
    assert 0 < beyond < 0.03 * len(drawn)


@pytest.mark.parametrize("dtype", DTYPES)
def test_families_appear_in_proportion_to_their_share(dtype):
    families = [family for family in FAMILIES if dtype in family.dtypes]
    total = sum(family.share for family in families)
    count = 400
    drawn = Counter(family.name for family, _ in itertools.islice(draw(0, dtype), count))
    for family in families:
        assert abs(drawn[family.name] - count * family.share / total) <= 1.5


def test_the_same_seed_draws_the_same_workloads():
    first, second = ([w for _, w in itertools.islice(draw(17), 30)] for _ in range(2))
    assert first == second
    assert first != [w for _, w in itertools.islice(draw(19), 30)]


def test_what_is_favoured_is_drawn_more_often():
    plain = Counter(work.op for _, work in itertools.islice(draw(0), 400))
    favoured = Counter(work.op for _, work in itertools.islice(draw(0, favour={"LSTM": 5.0}), 400))
    assert favoured["LSTM"] > 3 * plain["LSTM"]


def test_int8_covers_products_convolutions_and_the_ways_in_and_out():
    geometries = {
        sample_geometry(Sample(work, 1.0))[0].split("/")[0]
        for _, work in itertools.islice(draw(0, "int8"), 300)
    }
    assert {
        "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "QLinearAdd",
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",
    } <= geometries  # fmt: skip


@pytest.mark.parametrize(
    ("name", "family"),
    [("transpose of several axes", "Transpose/scattered"), ("one-hot rows", "OneHot"),
     ("product with a turned activation", "MatMul/transposed"),
     ("product of activations, int8", "QLinearMatMul/activations")],
)  # fmt: skip
def test_forms_that_run_other_code_are_drawn_for_themselves(name: str, family: str):
    (drawn,) = [row for row in FAMILIES if row.name == name]
    rng = np.random.default_rng(5)
    for _ in range(12):
        assert sample_geometry(Sample(drawn.make(rng), 1.0))[0] in (family, "Transpose/view")


def test_what_quantises_reads_floating_point_whatever_is_asked_for():
    dtypes = {work.op: work.dtype for _, work in itertools.islice(draw(0, "int8"), 300)}
    assert dtypes["QuantizeLinear"] == dtypes["DynamicQuantizeLinear"] == "float32"
    assert dtypes["QLinearConv"] == dtypes["MatMulInteger"] == "int8"


def test_channels_are_mostly_round_and_every_third_time_any_number():
    rng = np.random.default_rng(0)
    drawn = [channels(rng, 32, 1024) for _ in range(3000)]
    round_ones = sum(value % 8 == 0 for value in drawn) / len(drawn)
    # 68 % are rounded, and one in eight of the others is round by chance
    assert 0.68 < round_ones < 0.78
    assert min(drawn) >= 32
    assert max(drawn) <= 1024


def test_tiny_tensors_have_one_to_4096_elements():
    rng = np.random.default_rng(0)
    counts = [math.prod(tiny_shape(rng)) for _ in range(500)]
    assert min(counts) == 1
    assert 2048 < max(counts) <= 4096


@pytest.mark.parametrize("make", [pointwise, spatial, one_dimension])
def test_now_and_then_many_small_images_are_convolved_at_once(make):
    rng = np.random.default_rng(0)
    shapes = [make(rng).inputs[0] for _ in range(500)]
    images = Counter(shape[0] for shape in shapes)
    assert set(images) == {1, 2, 4, 8, 16, 64}
    assert images[1] > 250
    assert max(math.prod(shape[2:]) for shape in shapes if shape[0] == 64) < 4096


def test_what_runs_along_a_line_is_also_written_as_an_image_of_one_row():
    rng = np.random.default_rng(0)
    works = [one_dimension(rng) for _ in range(300)]
    images = [work for work in works if len(work.inputs[0]) == 4]
    assert 50 < len(images) < 150
    for work in images:
        (_, _, height, length), (_, _, tall, wide), _ = work.inputs
        _, left, _, right = work.attributes["pads"]
        assert height == tall == work.outputs[0][2] == 1
        assert work.attributes["pads"] == [0, left, 0, right]
        step = work.attributes["strides"][1]
        assert work.outputs[0][-1] == (length + left + right - wide) // step + 1


def test_recurrent_layers_stand_upon_others_now_and_then():
    rng = np.random.default_rng(0)
    works = [recurrent("LSTM", 4)(rng) for _ in range(200)]
    stacked = [w for w in works if w.inputs[0][2] == w.inputs[1][0] * w.attributes["hidden_size"]]
    assert 40 < len(stacked) < 80


def test_merged_workloads_stand_beside_the_plain_one():
    works = list(merged_workloads(0, "float32", pairs=2))
    plain = [work for work in works if not work.merges]
    assert [work.op for work in plain] == ["Conv"] * 2
    for work in works:
        assert any(work.inputs == other.inputs for other in plain)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_peak_products_bind_and_grow_with_the_device(dtype, kind):
    edges = [work.outputs[0][0] for work in peak_workloads(dtype, kind)]
    assert edges == sorted(edges)
    assert (max(edges) > 1024) == (kind == "gpu")
    for work in peak_workloads(dtype, kind):
        assert sample_geometry(Sample(work, 1.0))[2]
