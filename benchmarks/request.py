"""From the bytes of a request to the bytes of its answer, in one process, ResNet-50's graph."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
from starlette.datastructures import QueryParams
from starlette.testclient import TestClient

from benchmarks.measure import interleaved, show
from benchmarks.models import layer_graph
from latency_service.api import bodies
from latency_service.api.app import create_app
from latency_service.api.routes.coefficients import answer
from latency_service.settings import Settings
from latency_service.usecases import open_workbench

TARGETS = {"new graph": 10e-3, "known graph and device": 1e-3}


def request_body(network: str, device: str, number: int = 0) -> bytes:
    """A request; every number makes a graph that was never seen before."""
    text = json.dumps({"device": device, "graph": layer_graph(network)}, separators=(",", ":"))
    first = layer_graph(network)["layers"][0]["name"]
    return text.replace(f'"{first}"', f'"{first}-{number}"').encode()


def main() -> None:
    """New and known requests beside the arithmetic alone."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_directory=Path(folder))
        bench = open_workbench(settings)
        bench.catalogue()
        # unlimited fresh graphs, made before the clock starts
        fresh = itertools.cycle([request_body("resnet50", "v100", n) for n in range(600)])
        nothing = QueryParams()
        generator = np.random.default_rng(0)
        forms = generator.random((2, 175, 4))
        counts = generator.random((2, 175))

        def floor() -> object:
            n_in, n_out = counts
            value = forms[..., 0] + forms[..., 1] * n_in + forms[..., 2] * n_out
            value = value + forms[..., 3] * n_in * n_out
            return np.maximum(value[0] / 125e12, value[1] / 900e9).sum()

        with TestClient(create_app(settings)) as client:
            known = request_body("resnet50", "v100")

            def over_asgi() -> object:
                reply = client.post(
                    "/v1/coefficients", content=known, headers={"content-type": bodies.JSON}
                )
                return reply.content

            def known_graph() -> object:
                # the same bytes again: what the server does besides HTTP
                import hashlib

                return bench.answers.get(hashlib.sha256(known).digest())

            timings = interleaved(
                {
                    "new graph": lambda: answer(bench, bodies.JSON, next(fresh), nothing),
                    "known graph and device": known_graph,
                    "known graph, new device or options": lambda: answer(
                        bench, bodies.JSON, known, nothing
                    ),
                    "the same over a test client": over_asgi,
                    "floor: the roofline of 175 layers in NumPy": floor,
                }
            )
        bench.close()
    show("request bytes to answer bytes, ResNet-50 (175 layers)", timings, TARGETS)
    ratio = timings["new graph"].median_s / timings["floor: the roofline of 175 layers in NumPy"].median_s
    print(f"  ratio of a new graph to the pure-NumPy floor: {ratio:.0f}")


if __name__ == "__main__":
    main()
