"""The cost model: standard library and numpy; no I/O, no clock, no environment."""
