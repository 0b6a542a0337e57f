"""The translation table: what PyTorch calls an operation, and the layer it is in ONNX's terms.

A module holds the rows of one family: `rows()` gives (operation, function making its layers).
"""

from __future__ import annotations

from latency_client.torch.operators import (
    elementwise,
    normalisations,
    products,
    recurrent,
    reductions,
    selections,
    views,
    windows,
)
from latency_client.torch.trace import LEARNED_VIEWS, OPERATORS, Translation

FAMILIES = (
    windows,
    products,
    elementwise,
    normalisations,
    reductions,
    views,
    selections,
    recurrent,
)


def register_operator(operation: str, translation: Translation) -> None:
    """Say how an operation of one's own is written as layers.

    Args:
        operation: its qualified name, "my_library::my_op".
        translation: gets the `Call`, adds layers with `call.layer(...)`, and returns what they
            write, one value for each tensor that the operation returns.
    """
    OPERATORS[operation] = translation


for _family in FAMILIES:
    for _operation, _translation in _family.rows():
        if _operation in OPERATORS:
            raise RuntimeError(f"operation {_operation} has two rows")
        OPERATORS[_operation] = _translation
LEARNED_VIEWS.update(views.learned_rows())
