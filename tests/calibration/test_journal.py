"""Recordings survive what kills a calibration; files of samples say what is wrong with them."""

from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path

import pytest

from latency_service.calibration.journal import Journal, read_samples, write_samples
from latency_service.core.errors import CalibrationError, SampleError
from latency_service.core.sample import Sample, Workload

HEADER = {"device": "lab-cpu", "runtime": "onnxruntime-cpu-1-thread", "cpu": "AMD EPYC"}


def sample(rows: int) -> Sample:
    work = Workload("Relu", ((rows, 13),), outputs=((rows, 13),))
    return Sample(work, 17e-6, (17e-6, 19e-6))


SAMPLES = [sample(rows) for rows in (3, 5, 7, 11)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "journal.jsonl"


def test_what_was_recorded_is_there_when_it_goes_on(path: Path):
    first = Journal(path, HEADER)
    first.append(SAMPLES[:2])
    first.append(SAMPLES[2:3])
    second = Journal(path, HEADER)
    assert second.samples == SAMPLES[:3]
    second.append(SAMPLES[3:])
    assert Journal(path, HEADER).samples == SAMPLES


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_last_line_that_was_cut_off_is_left_out(path: Path, cut: int):
    Journal(path, HEADER).append(SAMPLES[:3])
    path.write_bytes(path.read_bytes()[:-cut])
    resumed = Journal(path, HEADER)
    assert resumed.samples == SAMPLES[:2]
    resumed.append(SAMPLES[3:])
    assert Journal(path, HEADER).samples == [*SAMPLES[:2], SAMPLES[3]]


@pytest.mark.parametrize(
    ("key", "value"), [("device", "other"), ("runtime", "pytorch-eager-cuda"), ("cpu", "Xeon")]
)
def test_another_machines_recording_is_refused_and_kept(path: Path, key: str, value: str):
    Journal(path, HEADER).append(SAMPLES)
    before = path.read_bytes()
    with pytest.raises(CalibrationError, match=f"{key} '{HEADER[key]}'; now it is '{value}'"):
        Journal(path, {**HEADER, key: value})
    assert path.read_bytes() == before


def test_a_file_of_another_kind_is_refused_and_kept(path: Path):
    path.parent.mkdir()
    path.write_text("dear diary\n")
    with pytest.raises(CalibrationError, match="no recording of a calibration"):
        Journal(path, HEADER)
    assert path.read_text() == "dear diary\n"


def test_a_full_disk_keeps_what_was_written(path: Path, monkeypatch: pytest.MonkeyPatch):
    journal = Journal(path, HEADER)
    journal.append(SAMPLES[:2])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("latency_service.calibration.journal.os.fsync", full)
        with pytest.raises(CalibrationError, match="No space left on device"):
            journal.append(SAMPLES[2:])
    assert Journal(path, HEADER).samples[:2] == SAMPLES[:2]


def test_nothing_measured_writes_nothing(path: Path):
    journal = Journal(path, HEADER)
    before = path.read_bytes()
    journal.append([])
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["samples.jsonl", "samples.jsonl.gz"])
def test_samples_come_back_from_a_file_as_they_went(tmp_path: Path, name: str):
    write_samples(tmp_path / name, SAMPLES)
    assert read_samples(tmp_path / name) == SAMPLES
    assert (tmp_path / name).read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")


def test_a_recording_is_a_file_of_samples(path: Path):
    Journal(path, HEADER).append(SAMPLES)
    assert read_samples(path) == SAMPLES


def test_lines_that_gpus_were_recorded_with_are_read(tmp_path: Path):
    row = {"op": "Add", "inputs": [[7, 13], []], "outputs": [[7, 13]], "latency_s": 3.1e-5}
    (tmp_path / "v100.jsonl").write_text(json.dumps(row) + "\n\n" + json.dumps(row) + "\n")
    first, second = read_samples(tmp_path / "v100.jsonl")
    assert first == second
    assert first.workload.inputs == ((7, 13), ())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: is no JSON"),
        ('{"op": "Conjure"}', "line 2: op is 'Conjure'"),
        ('{"op": "Relu", "inputs": [[3]], "latency_s": -1}', "line 2: latency_s must be"),
        ("[]", "line 2: must be a JSON object"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, problem: str):
    file = tmp_path / "samples.jsonl"
    write_samples(file, SAMPLES[:1])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(SampleError, match=f"samples.jsonl, {problem}"):
        read_samples(file)


def test_files_that_hold_no_samples_are_named(tmp_path: Path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"op": "Relu"}' * 100)[:-12])
    (tmp_path / "fake.jsonl.gz").write_text("not packed")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.jsonl", "empty.jsonl", "torn.jsonl.gz", "fake.jsonl.gz", "binary.jsonl"):
        with pytest.raises(SampleError, match=name):
            read_samples(tmp_path / name)


def test_a_damaged_archive_is_an_error_and_not_more(tmp_path: Path):
    packed = bytearray(gzip.compress(b'{"op": "Relu"}\n' * 1000))
    packed[15:25] = b"\xff" * 10
    (tmp_path / "damaged.jsonl.gz").write_bytes(bytes(packed))
    with pytest.raises(SampleError, match=r"damaged\.jsonl\.gz"):
        read_samples(tmp_path / "damaged.jsonl.gz")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(CalibrationError, match="cannot write samples"):
        write_samples(tmp_path / "missing" / "samples.jsonl", SAMPLES)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "samples.jsonl"
    write_samples(file, SAMPLES)

    def interrupted(_: Sample) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("latency_service.calibration.journal.sample_to_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_samples(file, SAMPLES[:1])
    assert read_samples(file) == SAMPLES
    assert os.listdir(tmp_path) == ["samples.jsonl"]


def test_a_recording_killed_before_its_first_line_was_whole_starts_anew(path: Path):
    path.parent.mkdir()
    path.write_text('{"header": {"dev')
    journal = Journal(path, HEADER)
    journal.append(SAMPLES)
    assert Journal(path, HEADER).samples == SAMPLES
