"""Benchmarks: rayloop compared with its peers, written to ``benchmarks/results``."""
