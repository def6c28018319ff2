"""A feature that is nearly the label is suspected; one that helps is not."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.values import TaskKind
from features.encoder import Arrays, Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame
from trainers.evaluation import leakage
from trainers.evaluation.leakage import SingleFeatureSkill
from trainers.input_spec import InputSpec


def _rows(kind: TaskKind, rows: int = 3000) -> tuple[InputSpec, Arrays, np.ndarray]:
    table = frame(kind, rows=rows)
    encoder, labels = Encoder.fit(COLUMNS, table), table["label"].to_numpy()
    arrays = encoder.encode(table)
    return InputSpec.fit(encoder, TASKS[kind], arrays, labels), arrays, labels


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_a_leak_is_suspected_and_a_useful_feature_is_not(kind: TaskKind) -> None:
    inputs, arrays, labels = _rows(kind)
    honest = leakage.single_feature_skills(TASKS[kind], inputs, arrays, labels)
    assert [alone.feature for alone in honest[:2]] == ["plain", "colour"]
    assert {alone.feature for alone in honest} == {"plain", "heavy", "gappy", "colour"}
    assert all(check.passed for check in leakage.check(honest, 0.95))
    assert honest[-1].skill < 0.1
    leaky = arrays["numbers"].copy()
    leaky[:, 1] = labels + np.random.default_rng(0).normal(0, 0.01 * labels.std(), len(labels))
    (check,) = leakage.check(
        leakage.single_feature_skills(TASKS[kind], inputs, {**arrays, "numbers": leaky}, labels), 0.95
    )
    assert not check.passed
    assert check.reason.startswith("heavy (is it known when the prediction is made?) alone has skill")


def test_being_missing_can_be_the_leak() -> None:
    inputs, arrays, labels = _rows("binary")
    gone = arrays["numbers"].copy()
    gone[:, 1] = np.where(labels == 1, np.nan, 7.0)
    first = leakage.single_feature_skills(TASKS["binary"], inputs, {**arrays, "numbers": gone}, labels)[0]
    assert first == SingleFeatureSkill(feature="heavy", skill=1.0)


def test_a_name_of_each_row_is_no_leak() -> None:
    """Values that are seen once teach nothing about other rows: no skill comes from learning them by heart."""
    inputs, arrays, labels = _rows("binary")
    codes = np.arange(len(labels), dtype=np.int64)[:, None]
    found = leakage.single_feature_skills(TASKS["binary"], inputs, {**arrays, "codes": codes}, labels)
    assert next(alone.skill for alone in found if alone.feature == "colour") < 0.1


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_labels_that_are_all_the_same_and_columns_without_a_value_have_no_skill(kind: TaskKind) -> None:
    inputs, arrays, labels = _rows(kind)
    assert all(
        alone.skill == 0 for alone in leakage.single_feature_skills(TASKS[kind], inputs, arrays, np.ones(len(labels)))
    )
    empty = {**arrays, "numbers": np.full_like(arrays["numbers"], np.nan)}
    found = {alone.feature: alone.skill for alone in leakage.single_feature_skills(TASKS[kind], inputs, empty, labels)}
    assert found["plain"] == pytest.approx(0, abs=1e-3)


def test_without_a_limit_nothing_is_said() -> None:
    assert not list(leakage.check((SingleFeatureSkill(feature="x", skill=1.0),), None))
