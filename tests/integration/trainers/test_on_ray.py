"""Training and tuning on a real Ray cluster."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from torch import nn

from cluster.errors import DataError, ProjectError, RayloopError
from cluster.settings import Settings
from cluster.values import Task
from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, Small, frame, part, trained
from tests.factories.until import until
from trainers.config import Choice, LogUniform, ModelSpec, TrainConfig, TuneConfig
from trainers.data.datasets import TrainingData
from trainers.export.onnx_export import export
from trainers.input_spec import InputSpec
from trainers.loop.trainer import fit
from trainers.tuning.search import search

# Ray Data warns about its own defaults.
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]

TINY = ModelSpec(parameters={"hidden": (16,)})


def _encoder(table: pa.Table) -> Encoder:
    return Encoder.fit(COLUMNS, part(table, "train"))


def test_two_workers_train_the_same_weights_again_and_leave_ctrl_c_alone(cluster: Settings) -> None:
    table, handler = frame(rows=700), signal.getsignal(signal.SIGINT)
    config, encoder = TrainConfig(epochs=3, batch_size=64, workers=2, seed=5), _encoder(table)
    lines: list[str] = []
    first = fit(TINY, config, TASKS["binary"], encoder, TrainingData.of(table), lines.append)
    again = fit(TINY, config, TASKS["binary"], encoder, TrainingData.of(ray.data.from_arrow(table)), lines.append)
    assert all(np.array_equal(first.state[name], again.state[name]) for name in first.state)
    ends = [line for line in lines if "validation" in line]
    assert [line.partition("  ")[0] for line in ends] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"] * 2
    assert first.metrics == max((epoch.metrics for epoch in first.epochs), key=lambda metrics: metrics["auc"])
    assert first.train_metrics["auc"] > 0.7
    assert set(first.seconds) == {"encode", "train", "validate", "start and end", "total"}
    assert signal.getsignal(signal.SIGINT) is handler


def test_rows_that_do_not_fit_are_streamed_to_a_users_own_module(cluster: Settings, tmp_path: Path) -> None:
    table = frame("regression", rows=1501)
    config = TrainConfig(epochs=10, batch_size=64, lr=1e-2, workers=2, cache_mib=0, shuffle_rows=500)
    data = TrainingData.of(table)
    result = fit(ModelSpec(build=Small), config, TASKS["regression"], _encoder(table), data, lambda line: None)
    alone = trained("regression", ModelSpec(build=Small), config.model_copy(update={"workers": 1}), table=table)
    assert result.metrics["r2"] > 0.8
    assert result.metrics["rmse"] == pytest.approx(alone.metrics["rmse"], rel=0.3)
    assert result.inputs == alone.inputs
    assert export(result, tmp_path, table) < 1e-5


def test_four_trials_of_three_classes_end_in_a_table_and_a_winner(cluster: Settings) -> None:
    table = frame("multiclass")
    tuning = TuneConfig(
        space={"lr": LogUniform(low=1e-4, high=3e-2), "hidden": Choice(options=((4,), (16,), (16, 8)))},
        trials=4,
        cpus_per_trial=0.5,
    )
    base, lines, lock = TrainConfig(epochs=4, batch_size=64), list[str](), threading.Lock()
    data = TrainingData.of(table)

    def unpicklable(line: str) -> None:
        with lock:
            lines.append(line)

    result = search(TINY, base, tuning, TASKS["multiclass"], _encoder(table), data, unpicklable)
    assert [trial.number for trial in result.trials] == [1, 2, 3, 4]
    assert result.trials[0].parameters == {"lr": base.lr, "hidden": (16,)}
    assert result.best.metric == min(trial.metric for trial in result.trials)
    assert (result.config.lr, result.spec.parameters["hidden"]) == tuple(result.best.parameters.values())
    assert all((trial.status == "finished") == (trial.epochs == base.epochs) for trial in result.trials)
    assert len(lines) == 4


def test_a_setting_that_fails_in_the_worker_comes_back_as_its_own_error(cluster: Settings) -> None:
    table = frame("regression")
    config = TrainConfig(epochs=3, batch_size=64, lr=1e30, clip_norm=0, schedule="constant", workers=1)
    with pytest.raises(DataError, match=r"training loss is .*lower lr"):
        fit(TINY, config, TASKS["regression"], _encoder(table), TrainingData.of(table), lambda line: None)


def test_trials_that_all_fail_say_why(cluster: Settings) -> None:
    def broken(inputs: InputSpec, task: Task, width: int = 1) -> nn.Module:
        return nn.Linear(inputs.width + width, task.outputs)

    class Untrainable(nn.Module):
        def __init__(self, inputs: InputSpec, task: Task, width: int = 1) -> None:
            super().__init__()
            self.body = nn.Linear(inputs.width, task.outputs)

        def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise TypeError("only for answers")
            scores: torch.Tensor = self.body(numbers)
            return scores

    table = frame()
    tuning = TuneConfig(space={"width": Choice(options=(1, 2))}, trials=1)
    arguments = (TASKS["binary"], _encoder(table), TrainingData.of(table), lambda line: None)
    with pytest.raises(ProjectError, match="'mlp' has no parameter 'width'"):
        search(TINY, TrainConfig(), tuning, *arguments)
    with pytest.raises(ProjectError, match=r"cannot score two rows of zeros: .*TypeError"):
        search(ModelSpec(build=broken), TrainConfig(epochs=1), tuning, *arguments)
    with pytest.raises(RayloopError, match="no trial gave a result: TypeError: only for answers"):
        search(ModelSpec(build=Untrainable), TrainConfig(epochs=1), tuning, *arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns("plain"), "column 'plain' is missing"),
        (lambda t: t.drop_columns("label"), "no column 'label'"),
        (lambda t: t.drop_columns("split"), "no column 'split'"),
        (lambda t: t.set_column(5, "label", pa.nulls(t.num_rows, pa.float64())), "without a finite label"),
        (lambda t: part(t, "train"), "no validation rows"),
    ],
)
def test_a_frame_that_is_not_as_declared_is_refused(cluster: Settings, change: object, message: str) -> None:
    table = frame()
    with pytest.raises(DataError, match=message):
        TrainingData.of(change(table)).encoded(_encoder(table), TASKS["binary"], 64)  # type: ignore[operator]


def test_a_trial_may_have_workers_of_its_own(cluster: Settings) -> None:
    table, free = frame(), ray.available_resources()["CPU"]
    tuning = TuneConfig(space={"lr": LogUniform(low=1e-3, high=1e-2)}, trials=2, max_concurrent=1, workers_per_trial=2)
    result = search(
        TINY, TrainConfig(epochs=2, batch_size=64), tuning, TASKS["binary"], _encoder(table), TrainingData.of(table)
    )
    assert all(0.5 < trial.metric <= 1 for trial in result.trials)
    assert result.trials[0].status == "finished"
    # More than before is free when what earlier tests left has gone meanwhile.
    until(lambda: ray.available_resources().get("CPU", 0.0) >= free, "what trials held is free again", 60.0)
