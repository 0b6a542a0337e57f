"""What convolutions compute, and by which code: whole blocks, no padding, whole panels."""

from dataclasses import replace

import numpy as np
import pytest

from latency_service.core.blocks import Way
from latency_service.core.efficiency import Layout
from latency_service.core.family import FamilyModel
from latency_service.core.fit import FamilyFit, fit, sample_geometry
from latency_service.core.fit_settings import Settings
from latency_service.core.sample import Sample, Workload

PLAIN = FamilyModel(0.0, 1e9, 1e30, 1, (), (), (), (), 0.0, 0.1, 0.1, 50)
BLOCKED = replace(PLAIN, block=16, alignment=4)
LAYOUT = Layout(16, 4, (), ())
RATE = 97e9


def convolution(inputs: int, filters: int, edge: int, kernel: int = 3) -> Workload:
    pad = kernel // 2
    return Workload(
        "Conv",
        ((1, inputs, edge, edge), (filters, inputs, kernel, kernel), (filters,)),
        {"pads": [pad] * 4},
        learned=(1, 2),
        outputs=((1, filters, edge, edge),),
    )


def seconds(model: FamilyModel, work: Workload) -> float:
    _, dims, _ = sample_geometry(Sample(work, 1.0))
    return float(model.seconds(np.array(dims), 4.0))


def counted(inputs: int, filters: int, edge: int) -> float:
    return 2.0 * 9 * inputs * filters * edge**2


INSIDE = (19 / 21) ** 2  # of a 3x3 window over 7x7 positions


@pytest.mark.parametrize(
    ("inputs", "filters", "per_counted"),
    [
        (64, 16, INSIDE),
        (64, 13, INSIDE * 16 / 13),
        (64, 17, INSIDE * 32 / 17),
        (3, 1, INSIDE * 16),  # few inputs are read plain
        (61, 32, 1.0),  # unaligned: a product of matrices, over padding too
    ],
)
def test_what_is_computed(inputs: int, filters: int, per_counted: float) -> None:
    work = convolution(inputs, filters, 7)
    as_counted = counted(inputs, filters, 7) / 1e9
    assert seconds(PLAIN, work) == pytest.approx(as_counted)
    assert seconds(BLOCKED, work) == pytest.approx(as_counted * per_counted)


@pytest.mark.parametrize(
    ("positions", "computed"), [(1, 1), (2, 16), (13, 16), (16, 16), (17, 32), (61, 64)]
)
def test_a_product_of_matrices_computes_whole_panels(positions: int, computed: int) -> None:
    work = Workload(
        "Conv", ((3, 5, positions), (7, 5, 1)), learned=(1,), outputs=((3, 7, positions),)
    )
    each = 2.0 * 3 * 5 * 7 / 1e9
    assert seconds(PLAIN, work) == pytest.approx(each * positions)
    assert seconds(replace(PLAIN, panel=16), work) == pytest.approx(each * computed)


def along(images: int, inputs: int, positions: int, filters: int, taps: int) -> Workload:
    pad = taps // 2
    return Workload(
        "Conv",
        ((images, inputs, positions), (filters, inputs, taps), (filters,)),
        {"pads": [pad] * 2},
        learned=(1, 2),
        outputs=((images, filters, positions),),
    )


def test_windows_are_put_in_place_however_few_filters_read_them() -> None:
    model = replace(PLAIN, panel=16, packing=31.0)
    for filters in (1, 2, 13):
        # 3 images, 7 inputs under 5 taps, 11 positions that are computed as 16
        flops = 3 * 7 * 5 * 16 * (2 * filters + 31)
        assert seconds(model, along(3, 7, 11, filters, 5)) == pytest.approx(flops / 1e9)


def test_a_fit_finds_what_putting_windows_in_place_takes() -> None:
    chance = np.random.default_rng(11)
    true = replace(PLAIN, flops_per_s=RATE, panel=16, packing=43.0)
    samples = []
    for _ in range(120):
        images, inputs, positions, filters = (
            int(chance.integers(low, high)) for low, high in ((1, 9), (16, 300), (1, 100), (1, 200))
        )
        work = along(images, inputs, positions, filters, int(chance.choice([1, 3, 5, 7])))
        samples.append(Sample(work, 3e-6 + seconds(true, work)))
    (found,) = fit(samples, Settings(layout=LAYOUT))
    assert found.model.panel == 16
    assert found.model.packing == pytest.approx(43.0, rel=0.02)
    one = along(64, 151, 4, 1, 9)  # nothing like it was measured
    assert seconds(found.model, one) == pytest.approx(3e-6 + seconds(true, one), rel=0.1)


def test_filters_that_only_fill_up_a_block_are_free() -> None:
    took = [seconds(BLOCKED, convolution(64, filters, 7)) for filters in (49, 53, 61, 64)]
    assert took == pytest.approx([took[-1]] * 4)
    assert seconds(BLOCKED, convolution(64, 65, 7)) == pytest.approx(1.25 * took[-1])


def fitted(settings: Settings) -> list[FamilyFit]:
    """Convolutions of 16 filters and more, and what else a layout does not apply to."""
    chance = np.random.default_rng(7)
    samples = []
    for _ in range(160):
        inputs, filters = (int(16 * chance.integers(1, 9)) for _ in range(2))
        work = convolution(inputs, filters, int(chance.integers(5, 30)))
        took = 3e-6 + seconds(replace(BLOCKED, flops_per_s=RATE), work)
        samples.append(Sample(work, took))
        rows = int(chance.integers(16, 400))
        product = Workload("MatMul", ((rows, 61), (61, 97)), learned=(1,), outputs=((rows, 97),))
        samples.append(Sample(product, 3e-6 + 2.0 * rows * 61 * 97 / RATE))
    return fit(samples, settings)


def test_a_fit_knows_of_filters_that_it_has_not_seen() -> None:
    found = {row.name: row.model for row in fitted(Settings(layout=LAYOUT))}
    assert (found["float32 MatMul/learned"].block, found["float32 Conv/dense"].block) == (0, 16)
    model = found["float32 Conv/dense"]
    whole, part = (seconds(model, convolution(64, filters, 23)) for filters in (16, 3))
    assert part == pytest.approx(whole, rel=0.2)  # 3/16 of it by what is counted


def test_without_a_layout_work_is_what_is_counted() -> None:
    assert {row.model.block for row in fitted(Settings())} == {0}


def test_each_way_has_a_rate_of_its_own() -> None:
    model = replace(BLOCKED, way_flops=(7.0, 1.0, 3.0))
    for inputs, each in ((64, 1.0), (3, 3.0), (61, 7.0)):
        work = convolution(inputs, 32, 11)
        assert seconds(model, work) == pytest.approx(each * seconds(BLOCKED, work))


def mixed(count: int, seed: int) -> list[Sample]:
    """Convolutions of all ways; plain ones take five times as long, those of few inputs twice."""
    chance = np.random.default_rng(seed)
    true = replace(BLOCKED, flops_per_s=RATE, way_flops=(5.0, 1.0, 2.0))
    samples = []
    for number in range(count):
        inputs = int(chance.integers(5, 16) if number % 8 == 0 else 4 * chance.integers(4, 40))
        inputs += 1 if number % 8 == 1 else 0
        work = convolution(inputs, int(chance.integers(5, 200)), int(chance.integers(5, 30)))
        samples.append(Sample(work, 3e-6 + seconds(true, work)))
    return samples


def test_a_fit_tells_the_ways_apart() -> None:
    (found,) = fit(mixed(320, 5), Settings(layout=LAYOUT))
    assert found.model.features[-1] == "way"
    assert found.model.way_flops[Way.BLOCKS] == 1.0
    assert found.model.way_flops[Way.PLAIN] == pytest.approx(5.0, rel=0.15)
    assert found.model.way_flops[Way.IMAGE] == pytest.approx(2.0, rel=0.15)
    errors: dict[int, list[float]] = {}
    for sample in mixed(80, 6):
        way = found.model.way(np.array(sample_geometry(sample)[1]))
        ratio = seconds(found.model, sample.workload) / sample.latency_s
        errors.setdefault(int(way), []).append(abs(ratio - 1.0))
    assert {way: float(np.mean(off)) < 0.03 for way, off in errors.items()} == dict.fromkeys(
        Way, True
    )


@pytest.mark.parametrize("squeezed", [0, 9])
def test_ways_that_were_not_measured_over_images_are_charged_like_the_usual_one(
    squeezed: int,
) -> None:
    samples = [s for s in mixed(320, 5) if s.workload.inputs[0][1] >= 16]
    samples += [Sample(convolution(8, 64, 1), 4e-6) for _ in range(squeezed)]
    (found,) = fit(samples, Settings(layout=LAYOUT))
    assert found.model.way_flops[Way.IMAGE] == 0.0
    few, more = (seconds(found.model, convolution(inputs, 64, 23)) for inputs in (8, 16))
    assert few == pytest.approx(more / 2, rel=0.2)
