"""Measurements of regard beside named peers; `python -m benchmarks` runs them and writes docs/performance.md."""
