"""Libraries kept quiet, or told something by their environment: for the length of a block, or a whole job."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def suppress_logs(*names: str) -> Iterator[None]:
    """Silence these loggers but for what is critical; failures are raised, not logged."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def suppress_ray_data_logs() -> None:
    """Keep Ray Data's own lines out of a job's log: stages tell their progress themselves."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
