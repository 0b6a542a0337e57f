"""Options that several commands share, and what they mean together."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from latency_service.api.options import Options, validated
from latency_service.core.errors import ModelFileError, OptionError
from latency_service.core.graph import LayerGraph
from latency_service.ingest import read_network
from latency_service.settings import settings
from latency_service.usecases import Workbench, open_workbench

messages = Console(stderr=True, highlight=False)

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An ONNX file, or a layer graph in JSON.")
]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", "-d", help="Name or alias of a device; repeat it for several."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="INPUT=1,3,224,224", help="Shape of an input; repeatable."),
]
Dims = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=128", help="Value of a named dimension; repeatable."),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Replaces every input's batch axis.")]
Dtype = Annotated[str | None, typer.Option(help="What floating tensors are stored as.")]
Math = Annotated[str | None, typer.Option(help="Precision of the multiply.")]
Runtime = Annotated[str | None, typer.Option(help="What executes the network.")]
RevisionOf = Annotated[
    str | None, typer.Option("--revision", help="Number or digest of a profile's revision.")
]
ModelKind = Annotated[
    str | None, typer.Option("--model", metavar="roofline|calibrated", help="Cost model.")
]
Fusion = Annotated[str | None, typer.Option(metavar="none|runtime", help="What is merged.")]
UnknownOps = Annotated[
    str,
    typer.Option(metavar="refuse|freeze", help="freeze: charge unknown operators their bytes."),
]
Alive = Annotated[
    list[str] | None,
    typer.Option("--alive", metavar="GROUP=32", help="Live channels of a group; repeatable."),
]
ForceGroup = Annotated[
    list[str] | None, typer.Option(help="Regular expression over layer names: one group.")
]
Exclude = Annotated[
    list[str] | None, typer.Option(help="Regular expression over layer names: never pruned.")
]
FreezeOutputs = Annotated[bool, typer.Option(help="Keep the channels of the network's outputs.")]


def pairs(option: str, values: Sequence[str] | None) -> dict[str, str]:
    """NAME=VALUE options as a mapping.

    Raises:
        OptionError: for one without name or value.
    """
    found = {}
    for text in values or ():
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value:
            raise OptionError(f"{option} {text!r} must be written as NAME=VALUE")
        found[name] = value
    return found


def whole(option: str, text: str) -> int:
    """A whole number in an option.

    Raises:
        OptionError: if it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise OptionError(f"{option}: {text!r} is not a whole number") from None


def options(
    shape: Sequence[str] | None = None,
    dim: Sequence[str] | None = None,
    alive: Sequence[str] | None = None,
    **given: Any,
) -> Options:
    """The API's options from those of the command line."""
    document: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    document["shapes"] = {
        name: [whole("--shape", part) for part in value.split(",")]
        for name, value in pairs("--shape", shape).items()
    }
    document["dims"] = {name: whole("--dim", value) for name, value in pairs("--dim", dim).items()}
    document["alive"] = {
        name: whole("--alive", value) for name, value in pairs("--alive", alive).items()
    }
    checked: Options = validated(Options, document)
    return checked


def required(devices: Sequence[str] | None) -> list[str]:
    """The devices that were named.

    Raises:
        OptionError: if there is none.
    """
    if not devices:
        raise OptionError(
            "name at least one device, as in --device v100; latency-service devices list has them"
        )
    return list(devices)


def read_model(path: Path) -> LayerGraph:
    """The network in a file.

    Raises:
        ModelFileError: if there is no such file, or it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}") from None
    return read_network(data)


@contextmanager
def workbench() -> Iterator[Workbench]:
    """The installation's own database, prepared where it is new."""
    with working("opening the database"):
        bench = open_workbench(settings())
    try:
        yield bench
    finally:
        bench.close()


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show that something takes a while, where somebody watches."""
    if messages.is_terminal:
        with messages.status(what):
            yield
    else:
        yield


def write_bytes(data: bytes, output: Path | None) -> None:
    """Write a file whole or not at all; None or "-" is the standard output."""
    if output is None or str(output) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    partial = output.with_name(f".{output.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OptionError(f"{output} cannot be written: {error.strerror or error}") from None
