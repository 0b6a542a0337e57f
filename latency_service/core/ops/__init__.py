"""What the cost model knows about every operator."""

from latency_service.core.ops.op import Op, Traffic
from latency_service.core.ops.table import OPS

__all__ = ["OPS", "Op", "Traffic"]
