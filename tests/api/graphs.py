"""Layer graphs for requests, small enough to work out by hand."""

from typing import Any

# API.md's example: a convolution, its normalisation and its activation
HEIGHT, WIDTH, KERNEL, CHANNELS, FILTERS = 31, 37, 5, 3, 61


def two_layer() -> dict[str, Any]:
    shape = ["N", FILTERS, HEIGHT, WIDTH]
    return {
        "name": "two-layer",
        "inputs": [
            {
                "name": "image",
                "shape": ["N", CHANNELS, HEIGHT, WIDTH],
                "dtype": "float32",
                "batch_axis": 0,
            }
        ],
        "layers": [
            {
                "name": "conv1",
                "op": "Conv",
                "inputs": ["image"],
                "outputs": [{"name": "conv1", "shape": shape}],
                "attributes": {"kernel_shape": [KERNEL, KERNEL], "pads": [2, 2, 2, 2], "group": 1},
                "parameters": [
                    {
                        "role": "weight",
                        "shape": [FILTERS, CHANNELS, KERNEL, KERNEL],
                        "id": "conv1.weight",
                    },
                    {"role": "bias", "shape": [FILTERS], "id": "conv1.bias"},
                ],
            },
            {
                "name": "bn1",
                "op": "BatchNormalization",
                "inputs": ["conv1"],
                "outputs": [{"name": "bn1", "shape": shape}],
            },
            {
                "name": "relu1",
                "op": "Relu",
                "inputs": ["bn1"],
                "outputs": [{"name": "relu1", "shape": shape}],
            },
        ],
        "outputs": ["relu1"],
    }


def chain(length: int) -> dict[str, Any]:
    """Relu after Relu."""
    layers = [
        {"name": f"relu{n}", "op": "Relu", "inputs": [f"relu{n - 1}" if n else "x"]}
        for n in range(length)
    ]
    return {
        "inputs": [{"name": "x", "shape": [1, 7]}],
        "layers": layers,
        "outputs": [layers[-1]["name"]],
    }
