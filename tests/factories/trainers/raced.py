"""Models that a race in this process chooses on small frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from cluster.values import TaskKind
from features.definitions import Column
from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.training import rows
from trainers.config import ModelSpec, TrainConfig
from trainers.input_spec import InputSpec
from trainers.loop import selection_loop
from trainers.loop.train_events import EpochResult
from trainers.loop.train_spec import TrainSpec

if TYPE_CHECKING:
    from trainers.loop.trainer import FitResult

QUICK = ModelSpec(build="auto", minutes=1, parameters={"families": ("lightgbm", "linear"), "members": 3})


def ticking(step: float) -> Callable[[], float]:
    """A clock that is ``step`` seconds later each time it is read."""
    ticks = count()
    return lambda: step * next(ticks)


def raced(
    kind: TaskKind = "binary",
    spec: ModelSpec = QUICK,
    config: TrainConfig | None = None,
    columns: tuple[Column, ...] = COLUMNS,
    on_epoch: Callable[[EpochResult], None] = lambda epoch: None,
    step: float = 0.05,
    weigh: Callable[[np.ndarray], np.ndarray] | None = None,
) -> FitResult:
    """What a race chooses, as ``fit`` returns it; its clock advances by ``step`` each time it is read.

    ``weigh`` gives training rows the weights of their labels.
    """
    from trainers.loop.trainer import FitResult  # imports Ray, which few of the tests here need

    config, task, table = config or TrainConfig(workers=1), TASKS[kind], frame(kind)
    encoder = Encoder.fit(columns, part(table, "train"))
    train, validation = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    train = replace(train, weights=weigh(train.labels)) if weigh else train
    inputs = InputSpec.fit(encoder, task, {"numbers": train.numbers, "codes": train.codes}, train.labels)
    outcome = selection_loop.train(
        TrainSpec(spec, config, task, inputs), train, validation, on_epoch, clock=ticking(step)
    )
    return FitResult(
        spec, config, task, encoder, inputs, outcome.state, outcome.epochs, outcome.best.metrics, {}, {"total": 0.0}
    )
