"""A service in this process for the tests of its clients."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
from hypothesis import settings as hypothesis_settings

from latency_client.cache import Cache
from latency_client.service import HttpService
from latency_service.api.app import create_app
from latency_service.core.efficiency import Efficiency
from latency_service.core.family import FamilyModel
from latency_service.core.features import features_of
from latency_service.core.profile import ComputeRate, Device, FusionRules, Memory, Profile
from latency_service.settings import Settings
from latency_service.usecases.devices import append

# Generated tests are the same in every run.
hypothesis_settings.register_profile("clients", derandomize=True, deadline=None, database=None)
hypothesis_settings.load_profile("clients")


def tile_board() -> Profile:
    """A calibrated profile whose convolutions run best at some widths, in steps of 8 channels."""
    kernel = FamilyModel(
        fixed_s=2e-6, flops_per_s=5e10, bytes_per_s=7e9, units=8,
        features=tuple(features_of(True, 8))[:1], lengths=(1.0,), points=((1.0,), (3.0,)),
        weights=(0.4, -0.3), mean=0.05, spread=0.03, median_error=0.02, samples=17,
    )  # fmt: skip
    copy = replace(kernel, flops_per_s=None, features=(), lengths=(), points=(), weights=())
    families = {"float32 Conv/dense": kernel, "float32 Conv/pointwise": kernel,
                "float32 MatMul": kernel, "float32 Relu": copy}  # fmt: skip
    return Profile(
        Device("tile-board", "Tile board", "nobody", "cpu"),
        "onnxruntime-cpu-1-thread",
        Memory(11e9, "measured", "a test"),
        (ComputeRate("float32", "float32", 5e10, "measured", "a test", True),),
        FusionRules(fold=("BatchNormalization",), patterns=()),
        Efficiency(families, 3e-7, ((32768.0, 9e10), (1e8, 1e10)), 8, 0.02, source="a test"),
    )


@pytest.fixture(scope="session")
def service_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service with the profiles that are shipped and an empty database."""
    settings = Settings(data_directory=tmp_path_factory.mktemp("service"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = create_app(settings)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    give_up_at = time.monotonic() + 60
    while not server.started:
        if time.monotonic() > give_up_at or not thread.is_alive():
            pytest.fail("the service did not start")
        time.sleep(0.02)
    append(app.state.workbench, "tile-board", tile_board(), "measured")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def service(service_url: str) -> HttpService:
    """The same as a source of answers, without a cache."""
    return HttpService(service_url, timeout_s=60)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")
