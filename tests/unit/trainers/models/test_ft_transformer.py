"""FT-Transformer: it learns, exports, and treats columns like the other models."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from cluster.errors import ProjectError
from cluster.values import TaskKind
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS, frame
from tests.factories.trainers.training import trained
from trainers.config import ModelSpec, TrainConfig
from trainers.export.onnx_export import export
from trainers.input_spec import InputSpec
from trainers.models import model_builder
from trainers.models.ft_transformer import FeatureTokens

SPEC = ModelSpec(build="ft_transformer", parameters={"width": 16, "blocks": 2, "heads": 4})
CONFIG = TrainConfig(epochs=15, batch_size=64, lr=5e-3, workers=1)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "metric"), [("binary", "auc"), ("regression", "r2"), ("multilabel", "auc")])
def test_ft_transformer_learns_and_exports_the_same_scores(kind: TaskKind, metric: str, tmp_path: Path) -> None:
    result = trained(kind, SPEC, CONFIG)
    assert result.metrics[metric] > 0.85
    assert export(result, tmp_path, frame(kind, rows=50, seed=3)) < 1e-4


def test_tokens_cover_all_columns_and_distinguish_missing_from_mean() -> None:
    result = trained(spec=SPEC, config=CONFIG.model_copy(update={"epochs": 3}))
    module = result.build_module()
    numbers = torch.tensor([result.inputs.mean])
    codes = torch.zeros(1, len(result.inputs.cardinalities), dtype=torch.int64)
    tokens = module.tokens(numbers, codes)
    assert tokens.shape == (1, 1 + result.inputs.width + len(result.inputs.cardinalities), 16)
    gap = numbers.clone()
    gap[0, 2] = math.nan
    changed = (module.tokens(gap, codes) != tokens).any(dim=2)[0]
    assert changed.nonzero().flatten().tolist() == [3]


def test_width_not_divisible_by_heads_is_refused() -> None:
    inputs = trained(config=CONFIG.model_copy(update={"epochs": 1})).inputs
    with raises(ProjectError, "project.width_not_divisible", width=10, heads=4):
        model_builder.build(
            ModelSpec(build="ft_transformer", parameters={"width": 10, "heads": 4}), inputs, TASKS["binary"]
        )


def test_initial_tokens_are_uniform_within_one_over_the_root_of_the_width() -> None:
    torch.manual_seed(0)
    names = tuple(map(str, range(1000)))
    zeros, ones = (0.0,) * 1000, (1.0,) * 1000
    inputs = InputSpec(numbers=names, tensors=(), categories=(), cardinalities=(), mean=zeros, std=ones, missing=())
    weight = FeatureTokens(inputs, 16, 0.0).weight
    assert weight.shape == (1000, 16)
    assert 0.249 < weight.max() <= 0.25
    assert -0.25 <= weight.min() < -0.249
