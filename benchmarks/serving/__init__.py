"""The serving benchmark: ``python -m benchmarks.serving``. docs/benchmarks.md tells what is measured and how."""
