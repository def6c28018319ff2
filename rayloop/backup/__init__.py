"""Copies of everything that rayloop stores, and the way back from them."""
