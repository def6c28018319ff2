"""Training rows as Ray Datasets, encoded once and shared by all trials and workers.

Rows that fit in ``cache_mib`` are three arrays in Ray's object store: workers on a node read them in place, without a
copy, and can shuffle all rows every epoch. Larger data stay a Dataset that is split over the workers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import DataIterator, Dataset
from ray.exceptions import RayTaskError

from cluster.errors import DataError
from cluster.log_suppression import suppress_logs
from cluster.values import Task
from features.encoder import Encoder
from trainers.config import MEBIBYTE, SCORE_BATCH_ROWS, TrainConfig
from trainers.data.batches import BatchLoader, EncodedRows, MemoryLoader, MemoryValidationLoader, ValidationLoader
from trainers.data.encoding_task import PARTS, EncodeRows, select_part
from trainers.data.group_weights import GroupWeights
from trainers.data.oversampling import check_classes, synthesize
from trainers.data.streaming import EncodedPart, StreamLoader, StreamValidationLoader, concat_rows
from trainers.input_spec import InputSpec
from trainers.worker_errors import unwrap_error

SAMPLE_ROWS = 200_000
"""Training rows on which input statistics are measured."""
_TRUE = "true"
"""Name of the training rows without those of weak labels, where there are any."""
TABLE_BLOCKS = 8
"""Blocks into which an in-memory table is split, to encode them in parallel."""


class TrainingData:
    """The "train" and "validation" rows of a training frame.

    Rows keep the order of the Dataset, so that the same frame trains the same weights.

    Args:
        frame: The frame, whose column "split" assigns each row to a part.
        weak: Further rows to train on, with the column "weight"; None: none.
        groups: What multiplies the weights of training rows, by group and label; None: nothing.
    """

    def __init__(
        self,
        frame: Dataset | pa.Table,
        weak: Dataset | pa.Table | None = None,
        groups: GroupWeights | None = None,
    ) -> None:
        self._frames = [_dataset(rows) for rows in (frame, weak) if rows is not None]
        self._groups = groups
        self._cache: dict[tuple[str, str, int], EncodedData] = {}

    def encode(self, encoder: Encoder, task: Task, cache_mib: int) -> EncodedData:
        """Encode both parts; equal arguments reuse the result.

        Args:
            encoder: The fitted encoder.
            task: The task.
            cache_mib: Size in MiB up to which encoded rows stay in memory.

        Raises:
            DataError: Columns differ from their declaration, or a part is empty.
        """
        key = (encoder.model_dump_json(), task.model_dump_json(), cache_mib)
        if key not in self._cache:
            with suppress_logs("ray.data"):
                parts = _encode(self._frames, encoder, cache_mib, self._groups)
            sample = parts["train"].sample(SAMPLE_ROWS)
            arrays = {"numbers": sample.numbers, "codes": sample.codes}
            inputs = InputSpec.fit(encoder, task, arrays, sample.labels, sample.weights)
            labeled = parts[_TRUE].sample(SAMPLE_ROWS) if _TRUE in parts else sample
            self._cache[key] = EncodedData(parts["train"], parts["validation"], inputs, ray.put(vars(labeled)))
        return self._cache[key]


@dataclass(frozen=True)
class EncodedData:
    """Both encoded parts, the description of the inputs, and a sample of the training rows."""

    train: EncodedPart
    validation: EncodedPart
    inputs: InputSpec
    sample_ref: ray.ObjectRef[Any]
    synthetic_rows: int = 0
    """Rows of ``train`` that are synthetic."""

    def with_synthetic_rows(self, config: TrainConfig, task: Task) -> EncodedData:
        """The same rows, with synthetic ones of rare classes to train on if the settings ask for them.

        Args:
            config: Settings with ``minority`` and ``seed``.
            task: The task.

        Raises:
            ProjectError: The task has no classes.
            DataError: The rows do not fit in ``cache_mib``, or a class has a single row.
        """
        check_classes(task, config)
        if config.minority is None:
            return self
        if self.train.rows_ref is None:
            raise DataError("data.minority_streamed", cache_mib=config.cache_mib)
        true = self.train.load()
        arrays = {"numbers": true.numbers, "codes": true.codes}
        made = synthesize(config.minority, task, self.inputs, arrays, true.labels, true.weights, config.seed)
        if not len(made.labels):
            return self
        weights = () if made.weights is None else (made.weights,)
        columns = (made.arrays["numbers"], made.arrays["codes"], made.labels, *weights)
        rows = EncodedRows(*(np.concatenate(pair) for pair in zip(true.arrays, columns, strict=True)))
        train = replace(self.train, rows=len(rows), rows_ref=ray.put(vars(rows)))
        inputs = self.inputs.model_copy(update={"logit_shift": made.logit_shift})
        return replace(self, train=train, inputs=inputs, synthetic_rows=len(made.labels))

    def sample(self) -> EncodedRows:
        """At most 200,000 evenly spaced training rows; none with a weak label."""
        return EncodedRows(**ray.get(self.sample_ref))

    @property
    def streamed_datasets(self) -> dict[str, Dataset]:
        """Datasets of the parts that are too large for memory, by name."""
        parts = {"train": self.train.dataset, "validation": self.validation.dataset}
        return {name: dataset for name, dataset in parts.items() if dataset is not None}

    def without_datasets(self) -> tuple[EncodedPart, EncodedPart]:
        """Both parts without their Datasets, which Ray Train passes to workers separately."""
        return replace(self.train, dataset=None), replace(self.validation, dataset=None)

    def local_rows(self) -> tuple[EncodedRows, EncodedRows]:
        """All rows of both parts in this process."""
        return load_rows(self.without_datasets(), lambda name: self.streamed_datasets[name].iterator())

    def local_loaders(self, config: TrainConfig) -> tuple[BatchLoader, ValidationLoader]:
        """Loaders for training in this process alone."""
        return make_loaders(self.without_datasets(), config, 0, 1, lambda name: self.streamed_datasets[name].iterator())


def make_loaders(
    parts: tuple[EncodedPart, EncodedPart],
    config: TrainConfig,
    rank: int,
    workers: int,
    shard: Callable[[str], DataIterator],
) -> tuple[BatchLoader, ValidationLoader]:
    """Loaders of one worker.

    Args:
        parts: The encoded "train" and "validation" rows.
        config: Batch size, seed and shuffling.
        rank: The worker's rank.
        workers: Number of workers.
        shard: Returns the worker's shard of a streamed Dataset by name.

    Returns:
        Loaders of training batches and of the worker's share of validation rows.
    """
    train, validation = parts
    batches: BatchLoader
    held_out: ValidationLoader
    if train.rows_ref is not None:
        batches = MemoryLoader(train.load(), config.batch_size, config.seed, rank, workers)
    else:
        batches = StreamLoader(shard("train"), train, config, rank, workers)
    if validation.rows_ref is not None:
        held_out = MemoryValidationLoader(validation.load(), rank, workers)
    else:
        held_out = StreamValidationLoader(shard("validation"), validation, rank, workers)
    return batches, held_out


def load_rows(
    parts: tuple[EncodedPart, EncodedPart], shard: Callable[[str], DataIterator]
) -> tuple[EncodedRows, EncodedRows]:
    """All "train" and "validation" rows in memory, for a library that takes them as a whole.

    Args:
        parts: The encoded rows.
        shard: Returns the iterator of a streamed Dataset by name.
    """

    def load(part: EncodedPart, name: str) -> EncodedRows:
        if part.rows_ref is not None:
            return part.load()
        batches = shard(name).iter_batches(batch_size=SCORE_BATCH_ROWS, batch_format="numpy")
        return concat_rows([dict(batch.items()) for batch in batches], part.width, part.codes)

    train, validation = parts
    return load(train, "train"), load(validation, "validation")


def _dataset(rows: Dataset | pa.Table) -> Dataset:
    return ray.data.from_arrow(_slice_table(rows)) if isinstance(rows, pa.Table) else rows


def _encode(
    frames: list[Dataset], encoder: Encoder, cache_mib: int, groups: GroupWeights | None
) -> dict[str, EncodedPart]:
    """Encode both parts in one pass over the frames."""
    encode = EncodeRows(encoder, weighted=len(frames) > 1, groups=groups)
    try:
        first, *others = (_materialize(frame, encode) for frame in frames)
    except RayTaskError as error:
        raise unwrap_error(str(error)) or error from error
    encoded = _materialize(first.union(*others)) if others else first
    load_part = _load_part if encoded.size_bytes() <= cache_mib * MEBIBYTE else _stream_part
    parts = {name: load_part(encoded, encoder, name) for name in PARTS}
    return parts | ({_TRUE: load_part(first, encoder, "train")} if others else {})


def _materialize(rows: Dataset, encode: EncodeRows | None = None) -> Dataset:
    """Encode rows, or take them as they are, in their order."""
    ordered = Dataset.copy(rows, _deep_copy=True)
    ordered.context.execution_options.preserve_order = True
    ordered.context.enable_progress_bars = False
    if encode is not None:
        ordered = ordered.map_batches(encode, batch_format="pyarrow", batch_size=None)
    return ordered.materialize()


def _load_part(encoded: Dataset, encoder: Encoder, name: str) -> EncodedPart:
    batches = [select_part(batch, name) for batch in encoded.iter_batches(batch_size=None, batch_format="numpy")]
    count = sum(len(batch["labels"]) for batch in batches)
    _check_rows(count, name)
    width, codes = encoder.width, len(encoder.categories)
    return EncodedPart(count, codes, width, rows_ref=ray.put(vars(concat_rows(batches, width, codes))))


def _stream_part(encoded: Dataset, encoder: Encoder, name: str) -> EncodedPart:
    part = encoded.map_batches(partial(select_part, part=name), batch_format="numpy", batch_size=None).materialize()
    count = part.count()
    _check_rows(count, name)
    return EncodedPart(count, len(encoder.categories), encoder.width, dataset=part)


def _check_rows(rows: int, name: str) -> None:
    if not rows:
        raise DataError("data.empty_split", split=name)


def _slice_table(frame: pa.Table) -> list[pa.Table]:
    size = max(1, -(-frame.num_rows // TABLE_BLOCKS))
    return [frame.slice(start, size) for start in range(0, max(1, frame.num_rows), size)]
