"""What an ONNX file says about the shapes of its tensors.

Layers whose shapes follow from their operators need none of it; it is for operators that the core
does not know and for those whose output depends on data. ONNX's own shape inference is not asked:
it could add little, and on a malformed file its C++ code ends the whole process.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx

from latency_service.core.graph import Shape
from latency_service.ingest.constants import Effort, dtype_name

TensorType = tuple[Shape, str]


@dataclass(frozen=True, slots=True)
class Model:
    """What every graph of a model shares.

    Attributes:
        opset: version of ONNX's own operators.
        symbols: named dimensions of the network's inputs.
        effort: that its masks are still worth.
    """

    opset: int
    symbols: frozenset[str]
    effort: Effort = field(default_factory=Effort)

    def tensor_type(self, info: onnx.ValueInfoProto) -> TensorType | None:
        """Shape and dtype of a tensor, if every dimension is a number or a bindable name."""
        tensor = info.type.tensor_type
        if not tensor.elem_type or not tensor.HasField("shape"):
            return None
        dims = tuple(dim.dim_value or dim.dim_param for dim in tensor.shape.dim)
        if any(dim < 1 if isinstance(dim, int) else dim not in self.symbols for dim in dims):
            return None
        return dims, dtype_name(tensor.elem_type, f"tensor {info.name!r}")
