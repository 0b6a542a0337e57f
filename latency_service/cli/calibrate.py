"""`calibrate` and `latency-service refit`: measured and fitted profiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from latency_service.calibration.recording import write_recording
from latency_service.cli import calibration_tables as tables
from latency_service.cli import durations
from latency_service.cli import options as shared
from latency_service.core.errors import CalibrationError, OptionError
from latency_service.settings import settings
from latency_service.usecases import calibrate as steps
from latency_service.usecases import refit as refits
from latency_service.usecases.destinations import Database, Destination

FOLDER = "calibrations"

Device = Annotated[
    str | None,
    typer.Option("--device", "-d", help="Name or alias of this machine's device, or a new name."),
]


def calibrate(
    device: Device = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="onnxruntime|torch",
            help="What executes networks; with --samples, the name of what executed them.",
        ),
    ] = None,
    provider: Annotated[
        str | None, typer.Option(help="onnxruntime's execution provider, or torch's device.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one operator.")] = 1,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the tensors; repeat it for several. Default: float32, and int8 on a CPU."
        ),
    ] = None,
    budget: Annotated[str, typer.Option(metavar="90s|3m|1h", help="Time for everything.")] = "3m",
    samples: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Fit a recording instead of measuring.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Who published the --samples; none: they are your own.")
    ] = None,
    save_samples: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the measurements in a file, too.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Append to a server's database.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="LATENCY_SERVICE_TOKEN", help="Of the scope calibrate, on the server."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Append nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Let a noisy run replace a better revision.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Where the plots go.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the shapes that are drawn.")] = 0,
) -> None:
    """Measure a device, fit how well it runs each operator, and append that as a revision.

    [bold]calibrate --device my-machine --budget 3m[/]
    """
    budget_s = durations.seconds("--budget", budget)
    if source is not None and samples is None:
        raise OptionError("--source says who published --samples FILE; there is no such file")
    if device is None and samples is None:
        raise OptionError("name the device, as in --device v100, or a new name of your own")
    folder = settings().data_directory / FOLDER
    with _destination(server, token) as destination:
        if samples is not None:
            measured = steps.recorded(samples, destination, device, runtime, source)
            tables.say(f"{len(measured.measurement.samples)} samples of {samples}")
        else:
            job = steps.Job(
                str(device), runtime or "onnxruntime", provider, threads,
                tuple(dict.fromkeys(dtype or ())), budget_s, seed,
            )  # fmt: skip
            measured = _measured(job, destination, folder)
        if save_samples is not None:
            write_recording(save_samples, measured.device, measured.measurement)
        try:
            with shared.working("fitting"):
                outcome = steps.conclude(measured, destination, force, dry_run)
        except KeyboardInterrupt:
            tables.say(
                f"stopped; nothing was stored. The samples are kept in {measured.kept}; to go on: "
                + steps.again(measured, destination)
            )
            raise typer.Exit(130) from None
    stem = f"{outcome.profile.device.slug}.{outcome.profile.runtime}.html"
    page = report or folder / stem
    tables.show(outcome, _report(outcome, page))


@contextmanager
def _destination(server: str | None, token: str | None) -> Iterator[Destination]:
    if server is None:
        with shared.workbench() as bench:
            yield Database(bench)
        return
    from latency_service.usecases.server import Server

    with Server(server, token) as destination:
        yield destination


def _measured(job: steps.Job, destination: Destination, folder: Path) -> steps.Measured:
    """Measure, with everything on the screen."""
    run = steps.begin(job, destination, folder)
    for message in run.messages:
        tables.say(message)
    held = len(run.journal.samples)
    if held:
        tables.say(f"going on from {held} samples in {run.journal.path}")
    try:
        with tables.Watch(f"{run.device.slug}, {run.backend.runtime}", job.budget_s) as watch:
            return steps.measure(run, watch.progress)
    except (KeyboardInterrupt, CalibrationError) as error:
        hint = (
            f"{len(run.journal.samples)} samples are kept in {run.journal.path}; the same command "
            "goes on from there"
        )
        if isinstance(error, CalibrationError):
            raise CalibrationError(
                f"{str(error).rstrip('.')}. Nothing was stored; {hint}"
            ) from error
        tables.say(f"stopped; nothing was stored. {hint}: {tables.command()}")
        raise typer.Exit(130) from None


def _report(outcome: steps.Outcome, page: Path) -> Path | None:
    """Write the plots; a revision that is stored does not fail for want of them."""
    from latency_service.calibration.report import write_report

    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        with shared.working("drawing"):
            write_report(
                page, outcome.profile, outcome.sheet, outcome.measurement, outcome.fits,
                outcome.networks,
            )  # fmt: skip
    except (CalibrationError, OSError) as error:
        tables.say(f"no plots: {error}")
        return None
    return page


def refit(
    device: Annotated[str, typer.Option("--device", "-d", help="Name or alias.")],
    revision: Annotated[
        str | None, typer.Option(help="Number or digest; default: the latest calibration.")
    ] = None,
) -> None:
    """Fit a calibration again from its stored samples; nothing is measured.

    [bold]latency-service refit --device my-machine[/]
    """
    with shared.workbench() as bench, shared.working("fitting"):
        done = refits.refit(bench, device, revision)
    tables.show_refit(done)


alone = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich", add_completion=False)
alone.command()(calibrate)
