"""The serving benchmark: ``python -m benchmarks.serving``. docs/benchmarks.md describes the method."""
