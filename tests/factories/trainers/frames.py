"""Small frames with every kind of input and task, and models trained on them in this process."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from cluster.values import Task, TaskKind
from features.definitions import Column
from features.encoder import Encoder
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import EncodedRows, MemoryLoader, MemoryValidationLoader
from trainers.data.encoding_task import label_array
from trainers.input_spec import InputSpec
from trainers.loop import train_loop
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_events import Weights
from trainers.loop.train_spec import Teacher, TrainSpec
from trainers.loop.trainer import FitResult

COLUMNS = (
    Column(name="plain", kind="number"),
    Column(name="heavy", kind="number"),
    Column(name="gappy", kind="number"),
    Column(name="color", kind="category"),
    Column(name="pixels", kind="tensor", shape=(2, 2)),
)
COLORS = ("blue", "green", "red")
TASKS: dict[TaskKind, Task] = {
    "binary": Task(kind="binary", label="late"),
    "multiclass": Task(kind="multiclass", label="which", classes=("low", "middle", "high")),
    "regression": Task(kind="regression", label="price"),
    "multilabel": Task(kind="multilabel", label="tags", classes=("high", "blue")),
}


def frame(kind: TaskKind = "binary", rows: int = 600, seed: int = 0) -> pa.Table:
    """Labels follow from "plain", "color" and "pixels"; the last fifth is for validation."""
    random = np.random.default_rng(seed)
    plain, heavy = random.normal(size=rows), random.standard_cauchy(size=rows)
    gappy = np.where(random.random(rows) < 0.3, np.nan, random.normal(size=rows))
    color = random.integers(4, size=rows)
    pixels = random.normal(size=(rows, 4)).astype(np.float32)
    signal = plain + (color == 1) - (color == 2) + pixels.sum(axis=1) / 2 + 0.3 * random.normal(size=rows)
    labels = {
        "binary": (signal > 0).astype(float),
        "multiclass": np.digitize(signal, [-0.7, 0.7]).astype(float),
        "regression": 1000 + 50 * signal,
        "multilabel": _lists(np.column_stack([signal > 0, color == 0]).astype(float)),
    }[kind]
    names = [*COLORS, None]
    return pa.table(
        {
            "plain": plain,
            "heavy": heavy,
            "gappy": pa.array(gappy, from_pandas=True),
            "color": pa.array([names[i] for i in color], pa.string()),
            "pixels": pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), 4),
            "label": labels,
            "split": np.where(np.arange(rows) < rows * 4 // 5, "train", "validation"),
            "as_of": pa.array(np.arange(rows) * 86_400_000_000, pa.timestamp("us", "UTC")),
            "id": np.arange(rows),
        }
    )


def _lists(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def part(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pa.compute.equal(table["split"], split))


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
