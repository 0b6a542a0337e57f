"""From the bytes of an ONNX file to the bytes of the answer, beside onnx-tool in the same run."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io

import numpy as np

from benchmarks.measure import Timing, Work, interleaved_on_loop, show
from benchmarks.models import onnx_bytes
from benchmarks.request import started
from latency_service.api import bodies

TARGETS = {"resnet50": 45e-3, "mobilenet_v2": 10e-3}


def peer(data: bytes) -> Work | None:
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


async def measured() -> dict[str, Timing]:
    """Both networks, ours from bytes and the peer from memory."""
    async with started() as application:
        bench = application.app.state.workbench

        def ours(data: bytes) -> Work:
            def run() -> object:
                bench.costed.forget()
                bench.parsed.forget()
                return application.post(data, bodies.OCTETS, "device=v100&dims=N=1")

            return run

        work: dict[str, Work] = {}
        for name in TARGETS:
            data = onnx_bytes(name)
            work[name] = ours(data)
            rival = peer(data)
            if rival is None:
                print("onnx-tool is not installed: pip install onnx-tool")
            else:
                work[f"{name}, onnx-tool from memory"] = rival
        return await interleaved_on_loop(work, rounds=5, repeats=3)


def main() -> None:
    """What each takes, and how many times as fast as the peer that is."""
    timings = asyncio.run(measured())
    show("ONNX bytes to answer bytes", timings, TARGETS)
    for name in TARGETS:
        rival_timing = timings.get(f"{name}, onnx-tool from memory")
        if rival_timing is not None:
            ratio = rival_timing.median_s / timings[name].median_s
            print(f"  {name}: {ratio:.1f} times as fast as onnx-tool")


if __name__ == "__main__":
    main()
