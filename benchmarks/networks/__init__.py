"""Networks as people use them, to hold predicted latencies against measured ones.

`python -m benchmarks.networks FOLDER` writes them all as ONNX files. Every network follows its
paper's standard configuration, in inference mode and with random weights.
"""

from __future__ import annotations

from benchmarks.networks import hybrid, maps, mobile, plain, residual, sequence, vision_transformers
from benchmarks.networks.case import Case
from benchmarks.networks.files import check, export

__all__ = ["Case", "cases", "check", "export"]


def cases() -> tuple[Case, ...]:
    """All of them, those of an architecture together."""
    families = (residual, plain, mobile, vision_transformers, hybrid, maps, sequence)
    return tuple(case for family in families for case in family.CASES)
