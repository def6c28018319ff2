"""Synthetic rows of rare classes: where they lie, how many they are, and which tasks have none."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import DataError, ProjectError
from cluster.values import Task, TaskKind
from features.encoder import Arrays
from tests.factories.effort import examples
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS
from trainers.config import Oversample, TrainConfig
from trainers.data import oversampling
from trainers.data.oversampling import SyntheticRows, check_classes, synthesize
from trainers.input_spec import InputSpec

BINARY, THREE = TASKS["binary"], TASKS["multiclass"]


def _inputs(numbers: int, categories: int) -> InputSpec:
    return InputSpec(
        numbers=tuple(f"n{i}" for i in range(numbers)),
        tensors=(),
        categories=tuple(f"c{i}" for i in range(categories)),
        cardinalities=(5,) * categories,
        mean=(0.0,) * numbers,
        std=(1.0,) * numbers,
        missing=(),
    )


def _made(
    arrays: Arrays, labels: np.ndarray, setting: Oversample, task: Task = BINARY, weights: np.ndarray | None = None
) -> SyntheticRows:
    inputs = _inputs(arrays["numbers"].shape[1], arrays["codes"].shape[1])
    return synthesize(setting, task, inputs, arrays, labels.astype(np.float32), weights, seed=3)


def _numbers(values: object) -> Arrays:
    numbers = np.asarray(values, np.float32)
    return {"numbers": numbers, "codes": np.zeros((len(numbers), 0), np.int64)}


@settings(max_examples=examples(200), deadline=None)
@given(
    counts=st.tuples(st.integers(2, 12), st.integers(2, 12), st.integers(2, 30)),
    ratio=st.floats(0.05, 1),
    neighbors=st.integers(1, 8),
    seed=st.integers(0, 1000),
    missing=st.booleans(),
)
def test_synthetic_rows_lie_within_their_class_and_fill_it_to_the_ratio(
    counts: tuple[int, int, int], ratio: float, neighbors: int, seed: int, missing: bool
) -> None:
    random, labels = np.random.default_rng(seed), np.repeat(np.arange(3), counts)
    numbers = random.normal(size=(len(labels), 2)).astype(np.float32) + labels[:, None].astype(np.float32) * 10
    if missing:
        numbers[random.random(numbers.shape) < 0.3] = np.nan
    arrays = {"numbers": numbers, "codes": random.integers(5, size=(len(labels), 2))}
    made = _made(arrays, labels, Oversample(ratio=ratio, neighbors=neighbors), THREE)
    after = np.array(counts) + np.bincount(made.labels.astype(int), minlength=3)
    wanted = np.maximum(counts, np.ceil(ratio * max(counts) - 1e-9))
    assert (np.abs(after - wanted) <= 1).all()
    assert np.allclose(made.logit_shift, np.log(after / counts))
    assert made.arrays["numbers"].dtype == np.float32
    for k in range(3):
        own, new = labels == k, made.labels == k
        for column in range(2):
            true, values = numbers[own, column], made.arrays["numbers"][new, column]
            inside = values[~np.isnan(values)]
            assert not len(inside) or (np.nanmin(true) - 1e-4 <= inside).all()
            assert not len(inside) or (inside <= np.nanmax(true) + 1e-4).all()
            assert set(made.arrays["codes"][new, column]) <= set(arrays["codes"][own, column])


def test_row_lies_between_a_row_and_its_nearest_neighbor() -> None:
    line = np.array([0.0, 1.0, 3.0, 7.0, 15.0]) / 4
    labels = np.array([1, 1, 1, 1, 1, *[0] * 200])
    made = _made(_numbers(np.concatenate([line, np.zeros(200)])[:, None]), labels, Oversample(neighbors=1))
    values = made.arrays["numbers"][:, 0]
    assert len(values) == 195
    # The nearest neighbor of each point is the one on its left, and of the first the second.
    for low, high in pairwise(line):
        assert ((low < values) & (values < high)).sum() > 10
    pairs = np.concatenate([[0.0, 1.0, 4.9, 5.0], np.zeros(200)])[:, None]
    apart = _made(_numbers(pairs), np.repeat([1, 0], [4, 200]), Oversample(neighbors=1)).arrays["numbers"][:, 0]
    assert ((apart <= 1) | (apart >= 4.9)).all()


def test_categories_that_differ_count_as_the_spread_of_numbers_and_are_voted_by_neighbors() -> None:
    """Two groups at nearly the same place that differ in a category: neighbors are sought within a group."""
    random = np.random.default_rng(0)
    codes = np.repeat([2, 3], 20)[:, None]
    arrays = {
        "numbers": np.concatenate([random.normal(size=(40, 1)) * 0.01 + codes, np.zeros((400, 1))]).astype(np.float32),
        "codes": np.concatenate([codes, np.zeros((400, 1), np.int64)]),
    }
    made = _made(arrays, np.repeat([1, 0], [40, 400]), Oversample())
    assert len(made.labels) == 360
    assert (np.round(made.arrays["numbers"]) == made.arrays["codes"]).all()


def test_number_that_is_missing_at_an_end_is_that_of_the_start() -> None:
    numbers = [[0.0, np.nan], [1.0, 5.0], *[[0.0, 0.0]] * 100]
    made = _made(_numbers(numbers), np.array([1, 1, *[0] * 100]), Oversample()).arrays["numbers"]
    assert set(made[~np.isnan(made[:, 1]), 1].tolist()) == {5.0}
    assert np.isnan(made[:, 1]).any()
    assert ((made[:, 0] >= 0) & (made[:, 0] <= 1)).all()


def test_infinite_number_stays_where_it_is() -> None:
    numbers = [[np.inf], [np.inf], [1.0], *[[0.0]] * 30]
    made = _made(_numbers(numbers), np.array([1, 1, 1, *[0] * 30]), Oversample()).arrays["numbers"]
    assert not np.isnan(made).any()


def test_rows_count_by_their_weights() -> None:
    weights = np.array([0.5] * 10 + [1.0] * 20, np.float32)
    random = np.random.default_rng(0)
    made = _made(_numbers(random.normal(size=(30, 1))), np.repeat([1, 0], [10, 20]), Oversample(), weights=weights)
    assert len(made.labels) == 30
    assert made.weights is not None
    assert set(made.weights.tolist()) == {0.5}
    assert made.logit_shift == pytest.approx((np.log(20 / 5),))


def test_same_seed_draws_the_same_rows_and_a_large_class_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    arrays, labels = _numbers(random.normal(size=(400, 3))), np.repeat([1, 0], [100, 300])
    one, again = (_made(arrays, labels, Oversample()) for _ in range(2))
    assert np.array_equal(one.arrays["numbers"], again.arrays["numbers"])
    other = synthesize(Oversample(), BINARY, _inputs(3, 0), arrays, labels.astype(float), None, seed=4)
    assert not np.array_equal(one.arrays["numbers"], other.arrays["numbers"])
    monkeypatch.setattr(oversampling, "MAX_ROWS", 20)
    thinned = _made(arrays, labels, Oversample())
    assert len(thinned.labels) == len(one.labels) == 200
    assert not np.array_equal(one.arrays["numbers"], thinned.arrays["numbers"])


def test_balanced_classes_get_no_rows() -> None:
    made = _made(_numbers(np.zeros((20, 1))), np.repeat([0, 1], 10), Oversample())
    assert len(made.labels) == len(made.arrays["numbers"]) == 0
    assert made.logit_shift == (0.0,)


def test_class_of_a_single_row_is_refused_and_an_absent_one_is_left() -> None:
    with raises(DataError, "data.minority_single_row", classes=[1]):
        _made(_numbers(np.zeros((11, 1))), np.repeat([0, 1], [10, 1]), Oversample())
    made = _made(_numbers(np.zeros((15, 1))), np.repeat([0, 1], [10, 5]), Oversample(), THREE)
    assert set(made.labels.tolist()) == {1.0}


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_task_without_exclusive_classes_is_refused(kind: TaskKind) -> None:
    check_classes(TASKS[kind], TrainConfig())
    check_classes(BINARY, TrainConfig(minority=Oversample()))
    with raises(ProjectError, "project.minority_needs_classes", task_kind=kind):
        check_classes(TASKS[kind], TrainConfig(minority=Oversample()))


def test_synthetic_rows_exclude_class_weights() -> None:
    with raises(ProjectError, "project.minority_with_class_weights", weights="balanced"):
        TrainConfig(minority=Oversample(), class_weights="balanced")


def test_settings_without_synthetic_rows_and_noise_are_stored_as_before() -> None:
    assert not {"minority", "noise"} & set(TrainConfig().model_dump())
    config = TrainConfig(minority=Oversample(ratio=0.5), noise=0.1)
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config
