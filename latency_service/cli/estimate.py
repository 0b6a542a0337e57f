"""`latency-service estimate`: what networks cost on devices, layer by layer."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from latency_service.cli import options as shared
from latency_service.core.answer import LayerCost
from latency_service.core.errors import OptionError
from latency_service.core.units import format_count, format_seconds
from latency_service.usecases import coefficients
from latency_service.usecases.coefficients import Coefficients

SORTS: dict[str, Callable[[LayerCost], Any]] = {
    "latency": lambda layer: -layer["latency_s"],
    "flops": lambda layer: -layer["flops"],
    "bytes": lambda layer: -layer["bytes"],
    "name": lambda layer: layer["name"],
}
SECONDS_PER = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def estimate(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="ONNX files or layer graphs (JSON).")
    ],
    device: shared.Devices = None,
    shape: shared.Shapes = None,
    dim: shared.Dims = None,
    batch_size: shared.BatchSize = None,
    dtype: shared.Dtype = None,
    math: shared.Math = None,
    runtime: shared.Runtime = None,
    revision: shared.RevisionOf = None,
    model: shared.ModelKind = None,
    fusion: shared.Fusion = None,
    unknown_ops: shared.UnknownOps = "refuse",
    sort: Annotated[
        str, typer.Option(metavar="|".join(["none", *SORTS]), help="Order of the layers.")
    ] = "none",
    pattern: Annotated[
        str | None, typer.Option("--filter", help="Show layers whose name this matches.")
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Show this many layers.")] = None,
    unit: Annotated[
        str, typer.Option(metavar="|".join(["auto", *SECONDS_PER]), help="Unit of latencies.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's answers.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the layers as CSV.")] = False,
) -> None:
    """What networks cost on devices: a row a layer, a column a device, and totals.

    [bold]latency-service estimate resnet50.onnx -d v100 -d p100 --sort latency --top 10[/]
    """
    chosen = shared.options(
        shape, dim, batch_size=batch_size, dtype=dtype, math=math, runtime=runtime,
        revision=revision, model=model, fusion=fusion, unknown_ops=unknown_ops,
    )  # fmt: skip
    names = shared.required(device)
    select = _selection(sort, pattern, top)
    if unit != "auto" and unit not in SECONDS_PER:
        raise OptionError(f"--unit {unit!r}: choose one of auto, {', '.join(SECONDS_PER)}")
    with shared.workbench() as bench:
        found: list[tuple[Path, list[Coefficients]]] = []
        for path in models:
            with shared.working(f"costing {path.name}"):
                graph = shared.read_model(path)
                answers = [coefficients(bench, chosen.request(name, graph)) for name in names]
            found.append((path, answers))
    if as_json:
        flat = [answer for _, answers in found for answer in answers]
        shared.write_bytes(orjson.dumps(flat[0] if len(flat) == 1 else flat) + b"\n", None)
    elif as_csv:
        shared.write_bytes(_csv(found, select).encode(), None)
    else:
        for path, answers in found:
            _show(path, answers, select, unit)


Selection = Callable[[list[LayerCost]], list[int]]


def _selection(sort: str, pattern: str | None, top: int | None) -> Selection:
    """Which rows are shown, in which order."""
    if sort != "none" and sort not in SORTS:
        raise OptionError(f"--sort {sort!r}: choose one of none, {', '.join(SORTS)}")
    try:
        wanted = re.compile(pattern or "")
    except re.error as error:
        raise OptionError(f"--filter {pattern!r} is no regular expression ({error})") from None

    def select(layers: list[LayerCost]) -> list[int]:
        rows = [row for row, layer in enumerate(layers) if wanted.search(layer["name"])]
        if sort != "none":
            rows.sort(key=lambda row: SORTS[sort](layers[row]))
        return rows[:top]

    return select


def _seconds(value: float, unit: str) -> str:
    return format_seconds(value) if unit == "auto" else f"{value / SECONDS_PER[unit]:.6g}"


def _show(path: Path, answers: Sequence[Coefficients], select: Selection, unit: str) -> None:
    # a pipe has no width: whole names there, the terminal's width elsewhere
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    first = answers[0]
    rows = select(first["layers"])
    table = Table(title=escape(f"{path.name}, batch {first['batch_size']}, {first['dtype']}"))
    table.add_column("layer", overflow="fold")
    table.add_column("op")
    for answer in answers:
        used = answer["device"]
        suffix = "" if unit == "auto" else f" ({unit})"
        table.add_column(escape(f"{used['name']}{suffix}"), justify="right")
        table.add_column("bound")
    table.add_column("FLOPs", justify="right")
    table.add_column("bytes", justify="right")
    for row in rows:
        layer = first["layers"][row]
        cells = [escape(layer["name"]), layer["op"]]
        for answer in answers:
            own = answer["layers"][row]
            cells += [_seconds(own["latency_s"], unit), own["bound"]]
        table.add_row(*cells, format_count(layer["flops"]), format_count(layer["bytes"], "B"))
    table.add_section()
    totals = [f"total of {len(first['layers'])} layers", ""]
    for answer in answers:
        totals += [_seconds(answer["totals"]["latency_s"], unit), ""]
    sums = first["totals"]
    table.add_row(*totals, format_count(sums["flops"]), format_count(sums["bytes"], "B"))
    console.print(table)
    coverage = first["coverage"]
    console.print(
        f"weights {format_count(sums['weights'])}, parameters {format_count(sums['parameters'])}; "
        f"{coverage['costed']} layers costed, {coverage['free']} free, "
        f"{coverage['assumed']} assumed"
    )
    for answer in answers:
        used = answer["device"]
        console.print(
            f"{used['name']}: runtime {used['runtime']}, revision {used['revision']} "
            f"({used['origin']}), math {answer['math']}",
            markup=False,
        )
        for assumption in answer["assumptions"]:
            console.print(f"  assumed: {assumption}", markup=False)


def _csv(found: Sequence[tuple[Path, list[Coefficients]]], select: Selection) -> str:
    buffer = io.StringIO()
    fields = (
        "latency_s", "compute_s", "memory_s", "overhead_s", "bound", "flops", "bytes", "weights",
        "parameters", "n_in", "n_out",
    )  # fmt: skip
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("model", "device", "runtime", "revision", "layer", "op", *fields))
    for path, answers in found:
        for answer in answers:
            used = answer["device"]
            about = (path.name, used["name"], used["runtime"], used["revision"])
            for row in select(answer["layers"]):
                layer: dict[str, Any] = {**answer["layers"][row]}
                values = (layer[field] for field in fields)
                writer.writerow((*about, layer["name"], layer["op"], *values))
    return buffer.getvalue()
