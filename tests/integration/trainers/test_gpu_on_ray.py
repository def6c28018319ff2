"""On a GPU of a real cluster: whole, shared by workers, shared by trials."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cluster.settings import Settings
from cluster.values import Task
from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from trainers.config import LogUniform, ModelSpec, TrainConfig, TuneConfig
from trainers.data.datasets import TrainingData
from trainers.input_spec import InputSpec
from trainers.loop.trainer import FitRequest, fit
from trainers.tuning.search import search

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.cluster,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


def build(inputs: InputSpec, task: Task) -> nn.Module:
    """A module that trains nowhere but on a GPU."""

    class OnGpu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(inputs.width, 16), nn.ReLU(), nn.Linear(16, task.outputs))

        def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            if self.training and numbers.device.type != "cuda":
                raise TypeError("not on a GPU")
            scores: torch.Tensor = self.body(torch.nan_to_num(numbers))
            return scores

    return OnGpu()


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu": True},
        {"cache_mib": 0, "precision": "bf16"},
        {"workers": 2},
        {"strategy": "fsdp"},
        {"compile": True, "accumulate": 2},
    ],
    ids=["whole", "streamed", "shared by two workers", "sharded", "compiled"],
)
def test_fit_uses_the_gpus_of_the_cluster(cluster: Settings, changes: dict[str, object]) -> None:
    table = frame()
    config = TrainConfig(epochs=10, batch_size=64, lr=1e-2, workers=1, checkpoint_steps=5).model_copy(update=changes)
    encoder = Encoder.fit(COLUMNS, part(table, "train"))
    result = fit(
        FitRequest(ModelSpec(build=build), config, TASKS["binary"], encoder),
        TrainingData(table),
        lambda line: None,
    )
    assert result.metrics["auc"] > 0.8


def test_trials_share_a_gpu(cluster: Settings) -> None:
    table = frame()
    tuning = TuneConfig(space={"lr": LogUniform(low=3e-3, high=3e-2)}, trials=4, max_concurrent=2, cpus_per_trial=0.5)
    config = TrainConfig(epochs=6, batch_size=64)
    encoder = Encoder.fit(COLUMNS, part(table, "train"))
    model, data = ModelSpec(build=build), TrainingData(table)
    result = search(FitRequest(model, config, TASKS["binary"], encoder), tuning, data, lambda line: None)
    assert result.best.metric > 0.7
