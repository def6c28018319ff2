"""Training rows as Ray Datasets, encoded once and shared by every trial and worker.

Rows that fit ``cache_mib`` lie in Ray's object store as three arrays: workers on a node read them in place, without a
copy of their own, and can shuffle all rows every epoch. More rows stay a Dataset, cut into one part a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pyarrow as pa
import ray
from ray.data import DataIterator, Dataset
from ray.exceptions import RayTaskError

from cluster.errors import DataError
from cluster.log_suppression import suppress_logs
from cluster.values import Task
from features.encoder import Encoder
from trainers.config import MEBIBYTE, TrainConfig
from trainers.data.batches import Feed, HeldOut, MemoryFeed, MemoryHeldOut, Rows
from trainers.data.encoding_task import PARTS, Encode, Only
from trainers.data.streaming import EncodedPart, StreamFeed, StreamHeldOut, rows_of
from trainers.input_spec import InputSpec
from trainers.worker_errors import deliberate

SAMPLE_ROWS = 200_000
TABLE_BLOCKS = 8


class TrainingData:
    """The "train" and "validation" rows of a training frame.

    Rows are taken in the order of the Datasets, so that the same frame trains the same weights.
    """

    def __init__(self, frame: Dataset) -> None:
        self._frame = frame
        self._encoded: dict[tuple[str, str, int], EncodedData] = {}

    @classmethod
    def of(cls, frame: Dataset | pa.Table) -> TrainingData:
        """A training frame; its column "split" says which rows are which."""
        return cls(ray.data.from_arrow(_pieces(frame)) if isinstance(frame, pa.Table) else frame)

    def encoded(self, encoder: Encoder, task: Task, cache_mib: int) -> EncodedData:
        """Encode both parts, once for equal arguments. Raises DataError for columns that are not as declared."""
        key = (encoder.model_dump_json(), task.model_dump_json(), cache_mib)
        if key not in self._encoded:
            with suppress_logs("ray.data"):
                parts = _encode(self._frame, encoder, cache_mib)
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


def _encode(frame: Dataset, encoder: Encoder, cache_mib: int) -> dict[str, EncodedPart]:
    """Both parts, from one pass over the frame."""
    ordered = Dataset.copy(frame, _deep_copy=True)
    ordered.context.execution_options.preserve_order = True
    ordered.context.enable_progress_bars = False
    try:
        encoded = ordered.map_batches(Encode(encoder), batch_format="pyarrow", batch_size=None).materialize()
    except RayTaskError as error:
        raise deliberate(str(error)) or error from error
    in_memory = encoded.size_bytes() <= cache_mib * MEBIBYTE
    part = _stored if in_memory else _streamed
    return {name: part(encoded, encoder, name) for name in PARTS}


def _stored(encoded: Dataset, encoder: Encoder, name: str) -> EncodedPart:
    batches = [Only(name)(batch) for batch in encoded.iter_batches(batch_size=None, batch_format="numpy")]
    count = _counted(sum(len(batch["labels"]) for batch in batches), name)
    width, codes = encoder.width, len(encoder.categories)
    return EncodedPart(count, codes, width, stored=ray.put(vars(rows_of(batches, width, codes))))


def _streamed(encoded: Dataset, encoder: Encoder, name: str) -> EncodedPart:
    part = encoded.map_batches(Only(name), batch_format="numpy", batch_size=None).materialize()
    return EncodedPart(_counted(part.count(), name), len(encoder.categories), encoder.width, dataset=part)


def _counted(rows: int, name: str) -> int:
    if not rows:
        raise DataError(f"there are no {name} rows", f"does the frame's column 'split' say {name!r} anywhere?")
    return rows


def _pieces(frame: pa.Table) -> list[pa.Table]:
    size = max(1, -(-frame.num_rows // TABLE_BLOCKS))
    return [frame.slice(start, size) for start in range(0, max(1, frame.num_rows), size)]
