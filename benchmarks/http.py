"""Requests a second over HTTP: one worker, 16 connections, ResNet-50's graph."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from benchmarks.request import request_body

CONNECTIONS = 16
TARGETS_PER_S = {"new graphs": 100, "known graph and device": 1500}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def connection(port: int, bodies: Iterator[bytes], until: float, times: list[float]) -> None:
    """One keep-alive connection that asks as fast as it is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        body = next(bodies)
        started = time.perf_counter()
        writer.write(
            b"POST /v1/coefficients HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        writer.write(body)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(head.decode())
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        await reader.readexactly(length)
        times.append(time.perf_counter() - started)
    writer.close()


async def load(port: int, bodies: Iterator[bytes], seconds: float) -> list[float]:
    """Latencies of all requests of `CONNECTIONS` connections, in seconds."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(connection(port, bodies, until, times) for _ in range(CONNECTIONS)))
    return times


def wait_for(port: int) -> None:
    """Until the service accepts connections."""
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the service did not start")


def main() -> None:
    """Rounds of new and of known graphs, in turn."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"LATENCY_SERVICE_DATA_DIRECTORY": folder}
        command = [sys.executable, "-m", "latency_service", "serve", "--port", str(port)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(port)
                fresh = iter([request_body("resnet50", "v100", n) for n in range(6000)])
                known = itertools.repeat(request_body("resnet50", "v100", -1))
                rates: dict[str, list[float]] = {"new graphs": [], "known graph and device": []}
                slowest: dict[str, list[float]] = {name: [] for name in rates}
                asyncio.run(load(port, known, 1.0))
                for _ in range(5):
                    for name, bodies in (("new graphs", fresh), ("known graph and device", known)):
                        times = asyncio.run(load(port, bodies, 3.0))
                        rates[name].append(len(times) / 3.0)
                        slowest[name].append(sorted(times)[int(0.99 * (len(times) - 1))])
            finally:
                server.terminate()
    print(f"\nrequests a second over HTTP, one worker, {CONNECTIONS} connections, ResNet-50")
    for name, found in rates.items():
        median = statistics.median(found)
        met = "met" if median >= TARGETS_PER_S[name] else "MISSED"
        print(
            f"  {name:44} {median:8.0f} /s  (rounds {min(found):.0f} to {max(found):.0f}, p99 "
            f"{statistics.median(slowest[name]) * 1e3:.0f} ms)  target {TARGETS_PER_S[name]}: {met}"
        )


if __name__ == "__main__":
    main()
