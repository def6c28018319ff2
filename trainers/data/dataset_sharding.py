"""Exact split of Ray Datasets over workers.

Imports no torch, which would delay the Ray Train process that splits the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from trainers.data.sharding import shard_bounds


class ExactShards(DataConfig):
    """Gives each worker its exact share of the rows, in order. Ray's own split drops rows to make shares equal."""

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, DataIterator]]:
        parts = {name: _split(dataset, world_size) for name, dataset in datasets.items()}
        return [{name: part[rank].iterator() for name, part in parts.items()} for rank in range(world_size)]


def _split(dataset: Dataset, workers: int) -> Sequence[Dataset]:
    rows = dataset.count()
    cuts = [shard_bounds(rows, rank, workers)[1] for rank in range(workers - 1)]
    return dataset.split_at_indices(cuts) if cuts else [dataset]
