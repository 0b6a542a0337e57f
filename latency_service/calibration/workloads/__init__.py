"""What a calibration measures: operator families, and how their shapes are drawn.

Channel counts are mostly the round ones that networks use, and every third time any number, so that
the steps of the hardware show. Spatial sizes, kernels and sequence lengths are those of published
networks' building blocks; no network is copied. A family is a function from a random generator to a
workload; `FAMILIES` says how many of each a calibration of standard length takes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from latency_service.calibration.workloads.convolutions import (
    computed,
    depthwise,
    first,
    grouped,
    one_dimension,
    patches,
    pointwise,
    spatial,
    squeezed,
    transposed_convolution,
)
from latency_service.calibration.workloads.elementwise import (
    batch_normalisation,
    binary,
    cast,
    global_pool,
    instance_normalisation,
    layer_normalisation,
    pool,
    reduction,
    skip_layer_normalisation,
    softmax,
    unary,
    where,
)
from latency_service.calibration.workloads.moving import (
    concat,
    expand,
    gather,
    half,
    one_hot,
    pad,
    resize,
    scattered,
    split,
    transpose,
    view,
)
from latency_service.calibration.workloads.products import (
    activation_product,
    gemm,
    learned_product,
    recurrent,
    transposed_product,
)
from latency_service.calibration.workloads.quantised import QUANTISED
from latency_service.calibration.workloads.shapes import Family
from latency_service.core.sample import Workload

FAMILIES: tuple[Family, ...] = (
    Family("pointwise convolution", pointwise, 17),
    Family("convolution of one position", squeezed, 4),
    Family("convolution", spatial, 18),
    Family("first convolution", first, 5),
    Family("patch convolution", patches, 3),
    Family("depthwise convolution", depthwise, 11),
    Family("grouped convolution", grouped, 9),
    Family("convolution along time", one_dimension, 9),
    Family("convolution with computed weights", computed, 5),
    Family("transposed convolution", transposed_convolution, 3),
    Family("dense layer", gemm, 13),
    Family("product with a learned matrix", learned_product, 6),
    Family("product of activations", activation_product, 7),
    Family("product with a turned activation", transposed_product, 4),
    Family("batch normalisation", batch_normalisation, 1.5),
    Family("layer normalisation", layer_normalisation, 2.5),
    Family("addition and layer normalisation", skip_layer_normalisation, 1.5),
    Family("instance normalisation", instance_normalisation, 1),
    Family("softmax", softmax, 3.5),
    *(Family(op, unary(op), 1.5) for op in ("Relu", "Sigmoid", "Tanh", "Gelu", "HardSwish", "Erf")),
    *(
        Family(op, unary(op), 0.7)
        for op in ("HardSigmoid", "LeakyRelu", "Exp", "Sqrt", "Elu", "Neg", "Abs", "Reciprocal")
    ),
    Family("Clip", unary("Clip", min=0.0, max=6.0), 1),
    Family("QuickGelu", unary("QuickGelu", alpha=1.0), 1.5),
    Family("Add", binary("Add"), 5),
    Family("Mul", binary("Mul"), 5),
    Family("Div", binary("Div"), 3),
    *(Family(op, binary(op), 1.5) for op in ("Sub", "Pow", "Max")),
    Family("max pooling", pool("MaxPool"), 3),
    Family("average pooling", pool("AveragePool"), 1.5),
    Family("global average pooling", global_pool, 1.5),
    Family("ReduceMean", reduction("ReduceMean"), 3),
    Family("ReduceSum", reduction("ReduceSum"), 1.5),
    Family("ReduceMax", reduction("ReduceMax"), 1.5),
    Family("transpose", transpose, 4),
    Family("transpose of several axes", scattered, 1.2),
    Family("view", view, 1),
    Family("concat", concat, 2),
    Family("split", split, 2),
    Family("slice", half, 1.5),
    Family("pad", pad, 1),
    Family("nearest resize", resize("nearest"), 1),
    Family("linear resize", resize("linear"), 1),
    Family("gather", gather, 0.7),
    Family("expand", expand, 1),
    Family("one-hot rows", one_hot, 0.6),
    Family("Where", where, 1),
    Family("Cast", cast, 0.7),
    Family("LSTM", recurrent("LSTM", 4), 3),
    Family("GRU", recurrent("GRU", 3), 2),
    *QUANTISED,
)


# What is applied to a contraction's output for the runtime to merge.
_MERGES: tuple[tuple[str, ...], ...] = (
    ("Relu",), ("Clip",), ("HardSwish",), ("HardSigmoid",), ("Sigmoid",), ("LeakyRelu",),
    ("Tanh",), ("Add",), ("Add", "Relu"),
)  # fmt: skip


def merged_workloads(seed: int, dtype: str, pairs: int = 12) -> Iterator[Workload]:
    """Convolutions with and without what runtimes merge into them."""
    rng = np.random.default_rng(seed)
    makes = (pointwise, spatial, depthwise)
    for number in range(pairs):
        while True:
            work = replace(makes[number % 3](rng), dtype=dtype)
            out = work.outputs[0]
            round_channels = out[1] % 16 == 0 and work.inputs[0][1] % 16 == 0
            if round_channels and 3e4 < math.prod(out) < 6e5 and out[2] > 1:
                break
        yield work
        for merges in _MERGES:
            yield replace(work, merges=merges)


def peak_workloads(dtype: str, kind: str = "cpu") -> Iterator[Workload]:
    """Products large enough to run at the device's highest rate.

    Args:
        kind: of the device, "cpu" or "gpu".
    """
    for edge in (256, 384, 512, 768) if kind == "cpu" else (1024, 2048, 4096, 8192):
        square = (edge, edge)
        if dtype == "int8":
            inputs = (square, square, (), ())
            yield Workload("MatMulInteger", inputs, {}, dtype, (1, 2, 3), (square,))
        else:
            yield Workload("MatMul", (square, square), {}, dtype, (1,), (square,))


def draw(
    seed: int = 0, dtype: str = "float32", favour: Mapping[str, float] | None = None
) -> Iterator[tuple[Family, Workload]]:
    """Workloads without end, families in proportion to their share and evenly spread.

    Every family draws for itself: what is measured of one does not depend on which others there
    are, or how large their shares.

    Args:
        favour: by operator, how much larger a share its families get.
    """
    families = [family for family in FAMILIES if dtype in family.dtypes]
    weight = [
        family.share * (favour or {}).get(family.make(np.random.default_rng(0)).op, 1.0)
        for family in families
    ]
    streams = [np.random.default_rng([seed, zlib.crc32(f.name.encode())]) for f in families]
    due = np.zeros(len(families))
    share = np.array(weight) / sum(weight)
    while True:
        due += share
        chosen = int(np.argmax(due))
        due[chosen] -= 1.0
        family = families[chosen]
        yield family, replace(family.make(streams[chosen]), dtype=family.tensors or dtype)
