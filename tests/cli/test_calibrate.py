import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from latency_service.calibration import campaign
from latency_service.calibration.recording import read_recording
from latency_service.cli import calibration_tables, durations
from latency_service.cli.calibrate import alone
from latency_service.core.errors import CalibrationError, OptionError
from latency_service.usecases import calibrate, prepare
from tests.calibration.builders import measurement
from tests.cli.conftest import Run

RUNTIME = "onnxruntime-cpu-1-thread"


class Fake:
    runtime, kind = RUNTIME, "cpu"

    def __init__(self) -> None:
        self.result = measurement()
        self.stop: BaseException | None = None

    def facts(self) -> dict[str, Any]:
        return {"onnxruntime": "1.0"}

    def run(self, _backend: object, plan: campaign.Plan, journal: Any, progress: Any):
        progress("bandwidth", 0.1, "16 KiB and more")
        progress("operators, float32", 0.5, "5 samples [worst MatMul]")
        journal.append(self.result.samples[:5])
        if self.stop is not None:
            raise self.stop
        return self.result


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    backend = Fake()
    monkeypatch.setattr(prepare, "open_backend", lambda *_: backend)
    monkeypatch.setattr(campaign, "run", backend.run)
    monkeypatch.setattr(
        prepare,
        "identify",
        lambda job, _, destination: (
            *prepare.known_device(destination, job.device, "cpu"),
            {},
            ("this is what runs here",),
        ),
    )
    return backend


def ok(result: Any) -> str:
    assert result.exit_code == 0, (result.stderr, result.exception)
    output: str = result.stdout
    return output


def latest(run: Run, device: str) -> Any:
    return json.loads(ok(run("devices", "show", device, "--json")))


def test_a_calibration_ends_with_a_report(run: Run, fake: Fake, tmp_path: Path) -> None:
    page, kept = tmp_path / "plots.html", tmp_path / "samples.jsonl.gz"

    result = run("calibrate", "-d", "Abacus-5", "--report", page, "--save-samples", kept)

    out = ok(result)
    assert f"stored as revision 1 of abacus-5, runtime {RUNTIME}, in sqlite:///" in out
    assert f"plots: {page}" in out
    for shown in ("59 GFLOP/s", "11 GB/s", "measured", "float32 MatMul", "float32 Relu", "18"):
        assert shown in out
    assert "this is what runs here" in result.stderr
    assert "0:00 of 3:00 bandwidth: 16 KiB and more" in result.stderr
    assert "5 samples [worst MatMul]" in result.stderr
    assert "Operators: predicted" in page.read_text()
    assert read_recording(kept).measurement == fake.result
    assert latest(run, "abacus-5")["default_runtime"] == RUNTIME


@pytest.mark.usefixtures("fake")
def test_measured_rates_are_shown_beside_the_data_sheet(run: Run) -> None:
    out = ok(run("calibrate", "-d", "raspberry-pi-4", "--dry-run"))

    assert "dry run: nothing was stored" in out
    assert "float32 in float32" in out
    assert "datasheet" in out or "secondary" in out or "derived" in out
    assert "measured" in out
    assert latest(run, "raspberry-pi-4")["origin"] != "measured"


def test_a_recording_is_fitted_in_place_of_a_run(run: Run, fake: Fake, tmp_path: Path) -> None:
    kept = tmp_path / "samples.jsonl"
    ok(run("calibrate", "-d", "abacus-6", "--dry-run", "--save-samples", kept))

    again = ok(run("calibrate", "--samples", kept))
    assert "stored as revision 1 of abacus-6" in again
    assert str(kept) in again
    assert "was there already: revision 1" in ok(run("calibrate", "--samples", kept))
    assert "abacus-7" in ok(run("calibrate", "--samples", kept, "-d", "abacus-7"))


def test_a_refit_says_when_it_finds_nothing_new(run: Run, fake: Fake) -> None:
    ok(run("calibrate", "-d", "abacus-8"))

    out = ok(run("refit", "-d", "abacus-8"))

    assert "gives the profile of revision 1: nothing to store" in out
    assert "float32 MatMul" in out


def test_a_noisy_run_needs_force(run: Run, refused: Any, fake: Fake) -> None:
    ok(run("calibrate", "-d", "abacus-9"))
    fake.result = measurement(noise="a drum", dispatch_s=5e-7)

    message = refused("calibrate", "-d", "abacus-9")

    assert "a drum" in message
    assert "calibrate --device abacus-9 --samples" in message
    forced = run("calibrate", "-d", "abacus-9", "--force")
    assert "revision 2" in ok(forced)
    assert "this run is noisy: a drum" in forced.stderr


def test_ctrl_c_tells_where_the_samples_are_and_how_to_go_on(
    run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["/bin/calibrate", "-d", "abacus-10", "--token", "secret"]
    monkeypatch.setattr(sys, "argv", words)
    fake.stop = KeyboardInterrupt()

    result = run("calibrate", "-d", "abacus-10")

    assert result.exit_code == 130
    assert "stopped; nothing was stored. 5 samples are kept in" in result.stderr
    assert "calibrate -d abacus-10 --token TOKEN" in result.stderr
    assert "secret" not in result.stderr
    fake.stop = None
    assert "going on from 5 samples" in run("calibrate", "-d", "abacus-10").stderr


def test_ctrl_c_while_fitting_tells_how_to_go_on(
    run: Run, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "revision_profile", stopped)

    result = run("calibrate", "-d", "abacus-11")

    assert result.exit_code == 130
    assert "to go on: calibrate --device abacus-11 --samples" in result.stderr


def test_a_run_that_fails_half_way_keeps_its_samples(run: Run, refused: Any, fake: Fake) -> None:
    fake.stop = CalibrationError("cannot write the recording: No space left on device")

    message = refused("calibrate", "-d", "abacus-12")

    assert "No space left on device. Nothing was stored; 5 samples are kept in" in message
    assert "No space left" in message


def test_plots_that_cannot_be_written_cost_no_revision(
    run: Run, fake: Fake, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")

    result = run("calibrate", "-d", "abacus-13", "--report", tmp_path / "file" / "plots.html")

    assert "stored as revision 1" in ok(result)
    assert "no plots" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ((), "name the device"),
        (("-d", "b", "--budget", "soon"), "--budget 'soon'"),
        (("-d", "b", "--source", "me"), "--samples"),
        (("-d", "b", "--server", "http://127.0.0.1:9"), "--token"),
        (("-d", "b", "--server", "http://127.0.0.1:9", "--token", "t"), "cannot be reached"),
        (("-d", "b", "--server", "board", "--token", "t"), "'board' is no address"),
        (("-d", "b", "--dtype", "float33"), "float33"),
        (("-d", "b", "--samples", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
@pytest.mark.usefixtures("fake")
def test_what_cannot_be_is_refused_before_measuring(
    refused: Any, arguments: tuple[str, ...], culprit: str
) -> None:
    assert culprit in refused("calibrate", *arguments)


def test_an_unknown_backend_is_refused_with_those_there_are(refused: Any) -> None:
    assert "onnxruntime, torch" in refused("calibrate", "-d", "b", "--runtime", "abacus")


def test_calibrate_is_a_command_of_its_own() -> None:
    result = CliRunner().invoke(alone, ["--help"])

    assert result.exit_code == 0
    assert "--budget" in result.stdout


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("3m", 180),
        ("1h", 3600),
        ("1m30s", 90),
        ("1.5m", 90),
        ("45", 45),
        (" 2M ", 120),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert durations.seconds("--budget", text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "-3m", "3 minutes", "m", "1.2.3s", "3m1h", "nan"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="90s, 3m or 1h"):
        durations.seconds("--budget", text)


def test_durations_are_shown() -> None:
    assert [durations.shown(s) for s in (0.4, 65, 3725)] == ["0:00", "1:05", "1:02:05"]


def test_the_display_is_drawn_where_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    from io import StringIO

    from rich.console import Console

    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=150)
    monkeypatch.setattr("latency_service.cli.options.messages", console)

    with calibration_tables.Watch("abacus", 60) as watch:
        watch.progress("operators", 0.5, "7 samples")
        console.print(watch._drawn())

    assert "0:00 of 1:00" in screen.getvalue()
    assert "7 samples" in screen.getvalue()


def test_a_measurement_survives_its_recording(tmp_path: Path) -> None:
    from latency_service.calibration.recording import write_recording
    from latency_service.core.profile import Device

    device = Device("abacus-5", "Abacus", "nobody", "cpu", ("abacus",), facts={"a": {"value": 7}})
    for name in ("plain.jsonl", "packed.jsonl.gz"):
        for whole in (measurement(), replace(measurement(), layout=None, noise="a drum")):
            write_recording(tmp_path / name, device, whole)
            found = read_recording(tmp_path / name)
            assert (found.device, found.measurement) == (device, whole)
