"""From the bytes of an ONNX file to the bytes of the answer, beside onnx-tool in the same run."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from starlette.datastructures import QueryParams

from benchmarks.measure import interleaved, show
from benchmarks.models import onnx_bytes
from latency_service.api import bodies
from latency_service.api.routes.coefficients import answer
from latency_service.settings import Settings
from latency_service.usecases import open_workbench

TARGETS = {"resnet50": 45e-3, "mobilenet_v2": 10e-3}


def peer(data: bytes) -> Callable[[], object] | None:
    """onnx-tool on a model that is in memory already, if it is installed."""
    if importlib.util.find_spec("onnx_tool") is None:
        return None
    import onnx
    import onnx_tool

    model = onnx.load_from_string(data)
    feed = {"image": np.zeros((1, 3, 224, 224), np.float32)}

    def run() -> object:
        with contextlib.redirect_stdout(io.StringIO()):
            return onnx_tool.model_profile(model, feed)

    return run


def main() -> None:
    """Both networks, ours from bytes and the peer from memory."""
    with tempfile.TemporaryDirectory() as folder:
        bench = open_workbench(Settings(data_directory=Path(folder)))
        bench.catalogue()
        query = QueryParams("device=v100&dims=N=1")

        def ours(data: bytes) -> Callable[[], object]:
            def run() -> object:
                bench.costed.forget()
                bench.parsed.forget()
                return answer(bench, bodies.OCTETS, data, query)

            return run

        work: dict[str, Callable[[], object]] = {}
        for name in TARGETS:
            data = onnx_bytes(name)
            work[name] = ours(data)
            rival = peer(data)
            if rival is None:
                print("onnx-tool is not installed: pip install onnx-tool")
            else:
                work[f"{name}, onnx-tool from memory"] = rival
        timings = interleaved(work, rounds=5, repeats=3)
        bench.close()
    show("ONNX bytes to answer bytes", timings, TARGETS)
    for name in TARGETS:
        rival_timing = timings.get(f"{name}, onnx-tool from memory")
        if rival_timing is not None:
            ratio = rival_timing.median_s / timings[name].median_s
            print(f"  {name}: {ratio:.1f} times as fast as onnx-tool")


if __name__ == "__main__":
    main()
