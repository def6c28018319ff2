"""Modules: missing values, unseen categories, heavy tails, and what a builder may be."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from cluster.errors import DataError, ProjectError
from cluster.values import Task, TaskKind
from features.encoder import UNKNOWN_CODE, Encoder
from tests.factories.errors import raises
from tests.factories.trainers.frames import COLUMNS, TASKS, Small, frame, part, rows
from trainers.config import ModelSpec
from trainers.input_spec import InputSpec
from trainers.models import registry
from trainers.models.tabular_input import CLIP_STD, TabularInput


def _inputs(task: Task) -> tuple[InputSpec, torch.Tensor, torch.Tensor]:
    table = part(frame(task.kind), "train")
    encoder = Encoder.fit(COLUMNS, table)
    encoded = rows(table, encoder)
    inputs = InputSpec.fit(encoder, task, {"numbers": encoded.numbers, "codes": encoded.codes}, encoded.labels)
    return inputs, torch.from_numpy(encoded.numbers), torch.from_numpy(encoded.codes)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "multilabel"])
@pytest.mark.parametrize("build", ["linear", "mlp", "ft_transformer", Small])
def test_logits_have_one_column_per_output(kind: TaskKind, build: object) -> None:
    inputs, numbers, codes = _inputs(TASKS[kind])
    module = registry.build(ModelSpec(build=build), inputs, TASKS[kind])
    logits = module(numbers, codes)
    assert logits.shape == (len(numbers), TASKS[kind].outputs)
    assert torch.isfinite(logits).all()


def test_scores_follow_the_task() -> None:
    for task in TASKS.values():
        inputs, numbers, codes = _inputs(task)
        scores = registry.ScoringModule(registry.build(ModelSpec(), inputs, task), task, inputs).eval()(numbers, codes)
        if task.kind == "multiclass":
            assert torch.allclose(scores.sum(dim=1), torch.ones(len(numbers)))
        elif task.kind == "multilabel":
            assert scores.shape == (len(numbers), task.outputs)
            assert ((scores > 0) & (scores < 1)).all()
        else:
            assert scores.shape == (len(numbers),)
        if task.kind == "regression":
            assert abs(scores.mean().item() - inputs.label_mean) < 2 * inputs.label_std


def test_numbers_with_heavy_tails_are_standardized_and_clipped() -> None:
    inputs, numbers, codes = _inputs(TASKS["binary"])
    scaled = TabularInput(inputs).eval()(numbers, codes).detach()[:, : inputs.width]
    assert scaled.abs().max() <= CLIP_STD
    assert scaled[:, 0].mean().abs() < 0.05
    assert scaled[:, 0].std() == pytest.approx(1, abs=0.05)
    assert 0.1 < scaled[:, 1].std() < 1.5


def test_missing_number_becomes_the_mean_and_an_indicator() -> None:
    inputs, numbers, codes = _inputs(TASKS["binary"])
    assert inputs.missing == (2,)
    tabular = TabularInput(inputs).eval()
    given = numbers[:1].clone()
    given[0, :] = math.nan
    out = tabular(given, codes[:1])[0]
    assert out[: inputs.width].tolist() == [0.0] * inputs.width
    assert out[inputs.width].item() == 1.0


def test_infinity_is_clipped() -> None:
    inputs, numbers, codes = _inputs(TASKS["binary"])
    given = torch.full_like(numbers[:1], math.inf)
    assert TabularInput(inputs).eval()(given, codes[:1])[0, : inputs.width].tolist() == [5.0] * inputs.width


def test_unseen_category_uses_a_trained_unknown_embedding() -> None:
    inputs, numbers, codes = _inputs(TASKS["binary"])
    encoder = Encoder.fit(COLUMNS, frame())
    unseen = frame(rows=1).set_column(3, "colour", pa.array(["violet"]))
    assert encoder.encode(unseen)["codes"].tolist() == [[UNKNOWN_CODE]]
    torch.manual_seed(0)
    module = registry.build(ModelSpec(parameters={"unknown": 0.2}), inputs, TASKS["binary"])
    module(numbers, codes).sum().backward()
    gradient = module.inputs.embeddings[0].weight.grad
    assert gradient[UNKNOWN_CODE].abs().sum() > 0


def test_empty_or_constant_column_gives_finite_inputs() -> None:
    table = part(frame(), "train")
    table = table.set_column(0, "plain", pa.nulls(table.num_rows, pa.float64()))
    table = table.set_column(1, "heavy", pa.array(np.full(table.num_rows, 7.0)))
    encoder = Encoder.fit(COLUMNS, table)
    encoded = rows(table, encoder)
    arrays = {"numbers": encoded.numbers, "codes": encoded.codes}
    inputs = InputSpec.fit(encoder, TASKS["binary"], arrays, encoded.labels)
    out = TabularInput(inputs).eval()(torch.from_numpy(encoded.numbers), torch.from_numpy(encoded.codes))
    assert torch.isfinite(out).all()


def test_input_spec_without_rows_or_columns_is_refused() -> None:
    nothing = {"numbers": np.empty((0, 1), np.float32), "codes": np.empty((0, 0), np.int64)}
    with raises(DataError, "data.no_rows", part="train"):
        InputSpec.fit(Encoder(columns=COLUMNS[:1], vocabularies={}), TASKS["binary"], nothing, np.empty(0))
    with raises(DataError, "data.no_input_columns"):
        InputSpec.fit(Encoder(columns=(), vocabularies={}), TASKS["binary"], nothing, np.ones(3))


def test_unknown_parameter_is_refused() -> None:
    inputs, _, _ = _inputs(TASKS["binary"])
    with raises(ProjectError, "project.unknown_model_parameter", model="mlp", name="depth"):
        registry.check_parameters(ModelSpec(), ["hidden", "depth"])
    with raises(ProjectError, "project.model_parameters", model="mlp"):
        registry.build(ModelSpec(parameters={"depth": 2}), inputs, TASKS["binary"])
    with raises(ProjectError, "project.unknown_norm", norm="group"):
        registry.build(ModelSpec(parameters={"norm": "group"}), inputs, TASKS["binary"])


def test_builder_without_a_module_is_refused() -> None:
    inputs, _, _ = _inputs(TASKS["binary"])

    def broken(inputs: InputSpec, task: Task) -> nn.Module:
        return None  # type: ignore[return-value]

    with raises(ProjectError, "project.not_a_module", type="NoneType"):
        registry.build(ModelSpec(build=broken), inputs, TASKS["binary"])


class Cut(Small):
    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return super().forward(numbers[:, 1:], codes)


class Flat(Small):
    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return super().forward(numbers, codes)[:, 0]


def test_check_model_that_cannot_score_is_refused() -> None:
    inputs, _, _ = _inputs(TASKS["binary"])
    registry.check(ModelSpec(build=Small), inputs, TASKS["binary"])
    with raises(ProjectError, "project.model_fails", model="Cut") as caught:
        registry.check(ModelSpec(build=Cut), inputs, TASKS["binary"])
    assert "RuntimeError" in str(caught.value)
    with raises(ProjectError, "project.logits_shape", shape=(2,), expected=(2, 1)):
        registry.check(ModelSpec(build=Flat), inputs, TASKS["binary"])


def test_effective_parameters_override_defaults() -> None:
    assert registry.effective_parameters(ModelSpec(build=Small)) == {"width": 8}
    assert registry.effective_parameters(ModelSpec(parameters={"dropout": 0.1}))["dropout"] == 0.1
    assert registry.effective_parameters(ModelSpec())["hidden"] == (256, 128)
