"""From the bytes of a request to the bytes of its answer, in one process, ResNet-50's graph."""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from starlette.types import Message

from benchmarks.measure import Timing, interleaved_on_loop, show
from benchmarks.models import layer_graph
from latency_service.api import bodies
from latency_service.api.app import create_app
from latency_service.settings import Settings

NEW, KNOWN = "new graph, through the application", "known graph and device, as before"
FLOOR = "floor: the roofline of 175 layers in NumPy"
TARGETS = {NEW: 10e-3, KNOWN: 1e-3}


def request_body(network: str, device: str, number: int = 0) -> bytes:
    """A request; every number makes a graph that was never seen before."""
    text = json.dumps({"device": device, "graph": layer_graph(network)}, separators=(",", ":"))
    first = layer_graph(network)["layers"][0]["name"]
    return text.replace(f'"{first}"', f'"{first}-{number}"').encode()


class Application:
    """The whole application, asked without a socket on the loop that runs."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def post(self, body: bytes, kind: str = bodies.JSON, query: str = "") -> bytes:
        """POST /v1/coefficients: from the bytes of the request to the bytes of the answer."""
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/coefficients",
            "raw_path": b"/v1/coefficients",
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"content-type", kind.encode())],
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 1),
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        if sent[0]["status"] != 200:
            raise RuntimeError(sent[1]["body"])
        reply: bytes = sent[1]["body"]
        return reply


@asynccontextmanager
async def started() -> AsyncIterator[Application]:
    """The application over a database of its own, started as a server starts it.

    One task asks for everything, as one task serves everything in a server: a task of its own for
    each request would be charged the threads that end with it.
    """
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(data_directory=Path(folder)))
        async with app.router.lifespan_context(app):
            yield Application(app)


def roofline_floor() -> object:
    """What the answer's numbers cost if everything but the arithmetic were free."""
    forms, (n_in, n_out) = _FORMS, _COUNTS
    value = forms[..., 0] + forms[..., 1] * n_in + forms[..., 2] * n_out
    value = value + forms[..., 3] * n_in * n_out
    return np.maximum(value[0] / 125e12, value[1] / 900e9).sum()


_FORMS = np.random.default_rng(0).random((2, 175, 4))
_COUNTS = np.random.default_rng(1).random((2, 175))


async def measured() -> dict[str, Timing]:
    """New and known requests beside the arithmetic alone."""
    async with started() as application:
        # made before the clock starts, and more of them than are asked for
        fresh = itertools.cycle([request_body("resnet50", "v100", n) for n in range(400)])
        known = request_body("resnet50", "v100", -1)
        return await interleaved_on_loop(
            {
                NEW: lambda: application.post(next(fresh)),
                KNOWN: lambda: application.post(known),
                FLOOR: roofline_floor,
            }
        )


def main() -> None:
    """What the requests take, and how many times the arithmetic that is."""
    timings = asyncio.run(measured())
    show("request bytes to answer bytes, ResNet-50 (175 layers)", timings, TARGETS)
    ratio = timings[NEW].median_s / timings[FLOOR].median_s
    print(f"  ratio of a new graph to the pure-NumPy floor: {ratio:.0f}")


if __name__ == "__main__":
    main()
