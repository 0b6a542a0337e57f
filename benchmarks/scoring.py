"""10 000 sub-networks of ResNet-50 on ten devices in one request, and on six that were measured."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import orjson
from starlette.datastructures import QueryParams

from benchmarks.measure import interleaved, show
from benchmarks.models import layer_graph
from latency_service.api import bodies
from latency_service.api.routes.scores import score
from latency_service.core.graph import graph_from_json
from latency_service.settings import Settings
from latency_service.usecases import Request, coefficients, open_workbench

ROWS = 10_000
DEVICES = (
    "p100", "v100", "t4", "p4", "k80", "a10", "l4", "rtx-3090", "cpu-generic", "jetson-nano",
)  # fmt: skip
MEASURED = (
    "p100-pcie-16gb", "v100-pcie-32gb", "t4", "p4", "a100-pcie-40gb", "a100-pcie-80gb",
)  # fmt: skip
MEASURED_RUNTIME = "pytorch-eager-cuda"
AS_JSON, AS_NPY = "JSON in, JSON out", ".npy in, .npy out"
CALIBRATED = f"the same on {len(MEASURED)} measured devices"
FLOOR = "floor: the same roofline in plain NumPy"
# two seconds for ten measured devices
TARGETS = {AS_JSON: 0.5, AS_NPY: 0.5, CALIBRATED: 0.2 * len(MEASURED)}


def main() -> None:
    """The request as JSON and as .npy, beside the arithmetic alone."""
    with tempfile.TemporaryDirectory() as folder:
        bench = open_workbench(Settings(data_directory=Path(folder)))
        reply = coefficients(bench, Request("v100", graph_from_json(layer_graph("resnet50"))))
        groups = [group for group in reply["groups"] if group["prunable"]]
        names = [group["id"] for group in groups]
        generator = np.random.default_rng(0)
        alive = np.stack([generator.integers(1, g["size"] + 1, ROWS) for g in groups], axis=1)
        request = {
            "graph_id": reply["graph_id"],
            "devices": DEVICES,
            "groups": names,
            "alive": alive.tolist(),
        }
        body = orjson.dumps(request)
        matrix = bodies.write_npy(alive.astype(np.float64))
        named = {"graph_id": reply["graph_id"], "groups": ",".join(names)}
        query = QueryParams(named | {"devices": ",".join(DEVICES)})
        measured = QueryParams(named | {"devices": ",".join(MEASURED), "runtime": MEASURED_RUNTIME})
        layers = len(reply["layers"])
        n_in = generator.random((ROWS, layers))
        n_out = generator.random((ROWS, layers))
        forms = generator.random((2, 4, layers))
        rates = generator.random((len(DEVICES), 2))

        def floor() -> object:
            work, moved = (f[0] + f[1] * n_in + f[2] * n_out + f[3] * n_in * n_out for f in forms)
            return [np.maximum(work / a, moved / b).sum(axis=1) for a, b in rates]

        timings = interleaved(
            {
                AS_JSON: lambda: score(bench, bodies.JSON, body, QueryParams(), False),
                AS_NPY: lambda: score(bench, bodies.NPY, matrix, query, True),
                CALIBRATED: lambda: score(bench, bodies.NPY, matrix, measured, True),
                FLOOR: floor,
            },
            rounds=5,
            repeats=2,
        )
        bench.close()
    show(f"{ROWS} sub-networks of ResNet-50 on {len(DEVICES)} devices", timings, TARGETS)
    for name in (AS_JSON, AS_NPY):
        ratio = timings[name].median_s / timings[FLOOR].median_s
        print(f"  {name}: {ratio:.2f} times the pure-NumPy floor")


if __name__ == "__main__":
    main()
