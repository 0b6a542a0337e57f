"""Cases as ONNX files, and whether they run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.networks.case import Case

# What most files in circulation have, by exporter.
OPSETS = {"dynamo": 18, "torchscript": 17}


def export(case: Case, folder: Path) -> Path:
    """The case's file in `folder`, written unless it is there already.

    All shapes in it are numbers, and the weights are inside.
    """
    path = folder / f"{case.name}.onnx"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    model, inputs = case.model(), case.inputs()
    dynamo = case.exporter == "dynamo"
    try:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                model,
                inputs,
                partial,
                opset_version=OPSETS[case.exporter],
                dynamo=dynamo,
                external_data=False,
                verbose=False if dynamo else None,
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def check(case: Case, path: Path) -> None:
    """Run the file once.

    Raises:
        ValueError: for an output that is not finite.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = {name: data.numpy() for name, data in zip(names, case.inputs(), strict=True)}
    for value, data in zip(session.get_outputs(), session.run(None, feed), strict=True):
        if not np.isfinite(data).all():
            raise ValueError(f"{path}: output {value.name!r} is not finite")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say about themselves; what they raise still comes."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
