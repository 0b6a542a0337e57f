"""The handwritten digits of scikit-learn, and what the examples do with a trained network.

1797 images of 8x8 grey values (Alpaydin and Kaynak 1998, UCI repository), in its package.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
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


@dataclass
class Result:
    """A network at the end of its way, in whichever framework, and the file that is measured."""

    accuracy: float
    model: Any
    onnx: bytes


def compare(
    options: argparse.Namespace,
    networks: Callable[[argparse.Namespace, int], Mapping[str, Result]],
    predicted_s: Callable[[Any, str, Any], float],
) -> list[dict[str, Any]]:
    """Make, measure and predict the networks of all seeds; one row a seed and network.

    Args:
        networks: those of a seed by name, the first the one that the others come from.
        predicted_s: seconds of a model on a device by a service.
    """
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        results = networks(options, seed)
        seconds = measured_s({name: result.onnx for name, result in results.items()})
        for name, result in results.items():
            row = {"seed": seed, "network": name, "accuracy": result.accuracy,
                   "measured_s": seconds[name]}  # fmt: skip
            for device in (options.device, options.also):
                row[device] = predicted_s(result.model, device, options.service)
            rows.append(row)
            print(_line(row, options), flush=True)
    return rows


def _line(row: dict[str, Any], options: argparse.Namespace) -> str:
    return (
        f"seed {row['seed']}  {row['network']:<13} accuracy {100 * row['accuracy']:5.1f} %  "
        f"measured {1e6 * row['measured_s']:7.1f} us  predicted "
        + "  ".join(f"{d} {1e6 * row[d]:7.1f} us" for d in (options.device, options.also))
    )


def report(rows: list[dict[str, Any]]) -> None:
    """Print the means over all seeds."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    first = [row for row in rows if row["network"] == names[0]]
    for name in names:
        own = [row for row in rows if row["network"] == name]
        left = [a["measured_s"] / b["measured_s"] for a, b in zip(own, first, strict=True)]
        gained = [a["accuracy"] - b["accuracy"] for a, b in zip(own, first, strict=True)]
        mean = 100 * float(np.mean([row["accuracy"] for row in own]))
        print(
            f"mean of {len(own)}: {name:<13} accuracy {mean:.1f} % "
            f"({100 * np.mean(gained):+.1f} points), {np.mean(left):.2f} of the seed's latency"
        )


def parse(description: str, words: list[str] | None = None) -> argparse.Namespace:
    """The command line of the examples."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--service", default="http://127.0.0.1:8000")
    parser.add_argument("--device", default="my-machine", help="the one to be fast on")
    parser.add_argument("--also", default="v100", help="another one to predict for")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--width", type=int, default=128, help="channels of the seed network")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--share", type=float, default=0.45, help="of the cost that is to be left")
    parser.add_argument("--strength", type=float, default=1.5, help="in units of 1 / cost")
    return parser.parse_args(words)
