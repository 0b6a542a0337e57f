"""From measurements to an efficiency model.

Every family is fitted on its own: achieved rates from the fastest samples, then a Gaussian process
(gaussian_process.py) on the logarithm of what is left. Errors are those of samples left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latency_service.core.bind import bind
from latency_service.core.binding import Binding
from latency_service.core.efficiency import Layout
from latency_service.core.family import FamilyModel, moved_bytes, windows
from latency_service.core.features import FloatArray, features_of
from latency_service.core.gaussian_process import cross_validate, learn, learn_delayed, rounded
from latency_service.core.geometry import LINE, RECURRENT, Dim, geometry, reorder_geometry
from latency_service.core.least_squares import nonnegative_parts
from latency_service.core.ops import OPS
from latency_service.core.recurrent import fit_parts
from latency_service.core.sample import REORDERS, Sample, Workload, workload_graph
from latency_service.core.savings import cached_s_per_byte, nearby_s_per_byte
from latency_service.core.units import BYTES_PER_ELEMENT

# Most support points of a family that only moves memory.
_SMOOTH = 96
# With fewer samples, a form of an operator is charged like the operator's usual form.
_LEAST_SAMPLES = 4
# Columns that onnxruntime computes at once (MlasSgemmCopyPackB in mlas/lib/sgemm.cpp packs the
# second matrix so); those of a convolution are the positions of one image.
_PANEL = 16
# Significant digits of a support point's weight that a profile stores.
_WEIGHT_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Settings:
    """What a fit depends on beside the samples.

    Attributes:
        units: processors that share a kernel's tiles; 1 on a CPU.
        support: most support points of a family.
        learn_from: most samples that the length scales are learned from.
        resolution_s: of the clock that took the samples.
        layout: of the runtime; None where it keeps one.
        core_bytes: of the cache that a core has for itself; 0 where none was measured.
        panel: positions of an image that the family's kernels compute at once; 0: any number.
        in_parts: whether the family is that of a recurrent operator, on a CPU.
    """

    units: int = 1
    support: int = 384
    learn_from: int = 480
    resolution_s: float = 0.5e-6
    layout: Layout | None = None
    core_bytes: float = 0.0
    panel: int = 0
    in_parts: bool = False


def gpu_settings(units: int) -> Settings:
    """Settings for a GPU of so many multiprocessors, whose convolutions need more of everything."""
    return Settings(units=units, support=384, learn_from=640)


_PRODUCTS = frozenset({"Gemm", "MatMul"})


def settings_of(family: str, settings: Settings) -> Settings:
    """The settings of one family: on a GPU all but convolutions need more still.

    Only convolutions over images run on blocks of channels; those along one axis are products of
    matrices, but for depthwise ones. The libraries for products of matrices choose among
    dozens of kernels: with 384 points errors on samples left out are a quarter larger. The other
    families are cheap to learn from more samples.
    """
    op = family.partition("/")[0]
    if family.endswith(LINE) and settings.layout is not None:
        whole = "depthwise" not in family
        settings = replace(settings, layout=None, panel=_PANEL if whole else 0)
    if op != "Conv":
        settings = replace(settings, layout=None)
    if op in RECURRENT and settings.units == 1:
        settings = replace(settings, in_parts=True)
    if settings.units == 1 or op.startswith("Conv"):
        return settings
    if op in _PRODUCTS:
        return replace(settings, support=1200, learn_from=1600)
    return replace(settings, learn_from=1000)


def fit_family(
    dims: FloatArray,
    seconds: FloatArray,
    itemsize: float,
    contraction: bool,
    settings: Settings,
    seed: int = 0,
    unseen: frozenset[str] = frozenset(),
) -> tuple[FamilyModel, FloatArray]:
    """Fit one family.

    Args:
        dims: (N, D) geometries.
        seconds: (N,) measured.
        unseen: features that say nothing about the family's kernels.

    Returns:
        The model, and (N,) log(measured / predicted) of each sample when it was left out.
    """
    blank = FamilyModel(0.0, 1.0, 1.0, settings.units, (), (), (), (), 0.0, 0.0, 0.0, len(seconds))
    if settings.layout is not None:
        layout = settings.layout
        blank = replace(blank, block=layout.block, alignment=layout.alignment)
    if settings.panel:
        blank = replace(blank, panel=settings.panel)
        blank = replace(blank, packing=_packing(blank, dims, seconds))
    plain = _with_base(blank, dims, seconds, itemsize, contraction, settings)
    if settings.in_parts:
        fixed_s, parts = fit_parts(dims, seconds)
        plain = replace(plain, fixed_s=fixed_s, parts=parts)
    target = np.log(seconds / plain.base_s(dims, itemsize))
    known = features_of(contraction, settings.units)
    columns = {name: feature(dims) for name, feature in known.items() if name not in unseen}
    names = tuple(name for name, column in columns.items() if np.ptp(column) > 1e-9)
    raw = np.stack([columns[name] for name in names], axis=1) if names else np.zeros((len(dims), 0))
    jitter = (settings.resolution_s / seconds) ** 2
    if settings.units > 1:
        base_s = plain.base_s(dims, itemsize)
        process, jitter = learn_delayed(
            raw, target, jitter, base_s, settings.support, settings.learn_from, seed
        )
    else:
        process = learn(raw, target, jitter, np.zeros(len(seconds)), settings.learn_from, seed)
    left_out = cross_validate(process, raw, target, jitter, settings.support, seed)
    # what only moves memory is smooth: a few points describe it
    support = settings.support if contraction else min(settings.support, _SMOOTH)
    points, weights = process.project(raw, target, jitter, support)
    if not names:
        # all samples of one shape: their mean is all that they tell
        process.mean = float(np.mean(target))
        points, weights = np.zeros((0, 0)), np.zeros(0)
    # what the clock cannot resolve says nothing about the fit
    told = left_out[seconds > 5 * settings.resolution_s]
    told = told if told.size >= 5 else left_out
    spread = float(np.sqrt(np.mean(np.clip(told, -1.0, 1.0) ** 2)))
    model = replace(
        plain,
        features=names,
        lengths=tuple(process.lengths.tolist()),
        points=tuple(map(tuple, points.tolist())),
        weights=tuple(rounded(weights, _WEIGHT_DIGITS).tolist()),
        mean=float(process.mean),
        spread=spread,
        median_error=float(np.median(np.abs(np.exp(-told) - 1.0))),
    )
    return model, left_out


# Operators over the trailing axes, whatever axes there are before them.
_SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
_BY_ROWS = _SOFTMAX | {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
_AXES = frozenset({"log_width", "log_images"})


def unseen(family: str) -> frozenset[str]:
    """Features that a family's kernels on a GPU cannot depend on.

    Elementwise kernels see one run of elements, those over trailing axes see rows of them: [4, 20,
    1024, 1024] and [81920, 1024] are the same to them.
    """
    op, _, kind = family.partition("/")
    rows = frozenset() if op in _SOFTMAX else frozenset({"long_rows"})
    if op in _BY_ROWS and not kind:
        return _AXES | rows
    if op in OPS and OPS[op].family == "elementwise":
        return _AXES | rows | (frozenset() if kind == "broadcast" else {"log_inner", "log_rows"})
    return rows


def _with_base(
    blank: FamilyModel,
    dims: FloatArray,
    seconds: FloatArray,
    itemsize: float,
    contraction: bool,
    settings: Settings,
) -> FamilyModel:
    """Fixed seconds and achieved rates: those of the fastest samples that the clock resolves.

    On a GPU the bandwidth of what only moves memory is that of the largest samples: networks move
    more still, and nothing of it stays in a cache.
    """
    fixed = max(0.9 * float(seconds.min()), 0.2 * settings.resolution_s)
    resolved = seconds > 8 * settings.resolution_s
    if resolved.sum() >= 5:
        dims, seconds = dims[resolved], seconds[resolved]
    rest = np.maximum(seconds - fixed, 0.05 * seconds)
    moved = moved_bytes(dims, itemsize)
    bytes_per_s = float(np.quantile(moved / rest, 0.97))
    if not contraction:
        if settings.units > 1:
            largest = moved >= np.quantile(moved, 0.95)
            bytes_per_s = float(np.median(moved[largest] / rest[largest]))
        return replace(blank, fixed_s=fixed, flops_per_s=None, bytes_per_s=bytes_per_s)
    flops_per_s = float(np.quantile(blank.done(dims) / rest, 0.97))
    return replace(blank, fixed_s=fixed, flops_per_s=flops_per_s, bytes_per_s=bytes_per_s)


def _packing(blank: FamilyModel, dims: FloatArray, seconds: FloatArray) -> float:
    """`FamilyModel.packing` of a family in panels."""
    positions = blank.paneled(dims[:, Dim.INNER])
    amounts = [np.ones(len(dims)), dims[:, Dim.WORK] * positions, windows(dims) * positions]
    _, flop_s, number_s = nonnegative_parts(np.stack(amounts, axis=1), seconds).tolist()
    return float(f"{number_s / flop_s:.4g}") if flop_s else 0.0


@dataclass(frozen=True, slots=True)
class FamilyFit:
    """A family's model, and how it did on samples that were left out.

    Attributes:
        residuals: (N,) log(measured / predicted), in the order of `positions`.
        positions: which samples are the family's.
    """

    name: str
    model: FamilyModel
    positions: tuple[int, ...]
    residuals: tuple[float, ...]


def fit(samples: Sequence[Sample], settings: Settings) -> list[FamilyFit]:
    """Fit every family that the samples hold, the one with most samples first.

    A form of an operator ("Transpose/view") with next to no samples is left out where its usual
    form has more: one sample says next to nothing about other shapes.

    Raises:
        SampleError: if a sample's shapes are impossible.
    """
    found: dict[str, list[int]] = {}
    rows: list[tuple[float, ...]] = []
    contraction: dict[str, bool] = {}
    for position, sample in enumerate(samples):
        if sample.workload.merges:
            rows.append((1.0,) * len(Dim))
            continue
        family, dims, multiplies = sample_geometry(sample)
        name = f"{sample.workload.dtype} {family}"
        found.setdefault(name, []).append(position)
        contraction[name] = multiplies
        rows.append(dims)
    table = np.array(rows, dtype=np.float64).reshape(-1, len(Dim))
    seconds = np.array([sample.latency_s for sample in samples])
    fetching = [
        name
        for name in found
        if contraction[name] and not settings_of(name.split()[1], settings).in_parts
    ]
    fetched = [position for name in fetching for position in found[name]]
    itemsizes = np.array([BYTES_PER_ELEMENT[s.workload.dtype] for s in samples])
    sizes = itemsizes * table[:, Dim.CONSTANT_ELEMENTS]
    saved_s = cached_s_per_byte([samples[p] for p in fetched], sizes[fetched])
    fits = []
    for name, positions in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        usual = found.get(name.partition("/")[0], ())
        if len(positions) < min(_LEAST_SAMPLES, len(usual)):
            continue
        own, shapes = [samples[p] for p in positions], table[positions]
        itemsize = BYTES_PER_ELEMENT[name.split()[0]]
        cached_s = saved_s if name in fetching else 0.0
        own_s = seconds[positions]
        if name in fetching:
            # small constants, too, stay in the last cache between two turns
            own_s = np.array([s.latency_s if s.cached_s is None else s.cached_s for s in own])
        model, residuals = fit_family(
            shapes,
            own_s,
            itemsize,
            contraction[name],
            settings_of(name.split()[1], settings),
            unseen=unseen(name.split()[1]) if settings.units > 1 else frozenset(),
        )
        nearby_s = 0.0
        if not contraction[name]:
            nearby_s = nearby_s_per_byte(own, shapes, itemsize, settings.core_bytes)
        model = replace(
            model,
            cached_s_per_byte=cached_s,
            measured_cached=cached_s > 0.0,
            nearby_s_per_byte=nearby_s,
        )
        fits.append(FamilyFit(name, model, tuple(positions), tuple(residuals.tolist())))
    return fits


def sample_geometry(sample: Sample) -> tuple[str, tuple[float, ...], bool]:
    """(family, dimensions, whether it multiplies and accumulates) of a measured operator."""
    work = sample.workload
    if work.op in REORDERS:
        return work.op, reorder_geometry(work.inputs[0]), False
    node = bind(workload_graph(work), Binding()).nodes[0]
    family, dims, _ = geometry(node)
    return family + ("/blocked" if sample.blocked else ""), dims, node.op.contraction


def merged_costs(samples: Sequence[Sample]) -> dict[str, float]:
    """Seconds per output element of operators that a contraction merges, by "dtype sequence".

    A workload is measured with and without them; what they add is divided by what they touch. Of
    several workloads the median counts, so that one disturbed pair does no harm. Never negative.
    """
    plain = {_key(s.workload): s.latency_s for s in samples if not s.workload.merges}
    added: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        work = sample.workload
        alone = plain.get(_key(work))
        if not work.merges or alone is None:
            continue
        elements = float(sum(np.prod(shape) for shape in work.outputs))
        name = " ".join((work.dtype, work.op, *work.merges))
        added.setdefault(name, []).append((sample.latency_s - alone, elements))
    return {
        name: max(float(np.median([seconds / count for seconds, count in rows])), 0.0)
        for name, rows in added.items()
    }


def _key(work: Workload) -> tuple[Any, ...]:
    return work.op, work.inputs, work.dtype, tuple(sorted(map(str, work.attributes.items())))
