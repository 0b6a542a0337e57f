"""From measurements to the models of all families (family_fit.py), and to what is merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latency_service.core.bind import bind
from latency_service.core.binding import Binding
from latency_service.core.family import FamilyModel
from latency_service.core.family_fit import fit_family
from latency_service.core.fit_settings import Settings, settings_of, unseen
from latency_service.core.geometry import Dim, geometry, reorder_geometry
from latency_service.core.sample import REORDERS, Sample, Workload, workload_graph
from latency_service.core.savings import fetching, kind_of, nearby_s_per_byte
from latency_service.core.units import BYTES_PER_ELEMENT

# With fewer samples, a form of an operator is charged like the operator's usual form.
_LEAST_SAMPLES = 4


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
    multiplying = [
        name
        for name in found
        if contraction[name] and not settings_of(name.split()[1], settings).in_parts
    ]
    fetched = [position for name in multiplying for position in found[name]]
    kinds = [kind_of(name.split()[1]) for name in multiplying for _ in found[name]]
    itemsizes = np.array([BYTES_PER_ELEMENT[s.workload.dtype] for s in samples])
    sizes = itemsizes * table[:, Dim.CONSTANT_ELEMENTS]
    saved = fetching([samples[p] for p in fetched], kinds, table[fetched], sizes[fetched])
    fits = []
    for name, positions in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
        usual = found.get(name.partition("/")[0], ())
        if len(positions) < min(_LEAST_SAMPLES, len(usual)):
            continue
        own, shapes = [samples[p] for p in positions], table[positions]
        itemsize = BYTES_PER_ELEMENT[name.split()[0]]
        cached_s = 0.0
        own_s = seconds[positions]
        if name in multiplying:
            cached_s = saved.s_per_byte.get(kind_of(name.split()[1]), 0.0)
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
            cached_bytes=saved.most_bytes if cached_s else 0.0,
            cached_rows=saved.rows if cached_s else 0.0,
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
