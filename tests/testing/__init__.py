"""The helpers that demo, tests and benchmarks share."""
