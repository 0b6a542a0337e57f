"""The operator table: everything the cost model knows about an operator is its row here.

A module holds the rows of one family. A new operator is one row, and one hand-computed expectation
in tests/core/test_ops_*.py.
"""

from __future__ import annotations

from dataclasses import replace

from latency_service.core.ops.op import Op, guarded
from latency_service.core.ops.table import (
    contractions,
    elementwise,
    free,
    moves,
    normalisations,
    pooling,
)

__all__ = ["OPS"]

FAMILIES = (contractions, elementwise, normalisations, pooling, moves, free)


def _rows() -> dict[str, Op]:
    table: dict[str, Op] = {}
    for family in FAMILIES:
        for op in family.rows():
            if op.name in table:
                raise RuntimeError(f"operator {op.name} has two rows")
            table[op.name] = replace(op, channels=guarded(op.channels))
    return table


OPS: dict[str, Op] = {}
OPS.update(sorted(_rows().items()))
