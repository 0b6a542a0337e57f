"""The service as a stranger starts it: a process, a port, a request."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.api.graphs import two_layer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("workers", [1, 2])
def test_the_service_answers_on_its_port(tmp_path: Path, workers: int) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "latency_service", "serve", "--port", str(port)]
    command += ["--workers", str(workers)]
    environment = os.environ | {"LATENCY_SERVICE_DATA_DIRECTORY": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            for _ in range(300):
                try:
                    with urllib.request.urlopen(f"{base}/readyz", timeout=1) as reply:
                        ready = json.load(reply)
                    break
                except OSError:
                    assert server.poll() is None
                    time.sleep(0.1)
            assert ready["status"] == "ready"
            assert ready["devices"] >= 100
            request = urllib.request.Request(
                f"{base}/v1/coefficients",
                json.dumps({"device": "v100", "graph": two_layer()}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=10) as reply:
                assert json.load(reply)["coverage"]["costed"] == 3
        finally:
            server.terminate()
            messages = server.communicate(timeout=20)[1]
    assert f"listening on {base}" in messages
