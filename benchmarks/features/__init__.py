"""The feature layer beside Feast and Polars alone: ``make bench-features``."""
