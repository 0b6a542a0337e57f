"""Where a workload finds what it reads and writes, so that it finds it as in a network.

A layer's input has just been written; its output goes where the input of the layer before it was,
which is needed no more. Its weights have left the nearer caches when the network runs again, and
where all of them are large the last one too.
"""

from __future__ import annotations

import math

import numpy as np

from latency_service.calibration.backends.onnx_types import NUMPY, OPERAND_TYPES
from latency_service.core.geometry import RECURRENT
from latency_service.core.ops import OPS
from latency_service.core.sample import Workload

# Bytes of weights: small ones stay within reach of the last cache, as a small network's do; large
# ones come from main memory. And those of an accelerator's copies of a workload together.
_SMALL_WEIGHTS, _LARGE_WEIGHTS = 64e3, 1e6
_WARM_BYTES, _MOST_COPIES = 3e6, 8

# Runtimes let them write over what they read, where nothing else reads it.
OVERWRITES = frozenset({"Softmax"})
# They move nothing, unless what they write is what the network returns.
VIEWS = frozenset({"Reshape"})
# A reorder before or behind them writes where the kernel before it has read, as in a network: on a
# Xeon with 2 MB for each core 250 000 numbers take half as long as far from the core.
TAKES_OVER = frozenset({"Conv"})
# Operands that must stay positive for the result to be a number.
POSITIVE = frozenset({"BatchNormalization", "Div", "Pow", "Sqrt", "Reciprocal", "Log"})


def adds_a_shortcut(work: Workload) -> bool:
    """Whether one of its images is that of a shortcut, which layers long ago wrote."""
    images = [shape for k, shape in enumerate(work.inputs) if k not in work.learned]
    return work.op == "Add" and len(images) > 1 and images[0] == images[1]


def consumed(work: Workload) -> list[str]:
    """Names of the inputs that a kernel before the workload may read, and nothing after it."""
    first = 1 if adds_a_shortcut(work) else 0
    return [f"x{k}_0" for k in range(first, len(work.inputs)) if k not in work.learned]


def writes_afar(work: Workload) -> bool:
    """Whether it writes where no layer has been for a while.

    Elementwise operators mostly write over what they read; a quotient does not, where GELU is
    written out and reads its dividend again. What others write lies beyond the nearer caches. A
    convolution writes near, as in the networks that are made of them; a product of two matrices
    does not (`is_product`).
    """
    op = OPS[work.op]
    if op.contraction or work.op in OVERWRITES | VIEWS:
        return False
    return op.family != "elementwise" or work.op == "Div" or adds_a_shortcut(work)


def is_product(work: Workload) -> bool:
    """Whether it multiplies two matrices.

    Networks of these move more than a core's own cache holds before they write to a place again.
    """
    return OPS[work.op].contraction and work.op.endswith(("Gemm", "MatMul"))


def producer(op: str) -> str:
    """The operator that reads what a workload is fed."""
    return "Abs" if op in POSITIVE or op == "Neg" else "Neg"


def leads(op: str) -> tuple[str, ...]:
    """The operators that write the inputs of a workload, one behind the other.

    The greater of a number and itself is that number, and is not written over it.
    """
    return (producer(op), "Max") if op in TAKES_OVER else (producer(op),)


def weight_bytes(work: Workload) -> float:
    """Bytes of its learned operands."""
    names = OPS[work.op].operands
    total = 0.0
    for position in work.learned:
        operand = names[min(position, len(names) - 1)]
        dtype = NUMPY[OPERAND_TYPES.get((work.op, operand), work.dtype)]
        total += np.dtype(dtype).itemsize * math.prod(work.inputs[position])
    return total


def is_cold(work: Workload) -> bool:
    """Whether it multiplies with weights that come from main memory, as a network's large ones do.

    Those of a recurrent layer do so once, for the first of its steps.
    """
    multiplies = OPS[work.op].contraction and work.op not in RECURRENT
    return multiplies and weight_bytes(work) >= _LARGE_WEIGHTS


def copies_of(work: Workload) -> int:
    """How often a workload stands in its model, so that its weights have left the near caches."""
    weights = weight_bytes(work)
    if weights < _SMALL_WEIGHTS or is_cold(work):
        return 1
    return int(np.clip(np.ceil(_WARM_BYTES / weights), 2, _MOST_COPIES))
