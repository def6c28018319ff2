"""Command line options that several benchmarks have."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection


def listed(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Return the type of an option that names some of ``known``, separated by commas."""

    def parse(text: str) -> tuple[str, ...]:
        words = tuple(word for word in text.split(",") if word)
        if unknown := [word for word in words if word not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: known are {', '.join(known)}")
        return words

    return parse
