"""`latency-service devices`: profiles listed, shown, imported and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from latency_service.cli import options as shared
from latency_service.core.errors import OptionError
from latency_service.core.profile import Profile, profile_to_json
from latency_service.core.units import format_count
from latency_service.storage.seeds import profile_to_toml, read_profile_file
from latency_service.usecases import devices

app = typer.Typer(help="Device profiles: list, show, import, export.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="DEVICE", help="Name or alias.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the API answers.")]


@app.command("list")
def list_devices(
    query: Annotated[
        str | None, typer.Option(help="Part of a name, alias, title or vendor.")
    ] = None,
    kind: Annotated[str | None, typer.Option(metavar="gpu|cpu|tpu|npu", help="Kind.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the devices there are, with peak and bandwidth."""
    with shared.workbench() as bench:
        page = devices.list_devices(bench, query, kind)
    if as_json:
        shared.write_bytes(orjson.dumps(page) + b"\n", None)
        return
    table = Table("device", "aliases", "kind", "peak", "math", "bandwidth", "runtime", "origin")
    for row in page["devices"]:
        table.add_row(
            row["name"],
            ", ".join(row["aliases"]),
            row["kind"],
            format_count(row["peak_flops_per_s"], "FLOP/s"),
            row["peak_math"],
            format_count(row["bytes_per_s"], "B/s"),
            row["default_runtime"],
            row["origin"],
        )
    console = _console()
    console.print(table)
    console.print(f"{page['total']} devices")


@app.command()
def show(
    name: Name,
    runtime: Annotated[str | None, typer.Option(help="Default: the device's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a device: every rate with its origin and source, its runtimes and revisions."""
    with shared.workbench() as bench:
        device = devices.show_device(bench, name, runtime)
        past = devices.history(bench, name)
    if as_json:
        shared.write_bytes(orjson.dumps(device) + b"\n", None)
        return
    profile = device["default"]["profile"]
    console = _console()
    console.print(f"[bold]{escape(device['title'])}[/]  ({device['name']}, {device['kind']})")
    if device["aliases"]:
        console.print(f"also called {', '.join(device['aliases'])}")
    if profile["device"]["notes"]:
        console.print(escape(profile["device"]["notes"]))
    table = Table("what", "rate", "origin", "source", title=f"runtime {profile['runtime']}")
    memory = profile["memory"]
    table.add_row(
        "memory",
        format_count(memory["bytes_per_s"], "B/s"),
        memory["origin"],
        escape(_witness(memory)),
    )
    for rate in profile["compute"]:
        mark = " (default)" if rate["default"] else ""
        table.add_row(
            f"{rate['dtype']} in {rate['math']}{mark}",
            format_count(rate["flops_per_s"], "FLOP/s"),
            rate["origin"],
            escape(_witness(rate)),
        )
    console.print(table)
    for revision in past["revisions"]:
        console.print(
            f"revision {revision['revision']}: {revision['runtime']}, {revision['origin']}, "
            f"{revision['created_at']}, {revision['digest']}",
            markup=False,
        )


def _witness(row: dict[str, str | None]) -> str:
    return f"{row['source']}; {row['note']}" if row.get("note") else str(row["source"])


@app.command("import")
def import_profiles(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="TOML or JSON profiles.")],
    origin: Annotated[
        str, typer.Option(metavar="datasheet|measured|published", help="Where they come from.")
    ] = "datasheet",
) -> None:
    """Append profiles from files; all files are read before anything is appended.

    [bold]latency-service devices import my-board.toml[/]
    """
    if origin not in ("datasheet", "measured", "published"):
        raise OptionError(f"--origin {origin!r}: choose datasheet, measured or published")
    profiles = [profile for path in files for profile in _read(path)]
    with shared.workbench() as bench:
        for profile in profiles:
            revision, created = devices.append(bench, profile.device.slug, profile, origin)
            state = "appended" if created else "was there already"
            print(f"{revision.device} revision {revision.revision} ({revision.runtime}): {state}")


def _read(path: Path) -> list[Profile]:
    if not path.is_file():
        raise OptionError(f"{path} is no file")
    return read_profile_file(path)


@app.command()
def export(
    name: Name,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; - is the standard output.")
    ] = Path("-"),
    as_json: Annotated[bool, typer.Option("--json", help="JSON in place of TOML.")] = False,
) -> None:
    """Write a device's latest profiles, one a runtime, in the format that import reads."""
    with shared.workbench() as bench:
        catalogue = bench.catalogue()
        slug = catalogue.resolve(name)
        runtimes = catalogue.runtimes(slug)
    order = sorted(runtimes, key=lambda runtime: (runtime != "ideal", runtime))
    profiles = [runtimes[runtime].profile for runtime in order]
    if as_json:
        rows = [profile_to_json(profile) for profile in profiles]
        data = orjson.dumps(rows, option=orjson.OPT_INDENT_2) + b"\n"
    else:
        data = profile_to_toml(profiles).encode()
    shared.write_bytes(data, output)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)
