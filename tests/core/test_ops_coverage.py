from __future__ import annotations

from latency_service.core.ops import OPS
from tests.core import (
    test_ops_control,
    test_ops_convolution,
    test_ops_elementwise,
    test_ops_free,
    test_ops_indexing,
    test_ops_matrix,
    test_ops_moving,
    test_ops_normalisation,
    test_ops_pooling,
    test_ops_sequence,
)


def test_every_op_has_a_hand_computed_expectation() -> None:
    tables = (
        test_ops_convolution.CASES,
        test_ops_elementwise.CASES,
        test_ops_free.CASES,
        test_ops_indexing.CASES,
        test_ops_matrix.CASES,
        test_ops_moving.CASES,
        test_ops_normalisation.CASES,
        test_ops_pooling.CASES,
        test_ops_sequence.CASES,
    )
    expected = {case.op for cases in tables for case in cases} | set(test_ops_control.EXPECTED)
    assert expected == set(OPS)
