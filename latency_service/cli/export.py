"""`latency-service coefficients`: an answer in a file, for training without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer

from latency_service.cli import options as shared
from latency_service.core.errors import OptionError
from latency_service.usecases import coefficients as answer


def coefficients(
    path: shared.Model,
    device: shared.Devices = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; - is the standard output.")
    ] = Path("-"),
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
    alive: shared.Alive = None,
    force_group: shared.ForceGroup = None,
    exclude: shared.Exclude = None,
    freeze_outputs: shared.FreezeOutputs = True,
) -> None:
    """Write the API's answer to a file: coefficients and channel groups of a network on a device.

    [bold]latency-service coefficients model.onnx --device v100 -o v100.json[/]
    """
    names = shared.required(device)
    if len(names) > 1:
        raise OptionError(
            "a file holds one device's coefficients; run the command for each of "
            + ", ".join(names)
        )
    chosen = shared.options(
        shape, dim, alive, batch_size=batch_size, dtype=dtype, math=math, runtime=runtime,
        revision=revision, model=model, fusion=fusion, unknown_ops=unknown_ops,
        force_group=force_group, exclude=exclude, freeze_outputs=freeze_outputs,
    )  # fmt: skip
    with shared.workbench() as bench, shared.working(f"costing {path.name}"):
        graph = shared.read_model(path)
        found = answer(bench, chosen.request(names[0], graph))
    shared.write_bytes(orjson.dumps(found) + b"\n", output)
    if str(output) != "-":
        used = found["device"]
        shared.messages.print(
            f"{output}: {len(found['layers'])} layers on {used['name']}, runtime "
            f"{used['runtime']}, revision {used['revision']}",
            markup=False,
        )
