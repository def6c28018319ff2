"""Benchmarks of models and of the labels that train them."""
