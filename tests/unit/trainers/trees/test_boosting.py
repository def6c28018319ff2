"""Boosted trees in training: what they learn, when they stop, what repeats, and which settings they refuse."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import onnxruntime
import pytest

from cluster.errors import ProjectError
from cluster.values import TaskKind
from features.encoder import UNKNOWN_CODE, Encoder
from tests.factories.errors import raises
from tests.factories.trainers.boosted import FEW_ROUNDS, boosted
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from trainers.config import Distill, LogUniform, ModelSpec, Prune, TrainConfig, TuneConfig
from trainers.data.batches import EncodedRows
from trainers.export.compression import check_steps
from trainers.input_spec import InputSpec
from trainers.loop.trainer import calibrate
from trainers.metrics import PrimaryMetric, primary_metric
from trainers.models import model_builder
from trainers.models.parameters import check_parameters
from trainers.trees.boosting import split_objectives
from trainers.trees.early_stopping import EarlyStopping
from trainers.trees.forest import float32_below
from trainers.trees.libraries import library_of
from trainers.trees.parameters import check_settings, parameters_of, pool_workers
from trainers.trees.tree_model import TreeModel

LIGHTGBM = ModelSpec(build="lightgbm")


@pytest.mark.parametrize("build", ["lightgbm", "xgboost"])
@pytest.mark.parametrize(
    ("kind", "metric", "bound"),
    [("binary", "auc", 0.85), ("multiclass", "accuracy", 0.6), ("regression", "r2", 0.7), ("multilabel", "auc", 0.9)],
)
def test_boosting_learns_every_task(kind: TaskKind, metric: str, bound: float, build: str) -> None:
    result = boosted(kind, ModelSpec(build=build, parameters={"rounds": 60}))
    assert result.metrics[metric] > bound
    assert [epoch.rounds for epoch in result.epochs] == sorted({epoch.rounds for epoch in result.epochs})
    assert result.epochs[-1].loss < result.epochs[0].loss


@pytest.mark.parametrize("build", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_boosting_repeats_bit_for_bit_and_another_seed_differs(kind: TaskKind, build: str) -> None:
    spec = ModelSpec(build=build, parameters={"rounds": 60})
    one, again, other = (boosted(kind, spec, TrainConfig(workers=1, seed=seed)) for seed in (3, 3, 4))
    assert all(np.array_equal(value, again.state[name]) for name, value in one.state.items())
    assert any(not np.array_equal(value, other.state[name]) for name, value in one.state.items())


@pytest.mark.parametrize("build", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "multilabel"])
def test_boosting_continues_the_trees_of_a_version_on_other_rows(kind: TaskKind, build: str) -> None:
    few = {"rounds": 10, "learning_rate": 0.05}
    first = boosted(kind, ModelSpec(build=build, parameters=few))
    more = boosted(kind, ModelSpec(build=build, parameters={"rounds": 20}), table=frame(kind, seed=8), start=first)
    library = library_of(first.spec)
    for name, before in first.state.items():
        old, new = (library.forest(state.tobytes()) for state in (before, more.state[name]))
        assert len(new.trees) > len(old.trees)
        assert new.base == pytest.approx(old.base)
        for one, other in zip(old.trees, new.trees, strict=False):
            assert np.array_equal(one.features, other.features)
            assert one.leaves == pytest.approx(other.leaves)
    kept = first.epochs[-1].rounds
    assert kept < more.epochs[-1].rounds <= kept + 20
    held_out = part(frame(kind, seed=8), "validation")
    primary = primary_metric(TASKS[kind])
    from_zero = boosted(kind, ModelSpec(build=build, parameters=few), table=frame(kind, seed=8))
    assert primary.is_better(more.metrics[primary.name], from_zero.metrics[primary.name])
    graph = TreeModel(more.spec, more.task, more.inputs, more.state).to_onnx()
    session = onnxruntime.InferenceSession(graph)
    (scores,) = session.run(None, more.encoder.encode(held_out))
    assert scores == pytest.approx(more.build_model().score(more.encoder.encode(held_out)), rel=1e-5, abs=1e-5)


def test_boosting_stops_after_patience_and_keeps_the_best_rounds() -> None:
    parameters = {**FEW_ROUNDS, "rounds": 500, "learning_rate": 0.5}
    result = boosted(
        spec=ModelSpec(build="lightgbm", parameters=parameters), config=TrainConfig(workers=1, patience=30)
    )
    best = next(epoch for epoch in reversed(result.epochs) if epoch.best)
    assert result.epochs[-1].rounds < 500
    assert 30 <= result.epochs[-1].rounds - best.rounds < 30 + 10
    assert result.metrics["auc"] == max(epoch.metrics["auc"] for epoch in result.epochs)
    text = result.state["model.0"].tobytes().decode()
    assert text.count("\nTree=") == best.rounds


def test_early_stopping_counts_rounds_since_the_best() -> None:
    stopping = EarlyStopping(PrimaryMetric("log_loss", "min"), 20)
    assert not stopping.is_over(100)
    assert [stopping.offer(value, rounds) for value, rounds in ((0.5, 10), (0.4, 20), (0.4, 30))] == [True, True, False]
    assert (stopping.best_rounds, stopping.best, stopping.is_over(39), stopping.is_over(40)) == (20, 0.4, False, True)


def test_class_weights_raise_the_scores_of_the_weighted_class() -> None:
    weighted = boosted(config=TrainConfig(workers=1, class_weights=(1.0, 5.0)))
    arrays = weighted.encoder.encode(part(frame(), "validation"))
    assert weighted.build_model().score(arrays).mean() > boosted().build_model().score(arrays).mean() + 0.02


def test_objective_of_weighted_rows_multiplies_weights_of_rows_and_classes() -> None:
    arrays = np.zeros((2, 1), np.float32), np.zeros((2, 0), np.int64), np.array([0.0, 1.0], np.float32)
    weighted, plain = EncodedRows(*arrays, np.array([0.5, 0.25], np.float32)), EncodedRows(*arrays)
    inputs = InputSpec.fit(Encoder(columns=COLUMNS[:1], vocabularies={}), TASKS["binary"],
                           {"numbers": arrays[0], "codes": arrays[1]}, arrays[2])  # fmt: skip
    by_class = TrainConfig(workers=1, class_weights=(1.0, 4.0))
    found = [
        next(split_objectives(TASKS["binary"], config, inputs, rows)).weights
        for config in (TrainConfig(workers=1), by_class)
        for rows in (plain, weighted)
    ]
    assert [None if each is None else each.tolist() for each in found] == [None, [0.5, 0.25], [1.0, 4.0], [0.5, 1.0]]


def test_categories_are_split_as_sets_and_an_unseen_one_is_scored() -> None:
    result = boosted(columns=COLUMNS[3:4])
    arrays = {"numbers": np.empty((5, 0), np.float32), "codes": np.arange(5)[:, None]}
    scores = result.build_model().score(arrays)
    names = ("blue", "green", "red")
    rows = part(frame(), "train").to_pandas()
    rates = {name: rows.label[rows.color == name].mean() for name in names}
    by_rate = sorted(names, key=rates.__getitem__)
    assert sorted(names, key=lambda name: scores[2 + names.index(name)]) == by_rate
    assert 0 < scores[UNKNOWN_CODE] < 1


def test_temperature_divides_the_logits_of_score_and_graph() -> None:
    table = frame(rows=1500)
    result = boosted(table=table, config=TrainConfig(workers=1, calibrate="temperature"))
    calibrated = calibrate(result, part(table, "validation"))
    assert calibrated.temperature != 1.0
    arrays = result.encoder.encode(part(table, "validation"))
    raw, scaled = (each.build_model().score(arrays).astype(float) for each in (result, calibrated))
    logits = [np.log(scores / (1 - scores)) for scores in (raw, scaled)]
    assert np.allclose(logits[0], calibrated.temperature * logits[1], atol=1e-3)


@pytest.mark.parametrize(
    "changes", [{"lr": 0.1}, {"epochs": 5}, {"gpu": True}, {"quantize": "int8"}, {"min_workers": 1}]
)
def test_setting_without_a_meaning_for_trees_is_refused(changes: dict[str, Any]) -> None:
    (name,) = changes
    with raises(ProjectError, "project.setting_not_for_trees", name=name, model="lightgbm"):
        check_settings(LIGHTGBM, TrainConfig(**changes))
    check_settings(LIGHTGBM, TrainConfig(seed=3, patience=7, workers=1, threads=2, calibrate="temperature"))


def test_search_of_trees_takes_their_parameters_only() -> None:
    space = {"learning_rate": LogUniform(low=0.01, high=0.3)}
    check_settings(LIGHTGBM, TrainConfig(), TuneConfig(space=space))
    check_parameters(LIGHTGBM, space)
    with raises(ProjectError, "project.setting_not_for_trees", name="lr"):
        check_settings(LIGHTGBM, TrainConfig(), TuneConfig(space={"lr": LogUniform(low=0.01, high=0.3)}))
    with raises(ProjectError, "project.unknown_model_parameter", model="lightgbm", name="hidden"):
        check_parameters(LIGHTGBM, ["hidden"])
    assert model_builder.effective_parameters(LIGHTGBM)["num_leaves"] == 31


def test_parameter_out_of_bounds_is_refused() -> None:
    with raises(ProjectError, "project.setting_out_of_bounds", name="num_leaves", value=1):
        parameters_of(ModelSpec(build="lightgbm", parameters={"num_leaves": 1}))
    assert (parameters_of(LIGHTGBM).block, parameters_of(LIGHTGBM).blocks) == (20, 50)


def test_compression_of_trees_is_refused() -> None:
    inputs = boosted().inputs
    with raises(ProjectError, "project.compressed_trees", model="lightgbm"):
        check_settings(LIGHTGBM, TrainConfig(), compress=(Prune(share=0.5),))
    for steps, spec in (
        ((Prune(share=0.5),), LIGHTGBM),
        ((Distill(student=ModelSpec()),), LIGHTGBM),
        ((Distill(student=LIGHTGBM),), ModelSpec()),
    ):
        with raises(ProjectError, "project.compressed_trees", model="lightgbm"):
            check_steps(steps, spec, inputs, TASKS["binary"])


def test_library_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(build="xgboost")
    assert library_of(spec).package == "xgboost"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with raises(ProjectError, "project.library_missing", model="xgboost", package="xgboost"):
        library_of(spec)


def test_pooled_process_has_the_cpus_and_threads_of_all_workers() -> None:
    config = pool_workers(TrainConfig(workers=4, threads=2, cpus_per_worker=1.5), 3)
    assert (config.workers, config.threads, config.cpus_per_worker, config.gpu) == (1, 6, 4.5, False)


def test_float32_below_keeps_comparisons_of_doubles() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(size=1000), [0.1, 1.0, -0.1, 0.0, 1e300, -1e300, 16_777_217.0]])
    below = float32_below(values)
    assert below.dtype == np.float32
    assert (below <= values).all()
    with np.errstate(over="ignore"):
        above = np.nextafter(below, np.float32(np.inf)).astype(float)
    assert (above > values).all()
