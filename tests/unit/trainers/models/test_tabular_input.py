"""Input layers: missing values, unseen categories, heavy tails."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from features.encoder import UNKNOWN_CODE, Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.training import fitted_inputs, rows
from trainers.config import ModelSpec
from trainers.input_spec import InputSpec
from trainers.models import model_builder
from trainers.models.tabular_input import CLIP_STD, TabularInput, make_embedding


def test_numbers_with_heavy_tails_are_standardized_and_clipped() -> None:
    inputs, numbers, codes = fitted_inputs(TASKS["binary"])
    scaled = TabularInput(inputs).eval()(numbers, codes).detach()[:, : inputs.width]
    assert scaled.abs().max() <= CLIP_STD
    assert scaled[:, 0].mean().abs() < 0.05
    assert scaled[:, 0].std() == pytest.approx(1, abs=0.05)
    assert 0.1 < scaled[:, 1].std() < 1.5


def test_missing_number_becomes_the_mean_and_an_indicator() -> None:
    inputs, numbers, codes = fitted_inputs(TASKS["binary"])
    assert inputs.missing == (2,)
    tabular = TabularInput(inputs).eval()
    row = numbers[:1].clone()
    row[0, :] = math.nan
    out = tabular(row, codes[:1])[0]
    assert out[: inputs.width].tolist() == [0.0] * inputs.width
    assert out[inputs.width].item() == 1.0


def test_embedding_starts_with_small_weights() -> None:
    torch.manual_seed(0)
    weights = make_embedding(100, 100).weight
    assert weights.std().item() == pytest.approx(0.1, rel=0.05)
    assert abs(weights.mean().item()) < 0.01


def test_infinity_is_clipped() -> None:
    inputs, numbers, codes = fitted_inputs(TASKS["binary"])
    row = torch.full_like(numbers[:1], math.inf)
    assert TabularInput(inputs).eval()(row, codes[:1])[0, : inputs.width].tolist() == [5.0] * inputs.width


def test_unseen_category_uses_a_trained_unknown_embedding() -> None:
    inputs, numbers, codes = fitted_inputs(TASKS["binary"])
    encoder = Encoder.fit(COLUMNS, frame())
    unseen = frame(rows=1).set_column(3, "color", pa.array(["violet"]))
    assert encoder.encode(unseen)["codes"].tolist() == [[UNKNOWN_CODE]]
    torch.manual_seed(0)
    module = model_builder.build(ModelSpec(parameters={"unknown": 0.2}), inputs, TASKS["binary"])
    module(numbers, codes).sum().backward()
    gradient = module.inputs.embeddings[0].weight.grad
    assert gradient[UNKNOWN_CODE].abs().sum() > 0


def test_empty_or_constant_column_gives_finitefitted_inputs() -> None:
    table = part(frame(), "train")
    table = table.set_column(0, "plain", pa.nulls(table.num_rows, pa.float64()))
    table = table.set_column(1, "heavy", pa.array(np.full(table.num_rows, 7.0)))
    encoder = Encoder.fit(COLUMNS, table)
    encoded = rows(table, encoder)
    arrays = {"numbers": encoded.numbers, "codes": encoded.codes}
    inputs = InputSpec.fit(encoder, TASKS["binary"], arrays, encoded.labels)
    out = TabularInput(inputs).eval()(torch.from_numpy(encoded.numbers), torch.from_numpy(encoded.codes))
    assert torch.isfinite(out).all()
