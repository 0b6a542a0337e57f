"""The network of the Keras example, its ONNX file, and that it is the PyTorch example's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
onnxruntime = pytest.importorskip("onnxruntime")

from client_tests.digits_run import runs_and_prints_what_it_promises
from client_tests.keras.networks import randomise
from client_tests.keras.test_prune import kill_gammas
from examples import digits_keras
from latency_client.keras import GammaFlopsRegularizer
from latency_client.service import HttpService


def run_onnx(model: Any, images: Any) -> Any:
    session = onnxruntime.InferenceSession(digits_keras.to_onnx(model))
    return session.run(None, {"image": images.transpose(0, 3, 1, 2)})[0]


def test_the_file_computes_what_the_model_computes_before_and_after(service: HttpService) -> None:
    model = randomise(digits_keras.cifarnet(width=14, hidden=11))
    kill_gammas(model)
    small = GammaFlopsRegularizer(model, service=service).prune()
    assert small.get_layer("late").filters < 14
    images = np.random.default_rng(3).random((1, 8, 8, 1), dtype=np.float32)
    for network in (model, small):
        wanted = keras.ops.convert_to_numpy(network(images))
        np.testing.assert_allclose(run_onnx(network, images), wanted, rtol=1e-4, atol=1e-5)


def test_the_network_is_as_large_as_the_other_examples(service: HttpService) -> None:
    pytest.importorskip("torch")
    from examples import digits_torch

    for device in ("v100", "p100"):
        here = digits_keras.predicted_s(digits_keras.cifarnet(), device, service)
        there = digits_torch.predicted_s(digits_torch.CifarNet(), device, service)
        assert here == pytest.approx(there, rel=1e-6)
    flops = GammaFlopsRegularizer(digits_keras.cifarnet(), service=service).get_cost()
    # 20 MFLOP at least, or there would be nothing to save
    assert float(flops) > 20e6


def test_a_layer_that_the_file_cannot_hold_is_named() -> None:
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, keras.layers.Dropout(0.5, name="drop")(image))
    with pytest.raises(TypeError, match=r"'drop' is a Dropout"):
        digits_keras.to_onnx(model)


def test_the_example_runs(service_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    runs_and_prints_what_it_promises(digits_keras, service_url, capsys)
