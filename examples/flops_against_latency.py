"""MorphNet's experiment: do FLOPs tell what a network costs? On P100 yes, on V100 no.

Draws 5000 random sub-networks of Inception V2 (every channel group between one channel and full
width, uniformly and independently), and plots their FLOPs against their latency on both devices:

    python -m examples.flops_against_latency --output flops_against_latency.png

Source: Gordon et al. (2018) and the GTC 2019 slides on MorphNet.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from latency_service.core.costing import cost_model
from latency_service.core.costs import CostModel, FloatArray
from latency_service.core.graph import graph_from_json
from latency_service.core.roofline import latency_model
from latency_service.core.scoring import latencies_s, structures, totals
from latency_service.storage.seeds import read_profiles

NETWORK = Path(__file__).parent / "inception_v2.json"
DEVICES = ("p100", "v100")


def inception_v2() -> CostModel:
    """The costs of the slides' network."""
    return cost_model(graph_from_json(json.loads(NETWORK.read_text())))


def random_structures(costs: CostModel, count: int, seed: int) -> FloatArray:
    """(N, G) live channels: widths uniform from 1 to full, independently per prunable group."""
    prunable = [group for group in costs.groups if group.prunable]
    generator = np.random.default_rng(seed)
    alive = np.stack([generator.integers(1, g.size + 1, count) for g in prunable], axis=1)
    return structures(costs, [group.id for group in prunable], alive.astype(np.float64))


def experiment(count: int = 5000, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """FLOPs (N,) and latencies in seconds (N, 2) on P100 and V100 of random sub-networks."""
    costs = inception_v2()
    counts = random_structures(costs, count, seed)
    profiles = {
        name: profile
        for profile in read_profiles()
        if profile.runtime == "ideal"
        for name in profile.device.aliases
    }
    models = [latency_model(costs, profiles[device]) for device in DEVICES]
    return totals(costs, costs.flops, counts), latencies_s(models, counts)


def correlations(flops: FloatArray, latency_s: FloatArray) -> list[float]:
    """Pearson correlation of FLOPs with the latency on each device."""
    return [float(np.corrcoef(flops, column)[0, 1]) for column in latency_s.T]


def draw(flops: FloatArray, latency_s: FloatArray, output: Path) -> None:
    """One panel a device."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(DEVICES), figsize=(10, 4.5), constrained_layout=True)
    for panel, device, column, r in zip(
        panels, DEVICES, latency_s.T, correlations(flops, latency_s), strict=True
    ):
        panel.scatter(flops / 1e9, column * 1e6, s=3, alpha=0.4, linewidths=0)
        panel.set_title(f"{device.upper()}: correlation {r:.3f}")
        panel.set_xlabel("GFLOP")
        panel.set_ylabel("latency (µs, roofline)")
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
    figure.suptitle(f"{flops.size} random sub-networks of Inception V2, batch 1")
    figure.savefig(output, dpi=130)
    plt.close(figure)


def main() -> None:
    """Run the experiment, print the correlations, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("flops_against_latency.png"))
    arguments = parser.parse_args()
    flops, latency_s = experiment(arguments.count, arguments.seed)
    for device, r in zip(DEVICES, correlations(flops, latency_s), strict=True):
        print(f"{device}: correlation of FLOPs and latency {r:.4f}")
    draw(flops, latency_s, arguments.output)
    print(f"figure: {arguments.output}")


if __name__ == "__main__":
    main()
