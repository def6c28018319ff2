"""Training and tuning on a real Ray cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from torch import nn

from cluster.errors import DataError, ProjectError, RayloopError
from cluster.settings import Settings
from cluster.values import Task
from features.encoder import Encoder
from tests.factories.errors import raises
from tests.factories.trainers.boosted import boosted
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.raced import QUICK
from tests.factories.trainers.small_module import Small
from tests.factories.trainers.training import trained
from tests.factories.until import until
from trainers.config import Choice, LogUniform, ModelSpec, Oversample, TrainConfig, TuneConfig
from trainers.data.datasets import TrainingData
from trainers.data.group_weights import GroupWeights
from trainers.evaluation.fairness import FairnessPolicy, measure
from trainers.export.onnx_export import export
from trainers.input_spec import InputSpec
from trainers.loop.trainer import FitRequest, fit
from trainers.tuning.search import search

# Ray Data warns about its own defaults.
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]

TINY = ModelSpec(parameters={"hidden": (16,)})
RACE = QUICK.model_copy(update={"minutes": 0.1})


def _encoder(table: pa.Table) -> Encoder:
    return Encoder.fit(COLUMNS, part(table, "train"))


def test_fit_streams_rows_that_exceed_the_cache(cluster: Settings, tmp_path: Path) -> None:
    table = frame("regression", rows=1501)
    config = TrainConfig(epochs=10, batch_size=64, lr=1e-2, workers=2, cache_mib=0, shuffle_rows=500)
    data = TrainingData(table)
    result = fit(
        FitRequest(ModelSpec(build=Small), config, TASKS["regression"], _encoder(table)), data, lambda line: None
    )
    alone = trained("regression", ModelSpec(build=Small), config.model_copy(update={"workers": 1}), table=table)
    assert result.metrics["r2"] > 0.8
    assert result.metrics["rmse"] == pytest.approx(alone.metrics["rmse"], rel=0.3)
    assert result.inputs == alone.inputs
    assert export(result, tmp_path, table) < 1e-5


@pytest.mark.parametrize("cache_mib", [64, 0])
def test_weak_rows_train_with_their_weight_and_are_not_measured(cluster: Settings, cache_mib: int) -> None:
    table = frame("binary", rows=1201)
    train, held_out = part(table, "train"), part(table, "validation")
    true, others = train.slice(0, 20), train.slice(20)
    weak = others.append_column("weight", pa.array([0.25] * others.num_rows))
    data, encoder = TrainingData(pa.concat_tables([true, held_out]), weak), _encoder(table)
    encoded = data.encode(encoder, TASKS["binary"], cache_mib)
    rows, validation = encoded.local_rows()
    assert (len(rows), len(validation), len(encoded.sample())) == (train.num_rows, held_out.num_rows, 20)
    assert rows.weights is not None
    assert sorted(set(rows.weights.tolist())) == [0.25, 1.0]
    assert rows.labels[rows.weights == 1.0].tolist() == true["label"].to_pylist()
    share = (sum(true["label"].to_pylist()) + 0.25 * sum(others["label"].to_pylist())) / (20 + 0.25 * others.num_rows)
    assert encoded.inputs.class_shares[1] == pytest.approx(share)
    config = TrainConfig(epochs=10, batch_size=64, lr=1e-2, cache_mib=cache_mib)
    fits = [
        fit(FitRequest(TINY, config, TASKS["binary"], encoder), each, lambda line: None)
        for each in (data, TrainingData(pa.concat_tables([true, held_out])))
    ]
    assert fits[0].metrics["auc"] > fits[1].metrics["auc"] + 0.05


def test_synthetic_rows_train_and_are_not_measured(cluster: Settings) -> None:
    whole = frame(rows=2000)
    table = whole.filter(pa.array((whole["label"].to_numpy() == 0) | (np.arange(2000) % 8 == 0)))
    data, encoder, task = TrainingData(table), _encoder(table), TASKS["binary"]
    config = TrainConfig(epochs=2, batch_size=64, minority=Oversample(ratio=0.5), noise=0.1)
    lines = list[str]()
    result = fit(FitRequest(TINY, config, task, encoder), data, lines.append)
    labels = part(table, "train")["label"].to_numpy()
    expected = -(-int((labels == 0).sum()) // 2) - int((labels == 1).sum())
    assert result.synthetic_rows == expected > 100
    assert any(f"{expected:,} synthetic rows" in line for line in lines)
    raced = fit(FitRequest(RACE, TrainConfig(minority=Oversample(ratio=0.5)), task, encoder), data, lines.append)
    assert (raced.synthetic_rows, raced.inputs.logit_shift) == (expected, result.inputs.logit_shift)
    true = data.encode(encoder, task, config.cache_mib)
    assert (true.synthetic_rows, len(true.sample()), true.inputs.logit_shift) == (0, len(labels), ())
    assert true.inputs.class_shares == result.inputs.class_shares
    rows, held_out = true.with_synthetic_rows(config, task).local_rows()
    assert (len(rows), len(held_out)) == (len(labels) + expected, part(table, "validation").num_rows)
    assert rows.labels[: len(labels)].tolist() == labels.tolist()
    streamed = config.model_copy(update={"cache_mib": 0})
    with raises(DataError, "data.minority_streamed", cache_mib=0):
        fit(FitRequest(TINY, streamed, task, encoder), data)


@pytest.mark.parametrize("spec", [TINY, ModelSpec(build="lightgbm", parameters={"rounds": 60})], ids=lambda s: s.name)
def test_reweighed_rows_train_models_whose_decisions_depend_less_on_groups(cluster: Settings, spec: ModelSpec) -> None:
    table = frame("binary", rows=1501)
    train, validation = part(table, "train"), part(table, "validation")
    weights, encoder = GroupWeights.fit(train, ("color",), 10), _encoder(table)
    config = TrainConfig(epochs=20, batch_size=64, lr=1e-2) if spec.is_module else TrainConfig(workers=1)
    policy, differences = FairnessPolicy(groups=("color",), min_rows=10), []
    for groups in (None, weights):
        data = TrainingData(table, groups=groups)
        model = fit(FitRequest(spec, config, TASKS["binary"], encoder), data, lambda line: None).build_model()
        labels = np.asarray(validation["label"])
        (comparison,) = measure(policy, TASKS["binary"], validation, model.score(encoder.encode(validation)), labels)
        assert comparison.parity_difference is not None
        differences.append(comparison.parity_difference)
    assert differences[1] < differences[0] - 0.1
    rows, held_out = data.encode(encoder, TASKS["binary"], config.cache_mib).local_rows()
    np.testing.assert_allclose(rows.weights, weights.of(train), rtol=1e-6)
    assert held_out.weights is not None
    assert (held_out.weights == 1.0).all()


def test_search_runs_trials_and_selects_a_winner(cluster: Settings) -> None:
    table = frame("multiclass")
    tuning = TuneConfig(
        space={"lr": LogUniform(low=1e-4, high=3e-2), "hidden": Choice(options=((4,), (16,), (16, 8)))},
        trials=4,
        cpus_per_trial=0.5,
    )
    base, lines, lock = TrainConfig(epochs=4, batch_size=64), list[str](), threading.Lock()
    data = TrainingData(table)

    def unpicklable(line: str) -> None:
        with lock:
            lines.append(line)

    result = search(FitRequest(TINY, base, TASKS["multiclass"], _encoder(table)), tuning, data, unpicklable)
    assert [trial.number for trial in result.trials] == [1, 2, 3, 4]
    assert result.trials[0].parameters == {"lr": base.lr, "hidden": (16,)}
    assert result.best.metric == min(trial.metric for trial in result.trials)
    assert (result.config.lr, result.spec.parameters["hidden"]) == tuple(result.best.parameters.values())
    assert all((trial.status == "finished") == (trial.epochs == base.epochs) for trial in result.trials)
    assert len(lines) == 4


def test_trees_are_fitted_and_searched_on_ray_with_the_bits_of_this_process(cluster: Settings, tmp_path: Path) -> None:
    table, spec = frame(rows=1500), ModelSpec(build="lightgbm", parameters={"rounds": 60})
    request = FitRequest(spec, TrainConfig(workers=1), TASKS["binary"], _encoder(table))
    result = fit(request, TrainingData(table), lambda line: None)
    alone = boosted(spec=spec, table=table)
    assert all(np.array_equal(value, alone.state[name]) for name, value in result.state.items())
    assert result.train_metrics["auc"] > 0.85
    assert export(result, tmp_path, table) < 1e-5
    streamed = FitRequest(spec, TrainConfig(workers=1, cache_mib=0), TASKS["binary"], request.encoder)
    assert fit(streamed, TrainingData(table), lambda line: None).metrics == result.metrics
    space = {"num_leaves": Choice(options=(2, 31)), "learning_rate": LogUniform(low=1e-3, high=0.3)}
    tuning = TuneConfig(space=space, trials=3, cpus_per_trial=0.5)
    tuned = search(request, tuning, TrainingData(table), lambda line: None)
    assert tuned.trials[0].parameters == {"num_leaves": 31, "learning_rate": 0.05}
    assert tuned.best.metric == max(trial.metric for trial in tuned.trials)
    assert tuned.spec.parameters["rounds"] == 60
    with raises(ProjectError, "project.setting_not_for_trees", name="lr"):
        fit(FitRequest(spec, TrainConfig(lr=0.1), TASKS["binary"], request.encoder), TrainingData(table))


def test_worker_error_is_raised_with_its_class_and_code(cluster: Settings) -> None:
    table = frame("regression")
    config = TrainConfig(epochs=3, batch_size=64, lr=1e30, clip_norm=0, schedule="constant", workers=1)
    with raises(DataError, "data.loss_not_finite"):
        fit(
            FitRequest(TINY, config, TASKS["regression"], _encoder(table)),
            TrainingData(table),
            lambda line: None,
        )


def test_search_without_a_result_names_the_reason(cluster: Settings) -> None:
    def broken(inputs: InputSpec, task: Task, width: int = 1) -> nn.Module:
        return nn.Linear(inputs.width + width, task.outputs)

    class Untrainable(nn.Module):
        def __init__(self, inputs: InputSpec, task: Task, width: int = 1) -> None:
            super().__init__()
            self.body = nn.Linear(inputs.width, task.outputs)

        def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise TypeError("only for answers")
            scores: torch.Tensor = self.body(numbers)
            return scores

    table = frame()
    tuning = TuneConfig(space={"width": Choice(options=(1, 2))}, trials=1)
    encoder, data, config = _encoder(table), TrainingData(table), TrainConfig(epochs=1)

    def run(spec: ModelSpec) -> None:
        search(FitRequest(spec, config, TASKS["binary"], encoder), tuning, data, lambda line: None)

    with raises(ProjectError, "project.unknown_model_parameter", model="mlp", name="width"):
        run(TINY)
    with raises(ProjectError, "project.model_fails") as caught:
        run(ModelSpec(build=broken))
    assert "TypeError" in str(caught.value)
    with raises(RayloopError, "rayloop.search_without_result", reason="TypeError: only for answers"):
        run(ModelSpec(build=Untrainable))


@pytest.mark.parametrize(
    ("change", "code", "fields"),
    [
        (lambda t: t.drop_columns("plain"), "data.missing_columns", {"columns": ["plain"]}),
        (lambda t: t.drop_columns("label"), "data.missing_columns", {"columns": ["label"]}),
        (lambda t: t.drop_columns("split"), "data.missing_columns", {"columns": ["split"]}),
        (lambda t: t.set_column(5, "label", pa.nulls(t.num_rows, pa.float64())), "data.label_not_finite", {}),
        (lambda t: part(t, "train"), "data.empty_split", {"split": "validation"}),
    ],
)
def test_frame_unlike_its_declaration_is_refused(
    cluster: Settings, change: Callable[[pa.Table], pa.Table], code: str, fields: dict[str, object]
) -> None:
    table = frame()
    with raises(DataError, code, **fields):
        TrainingData(change(table)).encode(_encoder(table), TASKS["binary"], 64)


def test_trial_trains_on_workers_of_its_own(cluster: Settings) -> None:
    table, free = frame(), ray.available_resources()["CPU"]
    tuning = TuneConfig(space={"lr": LogUniform(low=1e-3, high=1e-2)}, trials=1, workers_per_trial=2)
    result = search(
        FitRequest(TINY, TrainConfig(epochs=2, batch_size=64), TASKS["binary"], _encoder(table)),
        tuning,
        TrainingData(table),
    )
    (trial,) = result.trials
    assert (trial.status, 0.5 < trial.metric <= 1) == ("finished", True)
    # More than before is free when what earlier tests left has gone meanwhile.
    until(lambda: ray.available_resources().get("CPU", 0.0) >= free, "what trials held is free again", 60.0)
