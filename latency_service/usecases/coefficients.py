"""Per-layer latency coefficients of a graph on a device: the main job."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

from latency_service.core.answer import Costs, costs_on
from latency_service.core.bind import resolve
from latency_service.core.binding import Binding
from latency_service.core.canonical import canonical_text, graph_id
from latency_service.core.costing import TakesLong, cost_model
from latency_service.core.costs import CostModel, Pruning
from latency_service.core.errors import GraphTooLargeError, OptionError
from latency_service.core.graph import LayerGraph, graph_from_json
from latency_service.core.profile import Profile, Revision
from latency_service.core.roofline import latency_model
from latency_service.core.scoring import structure
from latency_service.storage.graphs import StoredGraph
from latency_service.storage.profiles import Catalogue
from latency_service.usecases.workbench import Workbench

MODELS = ("roofline", "calibrated")
FUSIONS = ("none", "runtime")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked about a graph; docs/api.md describes each option.

    Attributes:
        graph: a graph that came with the request, or the id of a stored one.
    """

    device: str
    graph: LayerGraph | str
    binding: Binding = field(default_factory=Binding)
    pruning: Pruning = field(default_factory=Pruning)
    math: str | None = None
    runtime: str | None = None
    revision: str | None = None
    model: str | None = None
    fusion: str | None = None
    alive: Mapping[str, int] = field(default_factory=dict)


class DeviceUsed(TypedDict):
    """Which revision answered; enough to ask for the same numbers again."""

    name: str
    requested: str
    runtime: str
    revision: int
    digest: str
    origin: str
    runtimes: list[str]


class Coefficients(Costs):
    """The answer of POST /v1/coefficients."""

    device: DeviceUsed
    graph_id: str
    batch_size: int
    dtype: str
    math: str
    model: str
    fusion: str


class Costed(NamedTuple):
    """An answer, and the graph that is to be kept before the answer goes out."""

    answer: Coefficients
    graph: Addressed


@dataclass(frozen=True, slots=True)
class Addressed:
    """A graph and its address.

    Attributes:
        text: its canonical text, to be stored; None: it came from the store.
    """

    graph_id: str
    graph: LayerGraph
    text: str | None = None


def store_graph(bench: Workbench, graph: LayerGraph) -> tuple[str, bool]:
    """Check a graph and store it under its address.

    Returns:
        Its id, and whether it is new.

    Raises:
        GraphTooLargeError: if it has more layers than this installation accepts.
        GraphError: if a stated shape contradicts its operators.
    """
    found = address(bench, graph, Binding(batch_size=1))
    return found.graph_id, keep(bench, found)


def address(bench: Workbench, source: LayerGraph | str, binding: Binding) -> Addressed:
    """The graph that a request is about, with its address; nothing is stored yet.

    Raises:
        UnknownGraphError: if it is named by an id that is not stored, or no longer.
        GraphTooLargeError, GraphError: as `store_graph`.
    """
    if isinstance(source, str):
        return Addressed(source, stored_graph(bench, source))
    most = bench.settings.max_layers
    if source.layer_count > most:
        raise GraphTooLargeError(
            f"the graph has {source.layer_count} layers; this installation accepts {most} "
            "(LATENCY_SERVICE_MAX_LAYERS)"
        )
    # a graph that states every shape, at its own size, is checked where it is bound
    as_it_is = binding.batch_size is None and not binding.shapes
    if not (as_it_is and source.is_complete):
        source = resolve(source)
    text = canonical_text(source)
    return Addressed(graph_id(text), source, text)


def keep(bench: Workbench, found: Addressed) -> bool:
    """Store a graph that came with a request; tells whether it is new."""
    return keep_all(bench, [found])[0]


def kept_lately(bench: Workbench, found: Addressed) -> bool:
    """Whether a graph needs no storing, as far as can be told without asking the database."""
    if found.text is None:
        return True
    if not bench.graphs.seen_lately(found.graph_id):
        return False
    bench.parsed.put(found.graph_id, found.graph)
    return True


def keep_all(bench: Workbench, graphs: Sequence[Addressed]) -> list[bool]:
    """Store the graphs of several requests, all or none; tells of each whether it is new."""
    sent: dict[str, StoredGraph] = {}
    for found in graphs:
        if found.text is not None:
            bench.parsed.put(found.graph_id, found.graph)
            sent[found.graph_id] = StoredGraph(found.graph_id, found.text, found.graph.layer_count)
    created = bench.graphs.put_all(list(sent.values())) if sent else set[str]()
    for known in sent.keys() - created:
        bench.graphs.touch(known)
    return [found.graph_id in created for found in graphs]


def stored_graph(bench: Workbench, address: str) -> LayerGraph:
    """The graph of an id.

    Raises:
        UnknownGraphError: if it is not stored, or no longer.
    """
    graph = bench.parsed.get(address)
    if graph is None:
        graph = bench.parsed.put(address, graph_from_json(json.loads(bench.graphs.get(address))))
    bench.graphs.touch(address)
    return graph


def coefficients(bench: Workbench, request: Request) -> Coefficients:
    """Every layer's costs on a device, the channel groups, and the totals.

    A graph that came with the request is stored once everything about it has proved right.
    """
    found = cost(bench, bench.catalogue(), request)
    keep(bench, found.graph)
    return found.answer


def cost(bench: Workbench, catalogue: Catalogue, request: Request, briefly: bool = False) -> Costed:
    """The same with nothing stored.

    The database is asked only for what the request names: a stored graph, a revision.

    Raises:
        TakesLong: only if `briefly`: it would take more than some ten milliseconds, or the database
            would have to be asked.
    """
    if briefly and (isinstance(request.graph, str) or request.revision is not None):
        raise TakesLong
    revision = find_revision(bench, catalogue, request.device, request.runtime, request.revision)
    kind, fusion = choose(revision.profile, request.model, request.fusion)
    if briefly and kind == "calibrated":
        raise TakesLong  # every kernel and every step of its channels is predicted
    found = address(bench, request.graph, request.binding)
    costs = costed(
        bench, found, request.binding, request.pruning, revision.profile, kind, fusion, briefly
    )
    model = latency_model(costs, revision.profile, request.math, kind == "calibrated")
    answer: Coefficients = {
        "device": device_used(catalogue, request.device, revision),
        "graph_id": found.graph_id,
        "batch_size": costs.batch_size,
        "dtype": costs.dtype,
        "math": model.math,
        "model": kind,
        "fusion": fusion,
        **costs_on(model, structure(costs, request.alive)),
    }
    return Costed(answer, found)


def device_used(catalogue: Catalogue, requested: str, revision: Revision) -> DeviceUsed:
    """The part of an answer that says which numbers it rests on."""
    return {
        "name": revision.device,
        "requested": requested,
        "runtime": revision.runtime,
        "revision": revision.revision,
        "digest": revision.digest,
        "origin": revision.origin,
        "runtimes": sorted(catalogue.runtimes(revision.device)),
    }


def find_revision(
    bench: Workbench,
    catalogue: Catalogue,
    device: str,
    runtime: str | None,
    revision: str | None,
) -> Revision:
    """The revision that a request means.

    Raises:
        UnknownDeviceError: if there is no such device or alias.
        UnknownRevisionError: if it has no such revision, or none for the runtime.
        OptionError: if the revision named is of another runtime than the one named.
    """
    slug = catalogue.resolve(device)
    if revision is None:
        return catalogue.latest(slug, runtime) if runtime else catalogue.default(slug)
    found = bench.profiles.get(slug, revision)
    if runtime is not None and found.runtime != runtime:
        raise OptionError(
            f"revision {found.revision} of {slug!r} is for the runtime {found.runtime!r}, not "
            f"{runtime!r}; leave one of the two out"
        )
    return found


def choose(profile: Profile, model: str | None, fusion: str | None) -> tuple[str, str]:
    """The cost model and the fusion mode in force.

    Raises:
        OptionError: if the profile cannot give what is asked for.
    """
    if model is not None and model not in MODELS:
        raise OptionError(f"model {model!r}: choose one of {', '.join(MODELS)}")
    if fusion is not None and fusion not in FUSIONS:
        raise OptionError(f"fusion {fusion!r}: choose one of {', '.join(FUSIONS)}")
    kind = model or ("roofline" if profile.efficiency is None else "calibrated")
    if kind == "calibrated" and profile.efficiency is None:
        raise OptionError(
            f"device {profile.device.slug!r} (runtime {profile.runtime!r}) has no efficiency "
            'model: it has not been calibrated. Ask for "model": "roofline"'
        )
    if fusion == "runtime" and profile.fusion is None:
        raise OptionError(
            f"device {profile.device.slug!r} (runtime {profile.runtime!r}) has no fusion rules. "
            'Ask for "fusion": "none"'
        )
    merges = kind == "calibrated" and profile.fusion is not None
    return kind, fusion or ("runtime" if merges else "none")


def costed(
    bench: Workbench,
    found: Addressed,
    binding: Binding,
    pruning: Pruning,
    profile: Profile,
    kind: str,
    fusion: str,
    briefly: bool = False,
) -> CostModel:
    """The cost model of a graph for a profile, remembered per binding.

    Args:
        kind, fusion: as `choose` gives them.
        briefly: as in `cost_model`.
    """
    rules = profile.fusion if fusion == "runtime" else None
    efficiency = profile.efficiency if kind == "calibrated" else None
    layout = None if efficiency is None else efficiency.layout
    key: Hashable = (
        found.graph_id, _frozen(binding), pruning, rules, efficiency is not None, layout,
    )  # fmt: skip
    costs = bench.costed.get(key)
    if costs is None:
        made = cost_model(found.graph, binding, pruning, rules, efficiency, briefly)
        costs = bench.costed.put(key, made)
    return costs


def _frozen(binding: Binding) -> Hashable:
    return (
        binding.batch_size,
        tuple(sorted(binding.dims.items())),
        tuple(sorted((name, tuple(shape)) for name, shape in binding.shapes.items())),
        binding.dtype,
        binding.unknown_ops,
    )
