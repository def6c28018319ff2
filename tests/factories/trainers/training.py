"""Encoded rows of small frames, and models trained on them in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from cluster.values import Task, TaskKind
from features.definitions import Column
from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import EncodedRows, MemoryLoader, MemoryValidationLoader
from trainers.data.encoding_task import label_array
from trainers.input_spec import InputSpec
from trainers.loop import train_loop
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_events import Weights
from trainers.loop.train_spec import Teacher, TrainSpec

if TYPE_CHECKING:
    from trainers.loop.trainer import FitResult


def rows(table: pa.Table, encoder: Encoder) -> EncodedRows:
    arrays = encoder.encode(table)
    return EncodedRows(arrays["numbers"], arrays["codes"], label_array(table["label"]))


def fitted_inputs(task: Task) -> tuple[InputSpec, torch.Tensor, torch.Tensor]:
    """The input spec of the training rows of a frame, and their numbers and codes."""
    table = part(frame(task.kind), "train")
    encoder = Encoder.fit(COLUMNS, table)
    encoded = rows(table, encoder)
    inputs = InputSpec.fit(encoder, task, {"numbers": encoded.numbers, "codes": encoded.codes}, encoded.labels)
    return inputs, torch.from_numpy(encoded.numbers), torch.from_numpy(encoded.codes)


def trained(
    kind: TaskKind = "binary",
    spec: ModelSpec | None = None,
    config: TrainConfig | None = None,
    columns: tuple[Column, ...] = COLUMNS,
    table: pa.Table | None = None,
    start: Weights | None = None,
    teacher: Teacher | None = None,
) -> FitResult:
    """A model trained in this process, as ``fit`` returns it."""
    from trainers.loop.trainer import FitResult  # imports Ray, which few of the tests here need

    spec = spec or ModelSpec(parameters={"hidden": (16,)})
    config = config or TrainConfig(epochs=2, batch_size=64, workers=1)
    table = frame(kind) if table is None else table
    encoder = Encoder.fit(columns, part(table, "train"))
    train, validation = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    task = TASKS[kind]
    inputs = InputSpec.fit(encoder, task, {"numbers": train.numbers, "codes": train.codes}, train.labels)
    outcome = train_loop.train(
        TrainSpec(spec, config, task, inputs, start, teacher),
        MemoryLoader(train, config.batch_size, config.seed),
        MemoryValidationLoader(validation),
        ProcessGroup(),
        lambda epoch: None,
    )
    return FitResult(
        spec, config, task, encoder, inputs, outcome.state, outcome.epochs, outcome.best.metrics, {}, {"total": 0.0}
    )
