"""Benchmarks: rayloop and its peers side by side, written to ``benchmarks/results``."""
