"""What a fit of GPU kernels depends on, and what any fit says beyond its samples."""

import numpy as np
import pytest

from latency_service.core.family import FamilyModel
from latency_service.core.fit import fit, sample_geometry
from latency_service.core.fit_settings import Settings, gpu_settings, unseen
from latency_service.core.sample import Sample, Workload

LAUNCH_S, BYTES_PER_S = 29e-6, 811e9


def relu(*shape: int) -> Workload:
    return Workload("Relu", (shape,), outputs=(shape,))


def took_s(*shape: int) -> float:
    return LAUNCH_S + 8 * float(np.prod(shape)) / BYTES_PER_S


@pytest.fixture(scope="module")
def model() -> FamilyModel:
    chance = np.random.default_rng(3)
    shapes = [tuple(map(int, chance.integers(2, 4096, 2))) for _ in range(150)]
    samples = [Sample(relu(*shape), took_s(*shape)) for shape in shapes]
    (found,) = fit(samples, gpu_settings(80))
    return found.model


def predicted_s(model: FamilyModel, *shape: int) -> float:
    _, dims, _ = sample_geometry(Sample(relu(*shape), 1.0))
    return float(model.seconds(np.array([dims]), 4.0)[0])


def test_an_elementwise_kernel_sees_elements_and_not_axes(model: FamilyModel) -> None:
    assert predicted_s(model, 2, 2, 512, 512) == predicted_s(model, 1024, 1024)
    assert predicted_s(model, 1024, 1024) == pytest.approx(took_s(1024, 1024), rel=0.02)


def test_far_beyond_the_samples_memory_is_as_fast_as_at_the_largest(model: FamilyModel) -> None:
    assert predicted_s(model, 64, 4096, 4096) == pytest.approx(took_s(64, 4096, 4096), rel=0.02)


@pytest.mark.parametrize("settings", [Settings(), gpu_settings(80)])
def test_beyond_the_samples_a_kernel_is_as_good_as_the_largest(settings: Settings) -> None:
    chance = np.random.default_rng(5)
    edges = [tuple(map(int, chance.integers(7, 257, 3))) for _ in range(150)]

    def product_s(rows: int, depth: int, cols: int) -> float:
        # the more rows, the closer to the peak
        return 3e-6 + 2.0 * rows * depth * cols / 97e9 * (1.0 + 89.0 / rows)

    def product(rows: int, depth: int, cols: int) -> Workload:
        shapes = (rows, depth), (depth, cols)
        return Workload("MatMul", shapes, learned=(1,), outputs=((rows, cols),))

    (found,) = fit([Sample(product(*edge), product_s(*edge)) for edge in edges], settings)
    _, largest, _ = sample_geometry(Sample(product(257, 131, 131), 1.0))
    _, larger, _ = sample_geometry(Sample(product(4099, 131, 131), 1.0))
    dims = np.array([largest, larger])
    points = np.array(found.model.points)
    features = found.model.features_at(dims)
    assert (features <= points.max(axis=0)).all()
    assert (features >= points.min(axis=0)).all()
    at_largest, beyond = found.model.seconds(dims, 4.0) / found.model.base_s(dims, 4.0)
    assert beyond == pytest.approx(at_largest, rel=0.1)


@pytest.mark.parametrize(
    ("family", "left"),
    [("Relu", set()), ("Add/broadcast", {"log_inner"}), ("Softmax", {"log_inner", "long_rows"}),
     ("LayerNormalization", {"log_inner"}), ("Transpose", {"log_inner", "log_width"}),
     ("Softmax/strided", {"log_inner", "log_width", "long_rows"})],
)  # fmt: skip
def test_what_tells_how_long_a_family_takes(family: str, left: set[str]) -> None:
    assert {"log_inner", "log_width", "long_rows"} - unseen(family) == left
