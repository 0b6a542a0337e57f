"""Print the operator table of docs/cost-model.md: `python -m latency_service.core.ops`."""

from latency_service.core.ops.describe import operator_table

print(operator_table())
