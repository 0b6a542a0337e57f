import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from latency_service.api.app import create_app
from latency_service.calibration import campaign, journal, recording
from latency_service.calibration.measurement import Measurement
from latency_service.core.errors import (
    CalibrationError,
    DatabaseError,
    LatencyServiceError,
    OptionError,
    ProfileError,
    SampleError,
    TokenError,
)
from latency_service.core.sample import sample_to_json
from latency_service.usecases import Workbench, calibrate, prepare
from latency_service.usecases.destinations import Database
from latency_service.usecases.refit import refit
from latency_service.usecases.server import Server
from tests.calibration.builders import measurement, samples

RUNTIME = "onnxruntime-cpu-1-thread"


@dataclass
class Fake:
    """A backend and a campaign that measure nothing."""

    runtime: str = RUNTIME
    kind: str = "cpu"
    result: Measurement = field(default_factory=measurement)
    stop: type[BaseException] | None = None

    def facts(self) -> dict[str, Any]:
        return {"onnxruntime": "1.0", "threads": 1, "clock_hz": id(self)}

    def run(
        self, _backend: object, plan: campaign.Plan, kept: journal.Journal, progress: Any
    ) -> Measurement:
        assert plan.budget_s < 180
        progress("operators", 0.5, "half way")
        kept.append(self.result.samples[:5])
        if self.stop is not None:
            raise self.stop("the power is gone")
        return replace(self.result, samples=(*kept.samples, *self.result.samples[5:]))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    backend = Fake()
    monkeypatch.setattr(prepare, "open_backend", lambda *_: backend)
    monkeypatch.setattr(campaign, "run", backend.run)
    monkeypatch.setattr(prepare, "identify", identified)
    return backend


def identified(job: calibrate.Job, backend: Any, destination: Any):
    return *prepare.known_device(destination, job.device, backend.kind), {}, ()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "calibrations"


def calibrated(bench: Workbench, folder: Path, device: str = "abacus", **options: bool):
    destination = Database(bench)
    run = calibrate.begin(calibrate.Job(device), destination, folder)
    return calibrate.conclude(calibrate.measure(run, lambda *_: None), destination, **options)


def revisions(bench: Workbench, device: str = "abacus") -> int:
    return len(bench.profiles.history(device))


@pytest.mark.usefixtures("fake")
def test_a_calibration_becomes_the_devices_default(bench: Workbench, folder: Path) -> None:
    outcome = calibrated(bench, folder)

    assert outcome.appended is not None
    assert outcome.appended[:3] == ("abacus-5", 2, RUNTIME)
    revision = bench.catalogue().default("abacus")
    assert (revision.origin, revision.runtime) == ("measured", RUNTIME)
    assert revision.profile == outcome.profile
    kept = bench.profiles.samples("abacus", 2)
    assert kept is not None
    assert kept["source"] == "measured"
    assert kept["samples"] == [sample_to_json(sample) for sample in samples()]
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("fake")
def test_a_new_name_is_a_new_device(bench: Workbench, folder: Path) -> None:
    calibrated(bench, folder, "My-Board")

    assert bench.catalogue().default("my-board").profile.device.name == "My-Board"
    with pytest.raises(ProfileError, match="lower-case letters"):
        calibrated(bench, folder, "my board!")


@pytest.mark.usefixtures("fake")
def test_a_dry_run_stores_nothing_and_keeps_the_samples(bench: Workbench, folder: Path) -> None:
    outcome = calibrated(bench, folder, dry_run=True)

    assert outcome.appended is None
    assert outcome.kept is not None
    assert len(recording.read_recording(outcome.kept).samples) == 27
    assert revisions(bench) == 1


def test_a_noisy_run_does_not_replace_a_better_revision(
    bench: Workbench, folder: Path, fake: Fake
) -> None:
    fake.result = measurement(noise="a drum")
    calibrated(bench, folder)  # nothing better there yet
    calibrated(bench, folder)  # the same profile: there already
    assert revisions(bench) == 2
    fake.result = measurement()
    calibrated(bench, folder)
    fake.result = measurement(noise="a drum", dispatch_s=5e-7)
    with pytest.raises(CalibrationError, match=r"too noisy.*a drum.*--force") as refusal:
        calibrated(bench, folder)

    assert revisions(bench) == 3
    (kept,) = folder.iterdir()
    assert str(kept) in str(refusal.value)
    assert calibrated(bench, folder, force=True).appended is not None
    assert revisions(bench) == 4


@pytest.mark.parametrize("stop", [KeyboardInterrupt, CalibrationError])
def test_a_run_that_ends_early_goes_on_from_its_journal(
    bench: Workbench, folder: Path, fake: Fake, stop: type[BaseException]
) -> None:
    fake.stop = stop
    with pytest.raises(stop):
        calibrated(bench, folder)
    assert revisions(bench) == 1

    again = calibrate.begin(calibrate.Job("abacus"), Database(bench), folder)

    assert len(again.journal.samples) == 5
    fake.stop = None
    measured = calibrate.measure(again, lambda *_: None)
    assert len(measured.measurement.samples) == 10 + 22
    assert not again.journal.path.exists()


@pytest.mark.usefixtures("fake")
def test_the_samples_outlive_a_database_that_is_gone(
    bench: Workbench, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise DatabaseError("database x cannot be used: it is gone")

    with monkeypatch.context() as patch:
        patch.setattr(bench.profiles, "append", gone)
        with pytest.raises(DatabaseError, match=r"it is gone\. Nothing was stored.*--samples") as e:
            calibrated(bench, folder)
    assert revisions(bench) == 1
    (kept,) = folder.iterdir()
    assert str(kept) in str(e.value)

    measured = calibrate.recorded(kept, Database(bench))
    outcome = calibrate.conclude(measured, Database(bench))

    direct = calibrated(bench, folder)
    assert direct.appended is not None
    assert outcome.profile == direct.profile
    assert not direct.appended.created


@pytest.mark.usefixtures("fake")
def test_a_failure_half_way_through_appending_leaves_nothing(
    bench: Workbench, folder: Path
) -> None:
    with bench.engine.begin() as connection:
        connection.execute(
            text("CREATE TRIGGER full BEFORE INSERT ON samples "
                 "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END")
        )  # fmt: skip

    with pytest.raises(Exception, match="disk is full"):
        calibrated(bench, folder)

    assert revisions(bench) == 1
    assert len(list(folder.iterdir())) == 1


@pytest.mark.usefixtures("fake")
def test_a_full_disk_is_one_message_and_keeps_the_journal(
    bench: Workbench, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CalibrationError, match="No space left on device"):
        calibrated(bench, folder)

    assert [path.suffix for path in folder.iterdir()] == [".jsonl"]
    assert revisions(bench) == 1


@pytest.mark.parametrize(("arguments", "missing"), [((), "--device"), (("abacus",), "--runtime")])
def test_a_file_of_samples_needs_a_device_and_a_runtime(
    bench: Workbench, tmp_path: Path, arguments: tuple[str, ...], missing: str
) -> None:
    path = write(tmp_path)

    with pytest.raises(OptionError, match=missing):
        calibrate.recorded(path, Database(bench), *arguments)


def write(folder: Path) -> Path:
    """Samples as others record them."""
    path = folder / "samples.jsonl"
    rows = [
        {"op": s.workload.op, "inputs": [list(shape) for shape in s.workload.inputs],
         "outputs": [list(shape) for shape in s.workload.outputs], "latency_s": s.latency_s}
        for s in samples()
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_published_samples_become_a_revision_that_is_no_default(
    bench: Workbench, tmp_path: Path
) -> None:
    path = write(tmp_path)
    measured = calibrate.recorded(
        path, Database(bench), "abacus", "pytorch-eager-cuda", "somebody's paper"
    )

    outcome = calibrate.conclude(measured, Database(bench))

    assert outcome.kept == path
    assert path.exists()
    assert bench.profiles.get("abacus", 2).origin == "published"
    assert bench.catalogue().default_runtime("abacus") == "ideal"
    kept = bench.profiles.samples("abacus", 2)
    assert kept is not None
    assert kept["source"] == "somebody's paper"


def test_a_recording_that_was_edited_is_refused_by_file(bench: Workbench, tmp_path: Path) -> None:
    path = tmp_path / "edited.jsonl"
    row = sample_to_json(samples()[0]) | {"run": {"device": {"slug": "x"}, "measurement": 3}}
    path.write_text(json.dumps(row) + "\n")

    with pytest.raises(SampleError, match=r"edited\.jsonl, line 1"):
        calibrate.recorded(path, Database(bench))


@pytest.mark.usefixtures("fake")
def test_a_refit_from_the_same_samples_stores_nothing_new(bench: Workbench, folder: Path) -> None:
    first = calibrated(bench, folder)

    done = refit(bench, "abacus")

    assert (done.before, done.appended.revision, done.appended.created) == (2, 2, False)
    assert done.profile == first.profile
    assert revisions(bench) == 2


@pytest.mark.usefixtures("fake")
def test_a_better_fit_becomes_a_revision_with_the_same_samples(
    bench: Workbench, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated(bench, folder)
    monkeypatch.setattr("latency_service.core.gaussian_process._STEPS", 7)

    done = refit(bench, "abacus", "2")

    assert (done.appended.revision, done.appended.created) == (3, True)
    before, after = (bench.profiles.samples("abacus", n) for n in (2, 3))
    assert before == after
    assert bench.catalogue().default("abacus").revision == 3


def test_what_was_never_measured_here_cannot_be_fitted_again(
    bench: Workbench, tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError, match="has not been calibrated here"):
        refit(bench, "abacus")
    with pytest.raises(CalibrationError, match=r"not stored here.*--samples FILE"):
        refit(bench, "abacus", "1")


class Through(httpx.BaseTransport):
    """The way to a server that runs in this process."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        reply = self.client.request(
            request.method, str(request.url), content=request.read(), headers=dict(request.headers)
        )
        return httpx.Response(reply.status_code, content=reply.content)


@pytest.fixture
def service(bench: Workbench) -> Iterator[TestClient]:
    with TestClient(create_app(bench.settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def server(bench: Workbench, service: TestClient) -> Iterator[Server]:
    _, secret = bench.tokens.create("runner")
    with Server("http://board.example/", secret, Through(service)) as made:
        yield made


@pytest.mark.usefixtures("fake")
def test_a_calibration_is_sent_to_a_server(
    bench: Workbench, server: Server, folder: Path, fake: Fake
) -> None:
    run = calibrate.begin(calibrate.Job("abacus"), server, folder)
    outcome = calibrate.conclude(calibrate.measure(run, lambda *_: None), server)

    assert outcome.appended is not None
    assert outcome.appended.where == "http://board.example"
    assert (outcome.appended.revision, outcome.appended.created) == (2, True)
    assert bench.profiles.get("abacus", 2).profile == outcome.profile
    assert server.latest("abacus-5", RUNTIME) == outcome.profile
    assert server.latest("abacus-5", "torch") is None
    assert server.latest("nobody", "torch") is None
    assert [device.slug for device in server.devices()] == ["abacus-5"]
    fake.result = measurement(noise="a drum", dispatch_s=5e-7)
    with pytest.raises(CalibrationError, match="too noisy"):
        calibrate.conclude(calibrate.measure(run, lambda *_: None), server)


@pytest.mark.usefixtures("fake")
def test_a_token_that_is_refused_is_found_out_before_measuring(
    bench: Workbench, service: TestClient, folder: Path
) -> None:
    with (
        Server("http://board.example", "nonsense", Through(service)) as server,
        pytest.raises(TokenError, match=r"refuses the token.*tokens create"),
    ):
        calibrate.begin(calibrate.Job("abacus"), server, folder)


@pytest.mark.usefixtures("fake")
def test_a_token_that_is_revoked_meanwhile_loses_no_samples(
    bench: Workbench, service: TestClient, folder: Path
) -> None:
    token_id, secret = bench.tokens.create("short-lived")
    with Server("http://board.example", secret, Through(service)) as server:
        run = calibrate.begin(calibrate.Job("abacus"), server, folder)
        measured = calibrate.measure(run, lambda *_: None)
        bench.tokens.revoke(token_id)
        with pytest.raises(TokenError) as refusal:
            calibrate.conclude(measured, server)

    assert revisions(bench) == 1
    assert measured.kept.exists()
    message = str(refusal.value)
    assert f"--samples {measured.kept}" in message
    assert "--server http://board.example --token TOKEN" in message
    assert secret not in message


def answering(status: int, content: bytes) -> httpx.MockTransport:
    return httpx.MockTransport(lambda _: httpx.Response(status, content=content))


@pytest.mark.parametrize(
    ("transport", "complaint"),
    [
        (None, r"cannot be reached.*latency-service serve"),
        (answering(200, b"<html>"), "not as a latency_service does"),
        (answering(404, b"<html>"), "not as a latency_service does"),
        (answering(503, b'{"detail": "database x cannot be used."}'), "503: database x"),
    ],
)
def test_a_server_that_cannot_be_used_is_told_by_its_address(
    transport: httpx.BaseTransport | None, complaint: str
) -> None:
    # port 9 discards, where anything listens at all
    with (
        Server("http://127.0.0.1:9", "secret", transport) as server,
        pytest.raises(LatencyServiceError, match=complaint) as caught,
    ):
        server.check()
    assert "127.0.0.1:9" in str(caught.value)


@pytest.mark.parametrize(("url", "token"), [("board", "t"), ("http://b", None), ("http://b", "é")])
def test_a_server_needs_an_address_and_a_token(url: str, token: str | None) -> None:
    with pytest.raises(OptionError, match="--server"):
        Server(url, token)
