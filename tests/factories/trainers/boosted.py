"""Trees and estimators trained in this process on small frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.values import TaskKind
from features.definitions import Column
from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.training import rows
from trainers.config import ModelSpec, TrainConfig
from trainers.input_spec import InputSpec
from trainers.loop import library_loop
from trainers.loop.train_spec import TrainSpec

if TYPE_CHECKING:
    from trainers.loop.trainer import FitResult

FEW_ROUNDS = {"rounds": 60, "min_child_samples": 5, "min_data_per_group": 5}


def boosted(
    kind: TaskKind = "binary",
    spec: ModelSpec | None = None,
    config: TrainConfig | None = None,
    columns: tuple[Column, ...] = COLUMNS,
    table: pa.Table | None = None,
    start: FitResult | None = None,
) -> FitResult:
    """Trees or an estimator as ``fit`` returns them; ``start`` are trees that continue, with encoder and scale."""
    from trainers.loop.trainer import FitResult  # imports Ray, which few of the tests here need

    spec = spec or ModelSpec(build="lightgbm", parameters=FEW_ROUNDS)
    config, task = config or TrainConfig(workers=1), TASKS[kind]
    table = frame(kind) if table is None else table
    encoder = start.encoder if start else Encoder.fit(columns, part(table, "train"))
    train, validation = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    inputs = InputSpec.fit(encoder, task, {"numbers": train.numbers, "codes": train.codes}, train.labels)
    if start:
        inputs = start.inputs
    state = start.state if start else None
    outcome = library_loop.train(TrainSpec(spec, config, task, inputs, state), train, validation)
    return FitResult(
        spec, config, task, encoder, inputs, outcome.state, outcome.epochs, outcome.best.metrics, {}, {"total": 0.0}
    )
