"""Forms of an operator that run different code are different families."""

from __future__ import annotations

import pytest

from latency_service.core.fit import sample_geometry
from latency_service.core.geometry import Dim
from latency_service.core.sample import Sample, Workload


def family(work: Workload) -> tuple[str, float]:
    """(family, elements that are treated alike and lie together)."""
    name, dims, _ = sample_geometry(Sample(work, 1.0))
    return name, dims[Dim.INNER]


@pytest.mark.parametrize(
    ("shape", "perm", "expected"),
    [
        # one axis goes to the end or comes from there: channels last and back, heads, a matrix
        ((2, 3, 5, 7), [0, 2, 3, 1], ("Transpose/last", 1)),
        ((2, 3, 5, 7), [0, 3, 1, 2], ("Transpose/last", 1)),
        ((2, 3, 5), [0, 2, 1], ("Transpose/last", 1)),
        ((3, 5), [1, 0], ("Transpose/last", 1)),
        # two axes change places around a third, even if that one has a single position
        ((2, 3, 5, 7), [0, 3, 2, 1], ("Transpose/scattered", 1)),
        ((1, 1, 5, 7), [0, 3, 1, 2], ("Transpose/last", 1)),
        ((1, 5, 1, 7), [0, 3, 2, 1], ("Transpose/scattered", 1)),
        ((2, 3, 5), [2, 1, 0], ("Transpose/scattered", 1)),
        # the trailing axes stay together
        ((2, 3, 5, 7), [0, 2, 1, 3], ("Transpose", 7)),
        ((2, 3, 5, 7), [1, 0, 2, 3], ("Transpose", 35)),
        # only axes of one position move
        ((1, 3, 1, 7), [0, 2, 1, 3], ("Transpose/view", 21)),
    ],
)
def test_transpositions(
    shape: tuple[int, ...], perm: list[int], expected: tuple[str, float]
) -> None:
    out = tuple(shape[axis] for axis in perm)
    assert family(Workload("Transpose", (shape,), {"perm": perm}, outputs=(out,))) == expected


@pytest.mark.parametrize(
    ("axis", "expected"), [(-1, ("Softmax", 7)), (3, ("Softmax", 7)), (1, ("Softmax/strided", 3))]
)
def test_softmax(axis: int, expected: tuple[str, float]) -> None:
    shape = (2, 3, 5, 7)
    assert family(Workload("Softmax", (shape,), {"axis": axis}, outputs=(shape,))) == expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((2, 3, 5, 7), ("Mul", 210)),
        ((2, 3, 1, 1), ("Mul/broadcast", 35)),
        ((2, 3, 5, 1), ("Mul/broadcast", 7)),
        ((1, 1, 5, 1), ("Mul/broadcast", 7)),
        ((7,), ("Mul/broadcast", 7)),
        ((), ("Mul/scalar", 210)),
    ],
)
def test_runs_of_a_product_by_elements(other: tuple[int, ...], expected: tuple[str, float]) -> None:
    shape = (2, 3, 5, 7)
    assert family(Workload("Mul", (shape, other), outputs=(shape,))) == expected
