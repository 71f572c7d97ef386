"""The benchmarks do what they say: right counts, right figures, honest contenders."""
