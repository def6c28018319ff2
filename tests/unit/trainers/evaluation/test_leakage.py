"""A feature that is nearly the label is flagged; one that helps is not."""

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
def test_check_flags_leak_and_passes_useful_feature(kind: TaskKind) -> None:
    inputs, arrays, labels = _rows(kind)
    honest = leakage.single_feature_skills(TASKS[kind], inputs, arrays, labels)
    assert [one.feature for one in honest[:2]] == ["plain", "color"]
    assert {one.feature for one in honest} == {"plain", "heavy", "gappy", "color"}
    assert all(check.passed for check in leakage.check(honest, 0.95))
    assert honest[-1].skill < 0.1
    leaky = arrays["numbers"].copy()
    leaky[:, 1] = labels + np.random.default_rng(0).normal(0, 0.01 * labels.std(), len(labels))
    (check,) = leakage.check(
        leakage.single_feature_skills(TASKS[kind], inputs, {**arrays, "numbers": leaky}, labels), 0.95
    )
    assert not check.passed
    assert check.reason.startswith("skill of heavy alone")


def test_skill_of_informative_missing_values_is_one() -> None:
    inputs, arrays, labels = _rows("binary")
    incomplete = arrays["numbers"].copy()
    incomplete[:, 1] = np.where(labels == 1, np.nan, 7.0)
    first = leakage.single_feature_skills(TASKS["binary"], inputs, {**arrays, "numbers": incomplete}, labels)[0]
    assert first == SingleFeatureSkill(feature="heavy", skill=1.0)


def test_skill_of_unique_identifier_is_low() -> None:
    """Values that occur once carry no information about other rows: memorizing them gives no skill."""
    inputs, arrays, labels = _rows("binary")
    codes = np.arange(len(labels), dtype=np.int64)[:, None]
    skills = leakage.single_feature_skills(TASKS["binary"], inputs, {**arrays, "codes": codes}, labels)
    assert next(one.skill for one in skills if one.feature == "color") < 0.1


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_skill_of_constant_labels_or_empty_column_is_zero(kind: TaskKind) -> None:
    inputs, arrays, labels = _rows(kind)
    assert all(
        one.skill == 0 for one in leakage.single_feature_skills(TASKS[kind], inputs, arrays, np.ones(len(labels)))
    )
    empty = {**arrays, "numbers": np.full_like(arrays["numbers"], np.nan)}
    skills = {one.feature: one.skill for one in leakage.single_feature_skills(TASKS[kind], inputs, empty, labels)}
    assert skills["plain"] == pytest.approx(0, abs=1e-3)


def test_check_without_limit_yields_nothing() -> None:
    assert not list(leakage.check((SingleFeatureSkill(feature="x", skill=1.0),), None))
