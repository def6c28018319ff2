"""Which rows are whose. Imports no torch: the process of Ray Train that deals them out would wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from trainers.data.sharding import share_of


class Shards(DataConfig):
    """Gives each worker its exact part of the rows, in order. Ray's own split drops rows to make parts equal."""

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *_: Any, **__: Any
    ) -> list[dict[str, DataIterator]]:
        parts = {name: _split(dataset, world_size) for name, dataset in datasets.items()}
        return [{name: part[rank].iterator() for name, part in parts.items()} for rank in range(world_size)]


def _split(dataset: Dataset, workers: int) -> Sequence[Dataset]:
    rows = dataset.count()
    cuts = [share_of(rows, rank, workers)[1] for rank in range(workers - 1)]
    return dataset.split_at_indices(cuts) if cuts else [dataset]
