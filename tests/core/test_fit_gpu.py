"""What a fit of GPU kernels depends on, and what it says beyond its samples."""

import numpy as np
import pytest

from latency_service.core.efficiency import FamilyModel
from latency_service.core.fit import fit, gpu_settings, sample_geometry, unseen
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


def test_features_stay_where_something_was_measured(model: FamilyModel) -> None:
    dims = np.ones((1, 16)) * 1e12
    assert (model.features_at(dims) <= np.array(model.points).max(axis=0)).all()


@pytest.mark.parametrize(
    ("family", "left"),
    [("Relu", set()), ("Add/broadcast", {"log_inner"}), ("Softmax", {"log_inner", "long_rows"}),
     ("LayerNormalization", {"log_inner"}), ("Transpose", {"log_inner", "log_width"}),
     ("Softmax/strided", {"log_inner", "log_width", "long_rows"})],
)  # fmt: skip
def test_what_tells_how_long_a_family_takes(family: str, left: set[str]) -> None:
    assert {"log_inner", "log_width", "long_rows"} - unseen(family) == left
