"""The row for operators that have none."""

from latency_service.core.ops import layouts, shapes
from latency_service.core.ops.op import Op

UNKNOWN = Op("unknown", "unknown", shapes.declared, layouts.opaque)
