"""The feature layer compared with Feast and Polars alone: ``make bench-features``."""
