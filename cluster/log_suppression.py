"""Suppress log output of libraries for the duration of a block or of a whole job."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def suppress_logs(*names: str) -> Iterator[None]:
    """Silence these loggers below CRITICAL for the duration of the block; failures are raised anyway."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def suppress_ray_data_logs() -> None:
    """Keep Ray Data's progress bars and logs out of a job's output: stages report their own progress."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
