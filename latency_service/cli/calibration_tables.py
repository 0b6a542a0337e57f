"""What `calibrate` shows while it measures, and at its end."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from latency_service.calibration.report import FamilyRow, NetworkPoint, family_rows
from latency_service.cli import options as shared
from latency_service.cli.durations import shown
from latency_service.core.profile import Profile
from latency_service.core.units import format_count, format_seconds
from latency_service.usecases.calibrate import Outcome
from latency_service.usecases.refit import Refit


def say(text: str) -> None:
    """A message on the standard error, in one piece."""
    shared.messages.print(text, markup=False, soft_wrap=True)


def command() -> str:
    """The command line as it was given, secrets left out."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    for place, word in enumerate(words):
        if word == "--token" and place + 1 < len(words):
            words[place + 1] = "TOKEN"
        elif word.startswith("--token="):
            words[place] = "--token=TOKEN"
    return shlex.join(words)


class Watch:
    """Phase, time against budget, and what the campaign says, drawn anew with every batch.

    Where nobody watches, a line a phase.
    """

    def __init__(self, title: str, budget_s: float) -> None:
        self._title = title
        self._budget_s = budget_s
        self._started_s = time.monotonic()
        self._phase = self._message = ""
        self._live = Live(
            console=shared.messages, get_renderable=self._drawn, refresh_per_second=4,
            transient=True,
        )  # fmt: skip

    def __enter__(self) -> Watch:
        """Start drawing."""
        if shared.messages.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the last state on the screen."""
        if shared.messages.is_terminal:
            self._live.stop()
        say(f"{self._title}: {self._elapsed()}, {self._message}")

    def progress(self, phase: str, share: float, message: str) -> None:
        """What the campaign tells; see latency_service/calibration/campaign.py."""
        if phase != self._phase and not shared.messages.is_terminal:
            say(f"{self._elapsed()} {phase}: {message}")
        self._phase, self._message = phase, message

    def _elapsed(self) -> str:
        return f"{shown(time.monotonic() - self._started_s)} of {shown(self._budget_s)}"

    def _drawn(self) -> Table:
        used_s = min(time.monotonic() - self._started_s, self._budget_s)
        grid = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._budget_s, completed=used_s, width=30)
        grid.add_row(self._title, bar, self._elapsed(), self._phase, escape(self._message))
        return grid


def show(outcome: Outcome, page: Path | None) -> None:
    """The report of a calibration."""
    console = _console()
    measurement = outcome.measurement
    console.print(_rates(outcome.profile, outcome.sheet))
    console.print(_families(family_rows(outcome.fits)))
    if outcome.networks:
        console.print(_networks(outcome.networks))
    if measurement.dispatch_s:
        console.print(f"between two kernels: {format_seconds(measurement.dispatch_s)}")
    if measurement.noise:
        say(f"this run is noisy: {measurement.noise}")
    warning = measurement.environment.get("warning")
    if warning:
        say(f"note: {warning}")
    appended = outcome.appended
    if appended is None:
        print("dry run: nothing was stored")
    else:
        state = "stored as" if appended.created else "was there already:"
        print(
            f"{state} revision {appended.revision} of {appended.device}, runtime "
            f"{appended.runtime}, in {appended.where}"
        )
    if outcome.kept is not None:
        print(f"samples: {outcome.kept}")
    if page is not None:
        print(f"plots: {page}")


def show_refit(done: Refit) -> None:
    """What a refit found."""
    _console().print(_families(family_rows(done.fits)))
    new = done.appended
    if new.created:
        print(
            f"{new.device} revision {done.before} fitted again: stored as revision {new.revision}, "
            f"runtime {new.runtime}"
        )
    else:
        print(
            f"{new.device} revision {done.before} fitted again gives the profile of revision "
            f"{new.revision}: nothing to store"
        )


def _rates(profile: Profile, sheet: Profile | None) -> Table:
    table = Table("rate", "profile", "data sheet", "share", "origin", title=_title(profile))
    rows = [(f"{r.dtype} in {r.math}", r.flops_per_s, "FLOP/s", r.origin) for r in profile.compute]
    rows.append(("memory", profile.memory.bytes_per_s, "B/s", profile.memory.origin))
    promised = {"memory": sheet.memory.bytes_per_s} if sheet else {}
    for rate in sheet.compute if sheet else ():
        promised[f"{rate.dtype} in {rate.math}"] = rate.flops_per_s
    for name, value, unit, origin in rows:
        most = promised.get(name)
        table.add_row(
            name,
            format_count(value, unit),
            "" if most is None else format_count(most, unit),
            "" if most is None else f"{100 * value / most:.0f} %",
            origin,
        )
    return table


def _title(profile: Profile) -> str:
    return escape(f"{profile.device.name}, {profile.runtime}")


def _families(rows: list[FamilyRow]) -> Table:
    table = Table("operator family", "samples", "median error", title="left out of the fit")
    for row in rows:
        # one sample alone cannot be left out
        error = f"{100 * row.median_error:.1f} %" if row.samples > 1 else "-"
        table.add_row(row.name, str(row.samples), error)
    return table


def _networks(points: Sequence[NetworkPoint]) -> Table:
    table = Table(
        "network", "measured", "predicted", "error", "90 % interval",
        title="whole networks that took no part in the fit",
    )  # fmt: skip
    for point in points:
        interval = "-"
        if point.low_s is not None and point.high_s is not None:
            interval = f"{format_seconds(point.low_s)} to {format_seconds(point.high_s)}"
        table.add_row(
            point.name,
            format_seconds(point.measured_s),
            format_seconds(point.predicted_s),
            f"{100 * (point.predicted_s / point.measured_s - 1):+.1f} %",
            interval,
        )
    return table


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)
