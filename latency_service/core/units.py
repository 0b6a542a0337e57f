"""Sizes of dtypes, and the only place that formats quantities for people."""

from __future__ import annotations

from latency_service.core.errors import OptionError

BYTES_PER_ELEMENT: dict[str, float] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "int4": 0.5,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "uint4": 0.5,
    "bool": 1, "complex64": 8, "complex128": 16, "string": 0,
}  # fmt: skip

FLOATING = frozenset({"float64", "float32", "float16", "bfloat16", "float8"})

# The dtype whose compute rate a layer of integer tensors is charged.
RATE_DTYPE = {
    "uint8": "int8", "uint4": "int4", "int16": "int32", "uint16": "int32", "uint32": "int32",
    "int64": "int32", "uint64": "int32", "bool": "int8", "complex64": "float32",
    "complex128": "float64", "string": "int8",
}  # fmt: skip

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def check_dtype(dtype: str, what: str = "dtype") -> str:
    """The dtype itself, if it is one of those with a known size.

    Raises:
        OptionError: if it is not, with the list of those that are.
    """
    if dtype not in BYTES_PER_ELEMENT:
        raise OptionError(
            f"{what} {dtype!r} is not a dtype; known: {', '.join(sorted(BYTES_PER_ELEMENT))}"
        )
    return dtype


def format_seconds(seconds: float) -> str:
    """A duration with four significant digits and the unit that suits it: "74.58 µs"."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= scale:
            return f"{seconds / scale:.4g} {unit}"
    return f"{seconds / 1e-9:.4g} ns"


def format_count(count: float, unit: str = "") -> str:
    """A count with a decimal prefix: 3.87e9, "FLOP" gives "3.87 GFLOP"."""
    for scale, prefix in _PREFIXES:
        if count >= scale:
            return f"{count / scale:.3g} {prefix}{unit}"
    return f"{count:.3g} {unit}".rstrip()
