"""The handwritten digits of scikit-learn, and what the examples do with a trained network.

1797 images of 8x8 grey values (Alpaydin and Kaynak 1998, UCI repository), in its package.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Digits:
    """(N, 8, 8) images with values from 0 to 1, and (N,) labels, for training and for the test."""

    images: Array
    labels: Array
    test_images: Array
    test_labels: Array


def load_digits(seed: int = 0, test_share: float = 0.25) -> Digits:
    """The data, shuffled and cut in two.

    Raises:
        SystemExit: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise SystemExit("scikit-learn is missing. Run: pip install scikit-learn") from None
    data = load()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images = (data.images / 16.0).astype(np.float32)[order]
    labels = data.target.astype(np.int64)[order]
    cut = int(len(order) * test_share)
    return Digits(images[cut:], labels[cut:], images[:cut], labels[:cut])


def measured_s(models: Mapping[str, bytes], rounds: int = 15, runs: int = 40) -> dict[str, float]:
    """Seconds of ONNX models under onnxruntime, one thread, one image.

    They take turns in every round; of a round the lower quintile counts, over rounds the median.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    ready = {}
    for name, model in models.items():
        session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
        entry = session.get_inputs()[0]
        shape = [size if isinstance(size, int) else 1 for size in entry.shape]
        image = np.random.default_rng(0).random(shape, dtype=np.float32)
        ready[name] = (session, {entry.name: image})
    found: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, (session, feeds) in ready.items():
            times = []
            for _ in range(runs):
                begun = time.perf_counter()
                session.run(None, feeds)
                times.append(time.perf_counter() - begun)
            found[name].append(float(np.quantile(times, 0.2)))
    return {name: float(np.median(values)) for name, values in found.items()}
