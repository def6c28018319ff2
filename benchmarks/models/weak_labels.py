"""Weak labels beside true ones: what a model reaches, and how well accuracies of labeling functions are estimated.

Each seed divides a table into rows with a true label, rows without, and test rows. Labeling functions, written once by
hand, vote on the rows without; their accuracies are estimated, and the rows train with the weak labels that follow, as
a project's do. The same model trains on the true labels alone, and on as many true labels as there are weak ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import NamedTuple

import numpy as np
import polars as pl
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.models import label_models
from benchmarks.results import Row, row
from cluster.values import Task
from examples.flights.data import flights_frame, weather_frame
from features.labeling.labeling_functions import ABSTAIN, LabelingFunction, WeakLabels, cast_votes, labeling_function
from features.labeling.weak_estimate import WeakEstimate, count_votes, estimate_weak_labels
from features.offline.weak_rows import weigh_rows
from features.types import LABEL, WEIGHT

SEEDS, FEW_SEEDS = 20, 3
TASK = Task(kind="binary", label=LABEL)


class Table(NamedTuple):
    """A table whose labels are known, and labeling functions for it."""

    name: str
    rows: pl.DataFrame
    """Columns for the functions, numbers for the model, and the label."""
    numbers: tuple[str, ...]
    weak: WeakLabels
    true: int
    """Rows with a true label."""
    test: int
    """Test rows."""


class Outcome(NamedTuple):
    """Figures of one seed."""

    aucs: Mapping[str, float]
    losses: Mapping[str, float]
    estimate: WeakEstimate
    accuracies: list[float]
    """Share of votes that are right on all rows that train, by function."""


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Compare label models in simulation, and weak labels with true ones on two tables."""
    seeds = FEW_SEEDS if small else SEEDS
    progress("label models in simulation")
    yield from label_models.rows(seeds)
    for table in (breast_cancer(), flights()):
        progress(f"weak labels: {table.name}")
        yield from _table_rows(table, [run_seed(table, seed) for seed in range(seeds)])


def run_seed(table: Table, seed: int) -> Outcome:
    """Train with true labels, with weak labels beside them, and with true labels in their place."""
    order = np.random.default_rng(seed).permutation(table.rows.height)
    test, true, others = (table.rows[part] for part in np.split(order, np.cumsum([table.test, table.true])))
    counted = [count_votes(table.weak, TASK, true, LABEL), count_votes(table.weak, TASK, others)]
    estimate, posteriors = estimate_weak_labels(table.weak, TASK, counted)
    weak = weigh_rows(others.drop(LABEL), table.weak, TASK, posteriors)
    voted = (cast_votes(table.weak, TASK, others) != ABSTAIN).select(pl.any_horizontal(pl.all())).to_series()
    columns = [*table.numbers, LABEL, WEIGHT]
    labeled = true.with_columns(pl.lit(1.0).alias(WEIGHT)).select(columns)
    trained = {
        "true": labeled,
        "weak": pl.concat([labeled, weak.select(columns)]),
        "all true": pl.concat([labeled, others.filter(voted).with_columns(pl.lit(1.0).alias(WEIGHT)).select(columns)]),
    }
    scores = {name: _scores(table, part, test) for name, part in trained.items()}
    truth = test[LABEL].to_numpy()
    return Outcome(
        {name: float(roc_auc_score(truth, each)) for name, each in scores.items()},
        {name: float(log_loss(truth, each)) for name, each in scores.items()},
        estimate,
        _accuracies(table, pl.concat([true, others])),
    )


def _table_rows(table: Table, outcomes: list[Outcome]) -> Iterator[Row]:
    work = f"weak labels: {table.name}, {table.true} true labels"
    first = outcomes[0].estimate
    note = f"seeds 0 to {len(outcomes) - 1}, median; {first.rows:,} of {first.unlabeled:,} rows get a weak label"
    for unit, figures in (("AUC", [o.aucs for o in outcomes]), ("log loss", [o.losses for o in outcomes])):
        weak, true, every = (median(each[name] for each in figures) for name in ("weak", "true", "all true"))
        yield row(work, f"{unit} with weak labels", weak, "the true labels alone", true, note=note)
        yield row(work, f"{unit} with weak labels", weak, "true labels in place of the weak ones", every, note=note)
    better = sum(o.losses["weak"] < o.losses["true"] for o in outcomes)
    yield row(work, f"seeds of {len(outcomes)} with a lower log loss than without weak labels, count", better)
    for j, function in enumerate(first.functions):
        estimated = [outcome.estimate.functions[j] for outcome in outcomes]
        accuracies = [each.accuracy for each in estimated if each.accuracy is not None]
        truth = [outcome.accuracies[j] for outcome in outcomes]
        inside = sum(
            abs(accuracy - right) <= 1.96 * each.standard_error
            for accuracy, right, each in zip(accuracies, truth, estimated, strict=True)
        )
        note = f"the 95% interval has the truth in {inside} of {len(outcomes)} seeds; coverage {function.coverage:.0%}"
        unit = f"accuracy of {function.name}, estimated, median"
        yield row(work, unit, median(accuracies), "true accuracy", median(truth), note=note)
    pairs = sorted({pair.functions for outcome in outcomes for pair in outcome.estimate.dependences})
    told = {pair: sum(pair in [d.functions for d in o.estimate.dependences] for o in outcomes) for pair in pairs}
    note = "; ".join(f"{first} and {second} in {count}" for (first, second), count in told.items())
    warned = sum(bool(outcome.estimate.dependences) for outcome in outcomes)
    yield row(work, f"seeds of {len(outcomes)} with a warning of dependent functions, count", warned, note=note)


def breast_cancer() -> Table:
    """569 tumors, malignant or not; functions are thresholds on measures of the nuclei."""
    data = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in data.feature_names]
    rows = pl.DataFrame(data.data, schema=names).with_columns(pl.Series(LABEL, 1.0 - data.target))
    weak = WeakLabels(
        functions=(
            _between("radius", "worst_radius", 14.0, 18.0),
            _between("concave", "worst_concave_points", 0.1, 0.18),
            _between("texture", "worst_texture", 22.0, 30.0),
            labeling_function("smoothness", pl.when(pl.col("mean_smoothness") > 0.11).then(1)),
            labeling_function("symmetry", pl.when(pl.col("worst_symmetry") > 0.35).then(1)),
        )
    )
    return Table("breast cancer", rows, tuple(names), weak, true=20, test=200)


def flights() -> Table:
    """Whether a flight of 2013 arrives 15 minutes late; functions go by hour, carrier, month, weather."""
    weather = weather_frame().select("origin", "observed_at", "precip", "visib").unique(["origin", "observed_at"])
    frame = flights_frame().drop_nulls("arr_delay").gather_every(16).with_columns(
        pl.col("scheduled_at").dt.truncate("1h").alias("observed_at")
    )  # fmt: skip
    joined = frame.join(weather, on=["origin", "observed_at"], how="left", maintain_order="left")
    at = pl.col("scheduled_at").dt.convert_time_zone("America/New_York").dt
    rows = joined.select(
        "carrier", "origin", pl.col("distance").cast(pl.Float64),
        pl.col("precip").fill_null(0.0), pl.col("visib").fill_null(10.0),
        hour=at.hour().cast(pl.Float64), month=at.month().cast(pl.Float64), weekday=at.weekday().cast(pl.Float64),
        label=(pl.col("arr_delay") >= 15).cast(pl.Float64),
    )  # fmt: skip
    hot = rows.select("carrier", "origin", "month").to_dummies().cast(pl.Float64)
    numbers = ("distance", "precip", "visib", "hour", "weekday", *hot.columns)
    weak = WeakLabels(
        functions=(
            _between("hour", "hour", 10.0, 16.0),
            _one_of("carrier", "carrier", on_time=["AS", "HA", "US", "DL"], late=["EV", "F9", "FL", "YV"]),
            _one_of("month", "month", on_time=[9.0, 10.0, 11.0], late=[6.0, 7.0, 12.0]),
            labeling_function("weather", pl.when((pl.col("precip") > 0) | (pl.col("visib") < 5)).then(1)),
        )
    )
    return Table("late flights", pl.concat([rows, hot], how="horizontal"), numbers, weak, true=200, test=8_000)


def _between(name: str, column: str, low: float, high: float) -> LabelingFunction:
    value = pl.col(column)
    return labeling_function(name, pl.when(value > high).then(1).when(value < low).then(0))


def _one_of(name: str, column: str, on_time: list[object], late: list[object]) -> LabelingFunction:
    value = pl.col(column)
    return labeling_function(name, pl.when(value.is_in(late)).then(1).when(value.is_in(on_time)).then(0))


def _scores(table: Table, train: pl.DataFrame, test: pl.DataFrame) -> np.ndarray:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000, tol=1e-3))
    weights = train[WEIGHT].to_numpy()
    model.fit(
        train.select(table.numbers).to_numpy(), train[LABEL].to_numpy(), logisticregression__sample_weight=weights
    )
    return np.asarray(model.predict_proba(test.select(table.numbers).to_numpy())[:, 1])


def _accuracies(table: Table, rows: pl.DataFrame) -> list[float]:
    votes, truth = cast_votes(table.weak, TASK, rows), rows[LABEL]
    return [float((vote == truth).filter(vote != ABSTAIN).mean()) for vote in votes]  # type: ignore[arg-type]
