"""Networks at other widths: what expansion builds and measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from latency_client.errors import OptionError
from latency_client.keras.extract import extract
from latency_client.keras.network import describe
from latency_client.keras.prune import at_widths
from latency_client.service import Source

Measure = Callable[[Mapping[str, int]], dict[str, float]]


def measure_widths(
    model_fn: Callable[[], Any],
    device: str = "v100",
    service: str | Source = "http://127.0.0.1:8000",
    example_inputs: Any = None,
    **options: Any,
) -> Measure:
    """What the network costs at some widths: builds it, and asks the service.

    Args:
        model_fn: makes the model at its full width; it is called once.
        options: batch_size, and those of `latency_client.network.Options`.

    Returns:
        A function of output channels by layer that gives latency_s, flops and weights.
    """
    full = model_fn()
    known = {layer.name for layer in extract(full, example_inputs).graph.layers}

    def measure(widths: Mapping[str, int]) -> dict[str, float]:
        unknown = sorted(set(widths) - known)
        if unknown:
            raise OptionError(f"there is no layer {unknown[0]!r} to give a width to")
        model = at_widths(full, widths, example_inputs)
        totals = describe(model, example_inputs, [device], service, **options).answer.document[
            "totals"
        ]
        return {name: float(totals[name]) for name in ("latency_s", "flops", "weights")}

    return measure
