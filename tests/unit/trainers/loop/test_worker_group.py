"""Several workers, DDP and FSDP: the same bits after a stop, and close to one worker's result."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from torch import nn

from tests.factories.trainers.group import WorkerPlan, train_together
from trainers.config import ModelSpec, TrainConfig
from trainers.loop import fsdp as fsdp_module
from trainers.loop import worker_group
from trainers.loop.train_events import TrainResult

Strategy = Literal["ddp", "fsdp"]

STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp")
SPEC = ModelSpec(parameters={"hidden": (16, 8), "dropout": 0.1})


def _config(strategy: Strategy, **changes: object) -> TrainConfig:
    settings = {"epochs": 3, "batch_size": 60, "lr": 1e-2, "checkpoint_steps": 2, "strategy": strategy, "workers": 3}
    return TrainConfig.model_validate(settings | changes)


def _same(left: TrainResult, right: TrainResult) -> bool:
    weights = all(np.array_equal(left.state[name], right.state[name]) for name in left.state)
    return weights and [epoch.metrics for epoch in left.epochs] == [epoch.metrics for epoch in right.epochs]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainResult | None]:
    """Of three workers, then of two: processes take long to start."""
    folder = tmp_path_factory.mktemp("trainings")
    plain = SPEC.model_copy(update={"parameters": {"hidden": (16, 8), "dropout": 0.0, "norm": "layer", "unknown": 0.0}})
    three: dict[str, WorkerPlan] = {}
    for kind in STRATEGIES:
        # Parts of a step, so that gradients are added up before they are averaged.
        config, broken = _config(kind, accumulate=2), str(folder / f"{kind} broken")
        three[f"{kind} whole"] = WorkerPlan(config, str(folder / f"{kind} whole"), SPEC)
        three[f"{kind} stopped"] = WorkerPlan(config, broken, SPEC, stop=7)
        three[f"{kind} stopped again"] = WorkerPlan(config, broken, SPEC, stop=4)
        three[f"{kind} resumed"] = WorkerPlan(config, broken, SPEC)
    fewer = str(folder / "fewer")
    three["more"] = WorkerPlan(_config("ddp"), fewer, SPEC, stop=9)
    two = {f"{kind} plain": WorkerPlan(_config(kind), str(folder / f"{kind} plain"), plain) for kind in STRATEGIES}
    two["fewer"] = WorkerPlan(_config("ddp"), fewer, SPEC)
    results = [*train_together([*three.values()], 3, folder), *train_together([*two.values()], 2, folder)]
    return dict(zip([*three, *two], results, strict=True))


@pytest.mark.long
@pytest.mark.parametrize("kind", STRATEGIES)
def test_workers_that_resume_end_with_the_same_bits(trainings: dict[str, TrainResult | None], kind: Strategy) -> None:
    whole, resumed = trainings[f"{kind} whole"], trainings[f"{kind} resumed"]
    assert trainings[f"{kind} stopped"] is trainings[f"{kind} stopped again"] is None
    assert whole is not None
    assert resumed is not None
    assert _same(resumed, whole)
    assert whole.best.metrics["auc"] > 0.8


@pytest.mark.long
def test_fsdp_learns_the_same_as_ddp(trainings: dict[str, TrainResult | None]) -> None:
    ddp, fsdp = trainings["ddp plain"], trainings["fsdp plain"]
    assert ddp is not None
    assert fsdp is not None
    for name in ddp.state:
        assert np.allclose(ddp.state[name], fsdp.state[name], atol=1e-4)
    assert [epoch.loss for epoch in ddp.epochs] == pytest.approx([epoch.loss for epoch in fsdp.epochs], abs=1e-4)


@pytest.mark.long
def test_training_of_three_workers_resumes_with_two(trainings: dict[str, TrainResult | None]) -> None:
    fewer = trainings["fewer"]
    assert trainings["more"] is None
    assert fewer is not None
    assert [epoch.number for epoch in fewer.epochs] == [1, 2, 3]
    assert fewer.best.metrics["auc"] > 0.8


def test_shard_units_are_large_modules_inner_first() -> None:
    large, other = nn.Linear(1100, 1000), nn.Linear(1000, 1100)
    block = nn.Sequential(large, nn.ReLU())
    module = nn.Sequential(nn.ModuleList([block, other]), nn.Linear(3, 3))
    assert fsdp_module.shard_units(module) == [large, block, other]


def test_capacity_warning_names_missing_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_group.ray, "cluster_resources", lambda: {"CPU": 4.0})
    assert worker_group.capacity_warning(4, 1.0) == ""
    warning = worker_group.capacity_warning(5, 1.0)
    assert all(part in warning for part in ("5 workers", "5 CPUs", "has 4"))
