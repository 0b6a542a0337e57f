"""Measuring a device: microbenchmarks, their timing, and what they say about the machine."""
