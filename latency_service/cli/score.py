"""`latency-service score`: many sub-networks of one network on several devices."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import typer
from rich.console import Console
from rich.table import Table

from latency_service.cli import options as shared
from latency_service.core.answer import GroupRow
from latency_service.core.costs import FloatArray
from latency_service.core.errors import OptionError
from latency_service.core.units import format_count, format_seconds
from latency_service.usecases import ScoreRequest, coefficients, scores
from latency_service.usecases.scores import Scores

SHOWN = 20


def score(
    path: shared.Model,
    device: shared.Devices = None,
    alive: Annotated[
        Path | None,
        typer.Option(
            help="Live channels, a row a sub-network: .npy, .csv (with a header of group "
            "ids) or .json (a list of lists)."
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--groups", metavar="g1,g4", help="What the columns of --alive are about."),
    ] = None,
    random: Annotated[
        int | None, typer.Option(min=1, help="Draw this many random sub-networks instead.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of --random.")] = 0,
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
    force_group: shared.ForceGroup = None,
    exclude: shared.Exclude = None,
    freeze_outputs: shared.FreezeOutputs = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's answer.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a line a sub-network.")] = False,
    npy: Annotated[
        Path | None, typer.Option(help="Write the latencies (sub-networks x devices) here.")
    ] = None,
) -> None:
    """Score many sub-networks at once: latency on every device, FLOPs, weights, parameters.

    [bold]latency-service score model.onnx --device v100 --device p100 --random 1000 --csv[/]
    """  # fmt: skip
    names = shared.required(device)
    if (alive is None) == (random is None):
        raise OptionError("give either --alive FILE or --random N")
    chosen = shared.options(
        shape, dim, batch_size=batch_size, dtype=dtype, math=math, runtime=runtime,
        revision=revision, model=model, fusion=fusion, unknown_ops=unknown_ops,
        force_group=force_group, exclude=exclude, freeze_outputs=freeze_outputs,
    )  # fmt: skip
    with shared.workbench() as bench, shared.working(f"scoring {path.name}"):
        graph = shared.read_model(path)
        found = coefficients(bench, chosen.request(names[0], graph))
        if random is not None:
            ids, matrix = _random(found["groups"], random, seed)
        else:
            assert alive is not None
            ids, matrix = _read(alive, group)
        answer = scores(
            bench,
            ScoreRequest(
                devices=names,
                graph=found["graph_id"],
                groups=ids,
                alive=matrix,
                binding=chosen.binding(),
                pruning=chosen.pruning(),
                math=math,
                runtime=runtime,
                revision=revision,
                model=model,
                fusion=fusion,
            ),
        )
    if npy is not None:
        buffer = io.BytesIO()
        np.save(buffer, answer["latency_s"])
        shared.write_bytes(buffer.getvalue(), npy)
    elif as_json:
        data = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        shared.write_bytes(data + b"\n", None)
    elif as_csv:
        shared.write_bytes(_csv(answer, ids, matrix).encode(), None)
    else:
        _show(answer)


def _random(groups: list[GroupRow], count: int, seed: int) -> tuple[list[str], FloatArray]:
    """Widths uniform from 1 to full, independently per prunable group."""
    prunable = [group for group in groups if group["prunable"]]
    if not prunable:
        raise OptionError("the network has no prunable channel group to draw from")
    generator = np.random.default_rng(seed)
    drawn = [generator.integers(1, group["size"] + 1, count) for group in prunable]
    return [group["id"] for group in prunable], np.stack(drawn, axis=1).astype(np.float64)


def _read(path: Path, groups: str | None) -> tuple[list[str], FloatArray]:
    try:
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                header, *rows = list(csv.reader(file))
            return header, np.array(rows, dtype=np.float64).reshape(len(rows), len(header))
        if groups is None:
            raise OptionError("--groups names the columns of a .npy or .json file: --groups g1,g4")
        names = [name for name in groups.split(",") if name]
        if path.suffix == ".npy":
            return names, np.load(path, allow_pickle=False).astype(np.float64)
        rows = orjson.loads(path.read_bytes())
        return names, np.array(rows, dtype=np.float64).reshape(len(rows), -1)
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError) as error:
        raise OptionError(f"{path} holds no matrix of live channels: {error}") from None


def _csv(answer: Scores, groups: list[str], alive: FloatArray) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    latencies = [f"latency_s {device['name']}" for device in answer["devices"]]
    writer.writerow((*groups, *latencies, "flops", "weights", "parameters"))
    columns: list[Any] = [
        alive.astype(int).tolist(), answer["latency_s"].tolist(), answer["flops"].tolist(),
        answer["weights"].tolist(), answer["parameters"].tolist(),
    ]  # fmt: skip
    for counts, seconds, flops, weights, parameters in zip(*columns, strict=True):
        writer.writerow((*counts, *seconds, flops, weights, parameters))
    return buffer.getvalue()


def _show(answer: Scores) -> None:
    table = Table("sub-network", "FLOPs", "weights")
    for device in answer["devices"]:
        table.add_column(device["name"], justify="right")
    count = answer["flops"].shape[0]
    for row in range(min(count, SHOWN)):
        table.add_row(
            str(row),
            format_count(float(answer["flops"][row])),
            format_count(float(answer["weights"][row])),
            *(format_seconds(float(value)) for value in answer["latency_s"][row]),
        )
    console = Console(highlight=False)
    console.print(table)
    if count > SHOWN:
        console.print(f"{count - SHOWN} more; --csv, --json or --npy give all")
