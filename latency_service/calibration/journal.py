"""Samples on disk: a recording that grows while a calibration runs, and files of samples.

Every batch is appended and synchronised, so that nothing measured is lost to Ctrl-C, a full disk or
a killed process. A last line that was cut off is left out when the recording is read again.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from latency_service.core.errors import CalibrationError, SampleError
from latency_service.core.sample import Sample, sample_from_json, sample_to_json

_OPENING = '{"header"'


class Journal:
    """The recording of one calibration.

    Args:
        header: what must not change between the start of a recording and its continuation: device,
            runtime, processor, versions.

    Raises:
        CalibrationError: if the file is a recording of something else, or cannot be written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.header = dict(header)
        self.samples: list[Sample] = []
        if path.exists() and path.stat().st_size:
            self._resume()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._begin()

    def append(self, samples: Iterable[Sample]) -> None:
        """Add measured samples; they are on the disk when this returns."""
        added = list(samples)
        self._write([json.dumps(sample_to_json(sample)) for sample in added])
        self.samples += added

    def remove(self) -> None:
        """Delete the recording: its samples are safe elsewhere."""
        self.path.unlink(missing_ok=True)

    def _begin(self) -> None:
        self._write([json.dumps({"header": self.header}, sort_keys=True)])

    def _resume(self) -> None:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole, newline, torn = text.rpartition("\n")
        if not newline and (torn.startswith(_OPENING) or _OPENING.startswith(torn)):
            # killed before the first line was whole
            self.path.write_text("")
            self._begin()
            return
        lines = whole.splitlines()
        try:
            found = json.loads(lines[0])["header"]
        except (IndexError, KeyError, TypeError, ValueError):
            raise CalibrationError(
                f"{self.path} is no recording of a calibration; move it away to start a new one"
            ) from None
        for key, value in self.header.items():
            if found.get(key) != value:
                raise CalibrationError(
                    f"{self.path} was recorded with {key} {found.get(key)!r}; now it is {value!r}. "
                    "Move the file away to start anew"
                )
        self.samples = [
            sample_from_json(_parse(line, f"{self.path}, line {n}"), f"{self.path}, line {n}")
            for n, line in enumerate(lines[1:], start=2)
        ]
        if torn:
            with self.path.open("r+b") as file:
                file.truncate(len((whole + "\n").encode("utf-8")))

    def _write(self, lines: list[str]) -> None:
        if not lines:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CalibrationError(
                f"cannot write the recording {self.path}: {error.strerror or error}. What it holds "
                "is kept: make room and run the same command again to go on"
            ) from None


def read_samples(path: Path) -> list[Sample]:
    """Samples of a file, one JSON object a line; `.gz` is unpacked.

    Raises:
        SampleError: naming the file, the line and what is wrong with it.
    """
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise SampleError(f"cannot read samples from {path}: {error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        row = _parse(line, where) if line.strip() else {"header": None}
        if not (isinstance(row, dict) and "header" in row):
            found.append(sample_from_json(row, where))
    if not found:
        raise SampleError(f"{path} holds no samples")
    return found


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples, one JSON object a line; `.gz` packs them. The file is replaced as a whole.

    Raises:
        CalibrationError: if the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(unfinished, "wt", encoding="utf-8") as file:
            for sample in samples:
                file.write(json.dumps(sample_to_json(sample)) + "\n")
        unfinished.replace(path)
    except OSError as error:
        raise CalibrationError(
            f"cannot write samples to {path}: {error.strerror or error}"
        ) from None
    finally:
        unfinished.unlink(missing_ok=True)


def _parse(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise SampleError(f"{where}: is no JSON ({error})") from None
