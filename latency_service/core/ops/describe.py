"""The operator table as Markdown."""

from __future__ import annotations

from itertools import groupby

from latency_service.core.ops.table import OPS


def operator_table() -> str:
    """One row per family and kind of traffic, with the operators in it."""
    rows = ["| family | moves | operators |", "|---|---|---|"]
    key = [(op.family, op.traffic.value, op.name) for op in OPS.values()]
    for (family, traffic), group in groupby(sorted(key), key=lambda row: row[:2]):
        names = ", ".join(f"`{name}`" for _, _, name in group)
        rows.append(f"| {family} | {traffic} | {names} |")
    return "\n".join(rows)
