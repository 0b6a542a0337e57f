"""A calibration as one HTML page that needs no network: what was measured, and how well it fits.

Plotly is part of the page, so that it opens anywhere, years later. It is imported on use: nothing
else needs it, and it is slow to import.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latency_service.calibration.measurement import Measurement
from latency_service.core.errors import CalibrationError
from latency_service.core.fit import FamilyFit
from latency_service.core.profile import Profile
from latency_service.core.sample import Sample
from latency_service.core.units import format_count, format_seconds

# Beyond so many markers SVG is slow, and WebGL draws them.
_MANY = 4000


@dataclass(frozen=True, slots=True)
class NetworkPoint:
    """A whole network that took no part in the fit."""

    name: str
    measured_s: float
    predicted_s: float
    low_s: float | None = None
    high_s: float | None = None


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """How one operator family was fitted.

    Attributes:
        errors: (N,) predicted / measured - 1 of each sample when it was left out of the fit.
    """

    name: str
    median_error: float
    samples: int
    errors: tuple[float, ...]


def family_rows(fits: Sequence[FamilyFit]) -> list[FamilyRow]:
    """Every family with its cross-validated errors, the one with most samples first."""
    return [
        FamilyRow(
            fit.name,
            fit.model.median_error,
            fit.model.samples,
            tuple((np.exp(-np.asarray(fit.residuals)) - 1.0).tolist()),
        )
        for fit in fits
    ]


def write_report(
    path: Path,
    profile: Profile,
    sheet: Profile | None,
    measurement: Measurement,
    fits: Sequence[FamilyFit],
    networks: Sequence[NetworkPoint] = (),
) -> None:
    """Write the page.

    Args:
        sheet: the device's data sheet; None: there is nothing to compare with.
        networks: predicted and measured as a whole.

    Raises:
        CalibrationError: if the file cannot be written.
    """
    figures = [_scatter(measurement.samples, fits), _errors(fits)]
    if networks:
        figures.append(_networks(networks))
    if measurement.levels:
        figures.append(_bandwidth(measurement, sheet))
    figures.append(_rates(profile, sheet))
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=n == 0, default_height="540px")
        for n, figure in enumerate(figures)
    ]
    title = html.escape(f"{profile.device.name}: {profile.runtime}")
    page = _PAGE.format(title=title, facts=_facts(measurement, profile), body="\n".join(parts))
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        _forget(partial)
        raise CalibrationError(
            f"the report {path} cannot be written: {error.strerror or error}"
        ) from None


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font-family: system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem }}
dd {{ margin: 0 }}
</style>
<h1>{title}</h1>
<dl>{facts}</dl>
{body}
</html>
"""


def _facts(measurement: Measurement, profile: Profile) -> str:
    rows: dict[str, str] = {
        "profile": profile.digest,
        "samples": str(len(measurement.samples)),
        "dispatch": format_seconds(measurement.dispatch_s),
    }
    rows |= {str(key): str(value) for key, value in measurement.environment.items()}
    if measurement.noise:
        rows["noise"] = measurement.noise
    return "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in rows.items()
    )


def _forget(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def describe(sample: Sample) -> str:
    """An operator and its shapes on one line: "Conv 1x3x224x224, 64x3x7x7 strides [2, 2]"."""
    work = sample.workload
    shapes = ", ".join("x".join(map(str, shape)) or "scalar" for shape in work.inputs)
    told = [f"{key} {value}" for key, value in work.attributes.items() if value not in (1, "", [])]
    merged = [f"+ {op}" for op in work.merges]
    return " ".join([work.op, shapes, *told, *merged])


def _figure(title: str, x: Mapping[str, Any], y: Mapping[str, Any]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        title=title, template="plotly_white", xaxis=dict(x), yaxis=dict(y), hovermode="closest"
    )
    return figure


def _axis(title: str, kind: str = "log", **further: Any) -> dict[str, Any]:
    return {"title": {"text": title}, "type": kind, **further}


def _scatter(samples: Sequence[Sample], fits: Sequence[FamilyFit]) -> Any:
    import plotly.graph_objects as go

    figure = _figure(
        "Operators: predicted by a fit that left them out, against measured",
        _axis("measured, s"),
        _axis("predicted, s"),
    )
    kind = go.Scattergl if sum(len(fit.positions) for fit in fits) > _MANY else go.Scatter
    seconds: list[float] = []
    for fit in fits:
        own = [samples[position] for position in fit.positions]
        measured = np.array([sample.latency_s for sample in own])
        seconds += measured.tolist()
        figure.add_trace(
            kind(
                x=measured.tolist(),
                y=(measured * np.exp(-np.asarray(fit.residuals))).tolist(),
                mode="markers",
                marker={"size": 5, "opacity": 0.6},
                name=fit.name,
                text=[html.escape(describe(sample)) for sample in own],
                hovertemplate="%{text}<br>measured %{x:.4g} s<br>predicted %{y:.4g} s",
            )
        )
    _diagonal(figure, seconds)
    return figure


def _diagonal(figure: Any, seconds: Sequence[float]) -> None:
    if seconds:
        ends = [min(seconds), max(seconds)]
        figure.add_scatter(
            x=ends, y=ends, mode="lines", name="equal", line={"color": "black", "width": 1}
        )


def _errors(fits: Sequence[FamilyFit]) -> Any:
    figure = _figure(
        "Error by operator family, samples left out of the fit",
        _axis("predicted / measured - 1", "linear", tickformat=".0%", range=[-0.6, 0.6]),
        _axis("", "category", automargin=True),
    )
    for row in reversed(family_rows(fits)):
        figure.add_box(
            x=list(row.errors), name=f"{row.name} ({row.samples})", boxpoints=False,
            orientation="h", showlegend=False,
        )  # fmt: skip
    figure.update_layout(height=max(400, 28 * len(fits) + 160))
    return figure


def _networks(networks: Sequence[NetworkPoint]) -> Any:
    figure = _figure(
        "Whole networks that took no part in the fit", _axis("measured, s"), _axis("predicted, s")
    )
    high = [0.0 if n.high_s is None else n.high_s - n.predicted_s for n in networks]
    low = [0.0 if n.low_s is None else n.predicted_s - n.low_s for n in networks]
    figure.add_scatter(
        x=[n.measured_s for n in networks],
        y=[n.predicted_s for n in networks],
        error_y={"type": "data", "array": high, "arrayminus": low},
        text=[html.escape(n.name) for n in networks],
        mode="markers+text",
        textposition="top center",
        name="networks",
    )
    _diagonal(figure, [n.measured_s for n in networks])
    return figure


def _bandwidth(measurement: Measurement, sheet: Profile | None) -> Any:
    figure = _figure(
        "Bandwidth by working set", _axis("working set, bytes"), _axis("bytes per second")
    )
    rates = [rate for _, rate in measurement.levels]
    figure.add_scatter(
        x=[size for size, _ in measurement.levels],
        y=[rate.value for rate in rates],
        error_y={
            "type": "data",
            "array": [rate.high - rate.value for rate in rates],
            "arrayminus": [rate.value - rate.low for rate in rates],
        },
        mode="lines+markers",
        line={"shape": "vh"},
        name="measured, 90 % interval",
    )
    if sheet is not None:
        label = f"data sheet, {format_count(sheet.memory.bytes_per_s, 'B/s')}"
        figure.add_hline(y=sheet.memory.bytes_per_s, line_dash="dot", annotation_text=label)
    return figure


def _rates(profile: Profile, sheet: Profile | None) -> Any:
    figure = _figure(
        "Rates: measured against the data sheet",
        _axis("", "category"),
        _axis("per second"),
    )
    for name, one in (("profile", profile), ("data sheet", sheet)):
        if one is None:
            continue
        rows = [(f"{r.dtype} in {r.math}, FLOP/s", r.flops_per_s, r.origin) for r in one.compute]
        rows.append(("memory, B/s", one.memory.bytes_per_s, one.memory.origin))
        figure.add_bar(
            x=[label for label, _, _ in rows],
            y=[value for _, value, _ in rows],
            text=[f"{format_count(value)}, {origin}" for _, value, origin in rows],
            name=name,
        )
    figure.update_layout(barmode="group")
    return figure
