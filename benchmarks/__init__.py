"""What is fast, and how fast: `python -m benchmarks [NAME ...]`; never part of the test command."""
