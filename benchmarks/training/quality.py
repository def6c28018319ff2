"""Held-out quality compared with LightGBM: flights on the same features, and three tables of scikit-learn.

Each table is split five times by a seed into 60 % for training, 20 % for choosing the epoch, and 20 % for testing.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean
from typing import NamedTuple

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import torch
from sklearn import datasets
from sklearn.utils import Bunch

from benchmarks.results import Row, Target, row
from benchmarks.training.case import TrainingCase
from cluster.values import Task
from features.definitions import Column
from features.encoder import Encoder
from features.types import LABEL
from trainers import metrics
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import EncodedRows, MemoryLoader, MemoryValidationLoader
from trainers.evaluation.lightgbm_baseline import fit_baseline
from trainers.input_spec import InputSpec
from trainers.loop import train_loop
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_spec import TrainSpec
from trainers.loop.validation import gather_scores
from trainers.models.model_builder import build
from trainers.models.scoring_module import ScoringModule

SPLITS = 5
LIGHTGBM = "LightGBM"
_ABOVE = Target(of="ratio", sign="≥", limit=1)
_BELOW = Target(of="ratio", sign="≤", limit=1)

FLIGHTS = ModelSpec(build="mlp", parameters={"hidden": (256, 128), "dropout": 0.2})
FLIGHTS_CONFIG = TrainConfig(epochs=2, batch_size=2048, workers=1)
TABLE = ModelSpec(build="mlp", parameters={"hidden": (128, 64), "dropout": 0.2})
TABLE_CONFIG = TrainConfig(epochs=60, batch_size=64, lr=3e-3, workers=1, patience=15)


class Table(NamedTuple):
    """A table of scikit-learn, and its metric."""

    name: str
    task: Task
    data: Bunch


def rows(case: TrainingCase, progress: Callable[[str], None]) -> list[Row]:
    """Run everything on one thread, in this process."""
    torch.set_num_threads(1)
    table_rows = [_flights(case)]
    progress(f"flights: {table_rows[0].rayloop} beside {table_rows[0].peer_value}")
    for table in _tables():
        table_rows.append(_table(table))
        progress(f"{table.name}: {table_rows[-1].rayloop} beside {table_rows[-1].peer_value}")
    won = sum(one.met is True for one in table_rows[1:])
    note = "those of this page, at or above"
    return [*table_rows, row("quality: tables of three at or above LightGBM", "tables", won, target=_TWO, note=note)]


_TWO = Target(of="value", sign="≥", limit=2)


def _flights(case: TrainingCase) -> Row:
    parts = {name: case.part(name) for name in ("train", "validation", "test")}
    scores = _fitted(FLIGHTS, FLIGHTS_CONFIG, case.task, case.encoder, parts)
    labels = parts["test"][LABEL].to_numpy()
    trees = fit_baseline(case.task, case.encoder, parts["train"], parts["validation"]).score(parts["test"])
    ours, theirs = (metrics.evaluate(case.task, predictions, labels)["auc"] for predictions in (scores, trees))
    note = f"{FLIGHTS.name} {FLIGHTS.parameters}, {FLIGHTS_CONFIG.epochs} epochs; early-stopped trees, same features"
    return row("quality: flights, AUC of the test rows", "AUC", ours, LIGHTGBM, theirs, _ABOVE, note)


def _table(table: Table) -> Row:
    ours, theirs = zip(*(_split(table, seed) for seed in range(SPLITS)), strict=True)
    metric = metrics.primary_metric(table.task)
    target = _ABOVE if metric.direction == "max" else _BELOW
    note = f"{len(table.data.target):,} rows, {table.data.data.shape[1]} columns; mean of {SPLITS} splits"
    return row(f"quality: {table.name}, {metric.name}", metric.name, mean(ours), LIGHTGBM, mean(theirs), target, note)


def _split(table: Table, seed: int) -> tuple[float, float]:
    """The metric of both on one split."""
    count = len(table.data.target)
    order = np.random.default_rng(seed).permutation(count)
    cuts = dict(zip(("train", "validation", "test"), np.split(order, [count * 3 // 5, count * 4 // 5]), strict=True))
    frames = {name: _frame(table, chosen) for name, chosen in cuts.items()}
    columns = tuple(Column(name=f"x{i}", kind="number") for i in range(table.data.data.shape[1]))
    encoder = Encoder.fit(columns, frames["train"])
    config = TABLE_CONFIG.model_copy(update={"seed": seed})
    labels, metric = frames["test"][LABEL].to_numpy(), metrics.primary_metric(table.task).name
    scores = _fitted(TABLE, config, table.task, encoder, frames), _trees(table, cuts, seed)
    ours, theirs = (metrics.evaluate(table.task, predictions, labels)[metric] for predictions in scores)
    return ours, theirs


def _frame(table: Table, chosen: np.ndarray) -> pa.Table:
    columns = {f"x{i}": values for i, values in enumerate(np.asarray(table.data.data, float)[chosen].T)}
    return pa.table({**columns, LABEL: np.asarray(table.data.target, float)[chosen]})


def _fitted(
    spec: ModelSpec, config: TrainConfig, task: Task, encoder: Encoder, frames: dict[str, pa.Table]
) -> np.ndarray:
    """Scores of the test rows, by the train function in this process."""
    rows = {name: _rows(encoder, frame) for name, frame in frames.items()}
    train = rows["train"]
    inputs = InputSpec.fit(encoder, task, {"numbers": train.numbers, "codes": train.codes}, train.labels)
    feed, job = MemoryLoader(train, config.batch_size, config.seed), TrainSpec(spec, config, task, inputs)
    outcome = train_loop.train(
        job, feed, MemoryValidationLoader(rows["validation"]), ProcessGroup(), lambda epoch: None
    )
    module = build(spec, inputs, task)
    module.load_state_dict({name: _tensor(value) for name, value in outcome.state.items()})
    return gather_scores(
        ScoringModule(module, task, inputs).eval(), task, MemoryValidationLoader(rows["test"]), ProcessGroup()
    )[0]


def _rows(encoder: Encoder, frame: pa.Table) -> EncodedRows:
    arrays = encoder.encode(frame)
    return EncodedRows(arrays["numbers"], arrays["codes"], frame[LABEL].to_numpy().astype(np.float32))


def _tensor(value: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(value.copy())


def _trees(table: Table, cuts: dict[str, np.ndarray], seed: int) -> np.ndarray:
    """LightGBM with its own defaults, with early stopping on the validation rows."""
    kinds = {"binary": lgb.LGBMClassifier, "multiclass": lgb.LGBMClassifier, "regression": lgb.LGBMRegressor}
    model = kinds[table.task.kind](n_estimators=1000, learning_rate=0.05, random_state=seed, n_jobs=1, verbosity=-1)
    x, y = np.asarray(table.data.data, float), table.data.target
    validation, stop = cuts["validation"], lgb.early_stopping(50, verbose=False)
    model.fit(x[cuts["train"]], y[cuts["train"]], eval_X=x[validation], eval_y=y[validation], callbacks=[stop])
    if table.task.kind == "regression":
        return np.asarray(model.predict(x[cuts["test"]]))
    chances = np.asarray(model.predict_proba(x[cuts["test"]]))
    return chances if table.task.kind == "multiclass" else chances[:, 1]


def _tables() -> list[Table]:
    digits = Task(kind="multiclass", label="digit", classes=tuple("0123456789"))
    return [
        Table("digits", digits, datasets.load_digits()),
        Table("breast cancer", Task(kind="binary", label="benign"), datasets.load_breast_cancer()),
        Table("diabetes", Task(kind="regression", label="progression"), datasets.load_diabetes()),
    ]
