"""`latency-service validate`: predicted against measured, on this machine, now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from latency_service.calibration.backends.onnxruntime_backend import OnnxRuntime, open_backend
from latency_service.calibration.timing import MOST_SHARED
from latency_service.cli import options as shared
from latency_service.core.binding import Binding
from latency_service.core.errors import CalibrationError, ModelFileError
from latency_service.core.units import format_seconds
from latency_service.ingest import read_network
from latency_service.usecases.coefficients import find_revision
from latency_service.usecases.validate import Validation
from latency_service.usecases.validate import validate as compare

# A reference kernel repeats within this; by more, the machine's clock has changed.
_OTHER_PACE = 0.03


def validate(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL.onnx...", help="ONNX files.")],
    device: Annotated[str, typer.Option("--device", "-d", help="A calibrated device.")],
    runtime: Annotated[str | None, typer.Option(help="Its runtime; default: as run here.")] = None,
    revision: shared.RevisionOf = None,
    provider: Annotated[str | None, typer.Option(help="onnxruntime's execution provider.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one operator.")] = 1,
    shape: shared.Shapes = None,
    dim: shared.Dims = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run networks on this machine and compare with what the device's profile predicts."""
    backend = open_backend(provider, threads)
    assert isinstance(backend, OnnxRuntime)
    asked = shared.options(shape=shape, dim=dim)
    options = Binding(
        dims=asked.dims, shapes={name: tuple(size) for name, size in asked.shapes.items()}
    )
    found: list[Validation] = []
    with shared.workbench() as bench:
        catalogue = bench.catalogue()
        if runtime is None and backend.runtime not in catalogue.runtimes(device):
            raise CalibrationError(
                f"{device!r} has not been calibrated for {backend.runtime!r}, which is what runs "
                f"here; run: calibrate --device {device} --threads {threads}"
            )
        profile = find_revision(
            bench, catalogue, device, runtime or backend.runtime, revision
        ).profile
        for path in models:
            try:
                content = path.read_bytes()
            except OSError as error:
                raise ModelFileError(f"{path} cannot be read: {error}") from None
            graph = read_network(content)
            with shared.working(f"running {path.name}"):
                found.append(compare(str(path), content, graph, options, profile, backend))
    if json:
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    _show(found)


def _show(found: list[Validation]) -> None:
    out = Console()
    table = Table(title="Predicted against measured")
    for heading in ("model", "measured", "predicted", "90 % interval", "error", "inside"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in found:
        table.add_row(
            Path(row["model"]).name,
            format_seconds(row["measured_s"]),
            format_seconds(row["predicted_s"]),
            _interval(row),
            f"{100 * row['error']:+.1f} %",
            {True: "yes", False: "no", None: "-"}[row["inside"]],
        )
    out.print(table)
    if len(found) > 1:
        mean = sum(abs(row["error"]) for row in found) / len(found)
        out.print(f"mean absolute error {100 * mean:.1f} %", highlight=False)
    paces = [row["pace"] for row in found if row["pace"] is not None]
    pace = sum(paces) / len(paces) if paces else 1.0
    if abs(pace - 1.0) > _OTHER_PACE:
        out.print(
            f"a reference kernel takes {100 * abs(pace - 1.0):.0f} % "
            f"{'longer' if pace > 1.0 else 'less'} than during the calibration: the machine runs "
            "at another pace, and networks with it",
            highlight=False,
        )
    beside = sum(row["shared"] for row in found) / len(found)
    if beside > MOST_SHARED:
        out.print(
            f"another thread ran on the same core during {100 * beside:.0f} % of the runs: "
            "networks take longer then, predictions are of a machine of one's own",
            highlight=False,
        )
    for row in found:
        parts = Table(title=Path(row["model"]).name)
        for heading in ("family", "kernels", "predicted", "share"):
            parts.add_column(heading, justify="left" if heading == "family" else "right")
        for part in row["families"][:12]:
            parts.add_row(
                part["family"],
                str(part["kernels"]),
                format_seconds(part["predicted_s"]),
                f"{100 * part['predicted_s'] / row['predicted_s']:.1f} %",
            )
        out.print(parts)


def _interval(row: Validation) -> str:
    if row["low_s"] is None or row["high_s"] is None:
        return "-"
    return f"{format_seconds(row['low_s'])} to {format_seconds(row['high_s'])}"
