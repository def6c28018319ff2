"""What a model builder accepts, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cluster.errors import ProjectError
from cluster.values import Task, TaskKind
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS
from tests.factories.trainers.small_module import Small
from tests.factories.trainers.training import fitted_inputs
from trainers.config import ModelSpec
from trainers.input_spec import InputSpec
from trainers.models import model_builder


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "multilabel"])
@pytest.mark.parametrize("build", ["linear", "mlp", "ft_transformer", Small])
def test_logits_have_one_column_per_output(kind: TaskKind, build: object) -> None:
    inputs, numbers, codes = fitted_inputs(TASKS[kind])
    module = model_builder.build(ModelSpec(build=build), inputs, TASKS[kind])
    logits = module(numbers, codes)
    assert logits.shape == (len(numbers), TASKS[kind].outputs)
    assert torch.isfinite(logits).all()


def test_unknown_parameter_is_refused() -> None:
    inputs, _, _ = fitted_inputs(TASKS["binary"])
    with raises(ProjectError, "project.model_parameters", model="mlp"):
        model_builder.build(ModelSpec(parameters={"depth": 2}), inputs, TASKS["binary"])
    with raises(ProjectError, "project.unknown_norm", norm="group"):
        model_builder.build(ModelSpec(parameters={"norm": "group"}), inputs, TASKS["binary"])


def test_builder_without_a_module_is_refused() -> None:
    inputs, _, _ = fitted_inputs(TASKS["binary"])

    def broken(inputs: InputSpec, task: Task) -> nn.Module:
        return None  # type: ignore[return-value]

    with raises(ProjectError, "project.not_a_module", type="NoneType"):
        model_builder.build(ModelSpec(build=broken), inputs, TASKS["binary"])


class Cut(Small):
    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return super().forward(numbers[:, 1:], codes)


class Flat(Small):
    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return super().forward(numbers, codes)[:, 0]


def test_check_model_that_cannot_score_is_refused() -> None:
    inputs, _, _ = fitted_inputs(TASKS["binary"])
    model_builder.check(ModelSpec(build=Small), inputs, TASKS["binary"])
    with raises(ProjectError, "project.model_fails", model="Cut") as caught:
        model_builder.check(ModelSpec(build=Cut), inputs, TASKS["binary"])
    assert "RuntimeError" in str(caught.value)
    with raises(ProjectError, "project.logits_shape", shape=(2,), expected=(2, 1)):
        model_builder.check(ModelSpec(build=Flat), inputs, TASKS["binary"])


def test_effective_parameters_override_defaults() -> None:
    assert model_builder.effective_parameters(ModelSpec(build=Small)) == {"width": 8}
    assert model_builder.effective_parameters(ModelSpec(parameters={"dropout": 0.1}))["dropout"] == 0.1
    assert model_builder.effective_parameters(ModelSpec())["hidden"] == (256, 128)
