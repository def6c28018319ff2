"""Training rows as Ray Datasets, encoded once and shared by every trial and worker.

Rows that fit ``cache_mib`` lie in Ray's object store as three arrays: workers on a node read them in place, without a
copy of their own, and can shuffle all rows every epoch. More rows stay a Dataset, cut into one part a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import DataIterator, Dataset
from ray.exceptions import RayTaskError

from cluster.contracts import Task
from cluster.errors import DataError
from features.encoding import Encoder
from trainers.config import MEBIBYTE, TrainConfig
from trainers.failures import deliberate
from trainers.feed import Feed, HeldOut, MemoryFeed, MemoryHeldOut, Rows
from trainers.inputs import InputSpec
from trainers.quiet import quiet
from trainers.stream import EncodedPart, StreamFeed, StreamHeldOut, rows_of

SAMPLE_ROWS = 200_000
TABLE_BLOCKS = 8
SPLITS = ("train", "validation")


class TrainingData:
    """The "train" and "validation" rows of a training frame.

    Rows are taken in the order of the Datasets, so that the same frame trains the same weights.
    """

    def __init__(self, train: Dataset, validation: Dataset) -> None:
        self._datasets = {"train": train, "validation": validation}
        self._encoded: dict[tuple[str, str, int], EncodedData] = {}

    @classmethod
    def of(cls, frame: Dataset | pa.Table) -> TrainingData:
        """Split a training frame by its column "split"."""
        if isinstance(frame, pa.Table):
            frame = ray.data.from_arrow(_pieces(frame))
        return cls(*(frame.map_batches(_Only(split), batch_format="pyarrow") for split in SPLITS))

    def encoded(self, encoder: Encoder, task: Task, cache_mib: int) -> EncodedData:
        """Encode both parts, once for equal arguments. Raises DataError for columns that are not as declared."""
        key = (encoder.model_dump_json(), task.model_dump_json(), cache_mib)
        if key not in self._encoded:
            with quiet("ray.data"):
                parts = {name: _encode(dataset, encoder, name, cache_mib) for name, dataset in self._datasets.items()}
            sample = parts["train"].sample(SAMPLE_ROWS)
            inputs = InputSpec.fit(encoder, task, {"numbers": sample.numbers, "codes": sample.codes}, sample.labels)
            self._encoded[key] = EncodedData(parts["train"], parts["validation"], inputs, ray.put(vars(sample)))
        return self._encoded[key]


@dataclass(frozen=True)
class EncodedData:
    """Both encoded parts, what the model is told about them, and a sample of the training rows."""

    train: EncodedPart
    validation: EncodedPart
    inputs: InputSpec
    sampled: ray.ObjectRef

    def sample(self) -> Rows:
        """At most 200,000 evenly spaced training rows."""
        return Rows(**ray.get(self.sampled))

    @property
    def streamed(self) -> dict[str, Dataset]:
        """The parts that are too large to be held in memory."""
        parts = {"train": self.train.dataset, "validation": self.validation.dataset}
        return {name: dataset for name, dataset in parts.items() if dataset is not None}

    def described(self) -> tuple[EncodedPart, EncodedPart]:
        """Both parts without their Datasets, which go to workers by another way."""
        return replace(self.train, dataset=None), replace(self.validation, dataset=None)

    def feeds(self, config: TrainConfig) -> tuple[Feed, HeldOut]:
        """For a process that trains alone."""
        return feeds(self.described(), config, 0, 1, lambda name: self.streamed[name].iterator())


def feeds(
    parts: tuple[EncodedPart, EncodedPart],
    config: TrainConfig,
    rank: int,
    workers: int,
    shard: Callable[[str], DataIterator],
) -> tuple[Feed, HeldOut]:
    """A worker's training batches and share of validation rows; ``shard`` gives its part of a streamed Dataset."""
    train, validation = parts
    feed: Feed
    held_out: HeldOut
    if train.stored is not None:
        feed = MemoryFeed(train.load(), config.batch_size, config.seed, rank, workers)
    else:
        feed = StreamFeed(shard("train"), train, config, rank, workers)
    if validation.stored is not None:
        held_out = MemoryHeldOut(validation.load(), rank, workers)
    else:
        held_out = StreamHeldOut(shard("validation"), validation, rank, workers)
    return feed, held_out


class _Only:
    """Keeps the rows of one split."""

    def __init__(self, split: str) -> None:
        self._split = split

    def __call__(self, frame: pa.Table) -> pa.Table:
        if "split" not in frame.column_names:
            raise DataError("the training frame has no column 'split'", f"present are {', '.join(frame.column_names)}")
        return frame.filter(pc.equal(frame["split"], self._split))


class _Encode:
    """Frame rows to the columns "numbers", "codes" (each unless it has no column) and "labels"."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def __call__(self, frame: pa.Table) -> dict[str, np.ndarray]:
        if "label" not in frame.column_names:
            raise DataError("the training frame has no column 'label'", f"present are {', '.join(frame.column_names)}")
        arrays = self._encoder.encode(frame)
        # Arrow has no tensors of width 0.
        kept = {name: values for name, values in arrays.items() if values.shape[1]}
        return {**kept, "labels": _labels(frame["label"])}


def _labels(column: pa.ChunkedArray) -> np.ndarray:
    if not pa.types.is_floating(column.type) and not pa.types.is_integer(column.type):
        raise DataError(
            f"column 'label' is {column.type}, not a number", "multiclass labels are positions in 'classes'"
        )
    labels = np.asarray(column.cast(pa.float64()), np.float32)
    if not np.isfinite(labels).all():
        raise DataError("the training frame has rows without a finite label", "leave them out")
    return labels


def _encode(dataset: Dataset, encoder: Encoder, name: str, cache_mib: int) -> EncodedPart:
    ordered = Dataset.copy(dataset, _deep_copy=True)
    ordered.context.execution_options.preserve_order = True
    ordered.context.enable_progress_bars = False
    try:
        encoded = ordered.map_batches(_Encode(encoder), batch_format="pyarrow", batch_size=None).materialize()
    except RayTaskError as error:
        raise deliberate(str(error)) or error from error
    rows = encoded.count()
    if not rows:
        raise DataError(f"there are no {name} rows", f"does the frame's column 'split' say {name!r} anywhere?")
    part = EncodedPart(rows, len(encoder.categories), encoder.width, dataset=encoded)
    if encoded.size_bytes() > cache_mib * MEBIBYTE:
        return part
    rows_in_memory = rows_of(list(encoded.iter_batches(batch_size=None, batch_format="numpy")), part.width, part.codes)
    return EncodedPart(rows, part.codes, part.width, stored=ray.put(vars(rows_in_memory)))


def _pieces(frame: pa.Table) -> list[pa.Table]:
    size = max(1, -(-frame.num_rows // TABLE_BLOCKS))
    return [frame.slice(start, size) for start in range(0, max(1, frame.num_rows), size)]
