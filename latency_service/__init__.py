"""A hardware latency profiling and cost-model service."""

__version__ = "0.1.0"
