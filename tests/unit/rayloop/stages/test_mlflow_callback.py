"""What MLflow receives during a fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cluster.registry import Registry
from cluster.settings import Settings
from rayloop.stages.mlflow_callback import CurveLogger
from tests.factories.trainers.training import trained
from trainers.config import TrainConfig
from trainers.loop.train_events import STAGES, StepProgress

pytestmark = pytest.mark.long


def _progress(step: int) -> StepProgress:
    return StepProgress(
        epoch=2, epochs=3, step=step, steps=100, loss=0.5, lr=1e-3, rows_per_second=1000.0, left_seconds=9.0, workers=2,
        seconds={"data": 1.0, "forward": 3.0},
    )  # fmt: skip


def _history(settings: Settings, run: str, metric: str) -> Mapping[int, float]:
    client = MlflowClient(tracking_uri=settings.mlflow_uri)
    return {one.step: one.value for one in client.get_metric_history(run, metric)}


def test_curve_logger_logs_epochs_sampled_steps_and_time_shares(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    epochs = trained(config=TrainConfig(epochs=3, batch_size=64, workers=1)).epochs
    with Registry(settings).run("p", "r") as run:
        curves = CurveLogger(run)
        for step in range(1, 8):
            curves(_progress(step))
        curves(epochs[2])
        curves.complete(epochs)
    assert _history(settings, run.id, "step_loss") == {101: 0.5, 106: 0.5}
    assert _history(settings, run.id, "step_share_forward") == {101: 0.75, 106: 0.75}
    assert _history(settings, run.id, "train_loss") == {epoch.number: epoch.loss for epoch in epochs}
    assert set(_history(settings, run.id, "validation_epoch_auc")) == {1, 2, 3}
    assert all(_history(settings, run.id, f"train_seconds_{stage}") for stage in STAGES)


def test_step_progress_format_lists_the_largest_time_share_first() -> None:
    line = _progress(50).format()
    assert "epoch 2/3  step 50/100  loss 0.5000  1,000 rows/s  9 s left  forward 75%, data 25%" in line
