"""The training loop in this process: it learns, repeats bit for bit, keeps the best epoch, and stops early."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import DataError
from cluster.values import Task, TaskKind
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS, frame
from tests.factories.trainers.small_module import Small
from tests.factories.trainers.training import trained
from trainers import metrics
from trainers.config import ModelSpec, Schedule, TrainConfig
from trainers.input_spec import InputSpec
from trainers.loop.train_step import schedule_factor


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        ("binary", ("auc", 0.9)),
        ("multiclass", ("accuracy", 0.7)),
        ("regression", ("r2", 0.8)),
        ("multilabel", ("auc", 0.9)),
    ],
)
@pytest.mark.parametrize("build", ["linear", "mlp", Small])
def test_training_lowers_the_loss_and_reaches_the_metric(
    kind: TaskKind, bound: tuple[str, float], build: object
) -> None:
    config = TrainConfig(epochs=25, batch_size=64, lr=1e-2, workers=1)
    result = trained(kind, ModelSpec(build=build), config)
    assert result.metrics[bound[0]] > bound[1]
    assert result.epochs[-1].loss < result.epochs[0].loss


@pytest.mark.long
def test_training_overfits_a_few_rows() -> None:
    table = frame(rows=40)
    random_labels = np.random.default_rng(1).integers(2, size=40).astype(float)
    table = table.set_column(table.column_names.index("label"), "label", pa.array(random_labels))
    spec = ModelSpec(parameters={"dropout": 0.0, "unknown": 0.0, "hidden": (128,)})
    result = trained(spec=spec, config=TrainConfig(epochs=150, batch_size=16, lr=1e-2, workers=1), table=table)
    assert result.epochs[-1].loss < 0.1


def test_weights_repeat_for_a_seed_and_differ_for_another() -> None:
    first, again, other = (trained(config=TrainConfig(epochs=2, batch_size=64, workers=1, seed=s)) for s in (3, 3, 4))
    assert all(np.array_equal(first.state[name], again.state[name]) for name in first.state)
    assert any(not np.array_equal(first.state[name], other.state[name]) for name in first.state)
    assert [epoch.metrics for epoch in first.epochs] == [epoch.metrics for epoch in again.epochs]


def test_training_keeps_the_best_epoch_and_stops_early() -> None:
    config = TrainConfig(epochs=60, batch_size=16, lr=0.05, schedule="constant", patience=3, workers=1)
    result = trained(config=config)
    values = [epoch.metrics["auc"] for epoch in result.epochs]
    best = int(np.argmax(values))
    assert len(values) == best + 1 + config.patience < config.epochs
    assert result.metrics["auc"] == max(values)
    assert [epoch.best_so_far for epoch in result.epochs] == np.maximum.accumulate(values).tolist()
    with torch.inference_mode():
        arrays = result.encoder.encode(validation := frame().slice(480))
        scores = result.build_scorer()(torch.from_numpy(arrays["numbers"]), torch.from_numpy(arrays["codes"])).numpy()
    auc = metrics.evaluate(TASKS["binary"], scores, validation["label"].to_numpy())["auc"]
    assert auc == pytest.approx(max(values), abs=1e-6)


def test_infinite_loss_is_refused() -> None:
    config = TrainConfig(epochs=3, batch_size=64, lr=1e30, clip_norm=0, schedule="constant", workers=1)
    with raises(DataError, "data.loss_not_finite"):
        trained("regression", config=config)


def test_validation_rows_of_one_class_are_refused() -> None:
    table = frame()
    labels = np.where(np.arange(table.num_rows) >= 480, 1.0, table["label"].to_numpy())
    table = table.set_column(table.column_names.index("label"), "label", pa.array(labels))
    with raises(DataError, "data.metric_undefined", metric="auc"):
        trained(table=table)


class Broken(Small):
    """Its logits are NaN, in training or in validation."""

    def __init__(self, inputs: InputSpec, task: Task, training: bool = True) -> None:
        super().__init__(inputs, task)
        self.breaks = training

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        logits = super().forward(numbers, codes)
        return logits * float("nan") if self.training == self.breaks else logits


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize(("training", "code"), [(True, "data.loss_not_finite"), (False, "data.score_not_a_number")])
def test_nan_loss_or_score_is_refused(kind: TaskKind, training: bool, code: str) -> None:
    spec = ModelSpec(build=Broken, parameters={"training": training})
    with raises(DataError, code):
        trained(kind, spec, TrainConfig(epochs=1, batch_size=64, workers=1))


def test_epoch_line_has_progress_and_metric() -> None:
    line = trained().epochs[0].format("auc")
    assert all(word in line for word in ("epoch 1/2", "loss", "validation auc", "rows/s", "left"))


@given(st.integers(1, 500), st.floats(0, 0.9), st.sampled_from(["onecycle", "cosine", "constant"]))
def test_schedule_rises_to_one_and_falls(steps: int, warmup: float, kind: Schedule) -> None:
    config = TrainConfig(schedule=kind, warmup=warmup)
    factors = [schedule_factor(config, step, steps) for step in range(steps + 1)]
    assert all(0 <= factor <= 1 + 1e-12 for factor in factors)
    assert max(factors) == pytest.approx(1, abs=0.05) or steps < 20
    peak = math.ceil(warmup * steps)
    assert all(left <= right + 1e-12 for left, right in pairwise(factors[:peak]))
    assert all(left >= right - 1e-12 for left, right in pairwise(factors[peak:]))


@pytest.mark.parametrize(
    ("kind", "warmup", "factors"),
    [
        ("cosine", 0.5, [0.5, 1.0, 1.0, 0.5, 0.0]),
        ("onecycle", 0.5, [0.55, 1.0, 1.0, 0.5005, 0.001]),
        ("constant", 0.5, [1.0] * 5),
        ("cosine", 0.75, [1 / 3, 2 / 3, 1.0, 1.0, 0.0]),
        ("onecycle", 0.75, [0.325, 0.775, 1.0, 1.0, 0.001]),
    ],
)
def test_schedule_of_four_steps_matches_hand_computation(kind: Schedule, warmup: float, factors: list[float]) -> None:
    config = TrainConfig(schedule=kind, warmup=warmup)
    assert [schedule_factor(config, step, 4) for step in range(5)] == pytest.approx(factors)
