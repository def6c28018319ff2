"""Flights of 2013 for estimated performance: a classifier and a regressor, and their predictions by week.

Trained on January to July; the reference, on which estimators learn, is August and September; weeks of October to
December are estimated. Columns are known two hours before departure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from lightgbm import LGBMClassifier, LGBMRegressor

from benchmarks.monitoring.streams import Frame
from examples.flights.data import flights_frame, weather_frame

WEATHER = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
CODED = ("carrier", "origin", "dest")
FEATURES = (*CODED, "distance", "hour", "weekday", *WEATHER)
LATE_MINUTES = 15
THRESHOLD = 0.5
_REFERENCE_FROM = datetime(2013, 8, 1, tzinfo=UTC)
_LIVE_FROM = datetime(2013, 10, 7, tzinfo=UTC)
_LIVE_TO = datetime(2013, 12, 30, tzinfo=UTC)
"""Whole weeks, Monday to Sunday."""


@dataclass(frozen=True)
class Part:
    """Rows by time: ``features`` [rows, FEATURES], probabilities of a delay, predicted and true delays in minutes."""

    when: np.ndarray
    features: np.ndarray
    scores: np.ndarray
    predictions: np.ndarray
    late: np.ndarray
    delay: np.ndarray

    def weeks(self) -> dict[str, np.ndarray]:
        """Row numbers of each week, by its Monday."""
        days = self.when.astype("datetime64[D]").astype(int)
        mondays = days - (days + 3) % 7
        return {str(np.datetime64(int(m), "D")): np.flatnonzero(mondays == m) for m in np.unique(mondays)}

    def frame(self, kind: str) -> pl.DataFrame:
        """For peers: time, features, prediction and label of the classifier or of the regressor."""
        columns = {"when": self.when} | {name: self.features[:, i] for i, name in enumerate(FEATURES)}
        if kind == "classifier":
            called = (self.scores >= THRESHOLD).astype(int)
            return pl.DataFrame(columns | {"score": self.scores, "called": called, "label": self.late})
        return pl.DataFrame(columns | {"prediction": self.predictions, "label": self.delay})


def parts() -> tuple[Part, Part]:
    """Reference and live rows, with the predictions of models that saw neither."""
    frame = _frame()
    train = frame.filter(pl.col("when") < _REFERENCE_FROM)
    inputs, delay = _inputs(train)
    kind: dict[str, Any] = {"n_estimators": 150, "num_leaves": 31, "n_jobs": 1, "random_state": 0, "verbose": -1}
    classifier = LGBMClassifier(**kind).fit(inputs, (delay > LATE_MINUTES).astype(int))
    regressor = LGBMRegressor(**kind).fit(inputs, delay)
    reference = frame.filter(pl.col("when").is_between(_REFERENCE_FROM, _LIVE_FROM, closed="left"))
    live = frame.filter(pl.col("when").is_between(_LIVE_FROM, _LIVE_TO, closed="left"))
    return _part(reference, classifier, regressor), _part(live, classifier, regressor)


def days(first: datetime, end: datetime) -> list[Frame]:
    """Requests for the flights of each day from ``first`` to before ``end``; no label is known then."""
    # The day of the week is constant within a day, so it would differ between any two days.
    numbers = [name for name in FEATURES if name not in (*CODED, "weekday")]
    rows = _frame().filter(pl.col("when").is_between(first, end, closed="left")).sort("when")
    by_day = rows.with_columns(pl.col("when").dt.date().alias("day")).partition_by("day", maintain_order=True)
    return [Frame(d.select(numbers).to_numpy(), d.select(pl.col(CODED).cast(pl.Int16)).to_numpy()) for d in by_day]


@cache
def _frame() -> pl.DataFrame:
    flights = flights_frame().filter(pl.col("arr_delay").is_not_null())
    known = weather_frame().select("origin", pl.col("published_at"), *WEATHER).sort("published_at")
    when = pl.col("scheduled_at")
    requests = flights.with_columns((when - pl.duration(hours=2)).alias("asked_at")).sort("asked_at")
    joined = requests.join_asof(known, left_on="asked_at", right_on="published_at", by="origin", check_sortedness=False)
    coded = [pl.col(name).cast(pl.Categorical).to_physical().cast(pl.Float64) for name in CODED]
    local = when.dt.convert_time_zone("America/New_York")
    numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in ("distance", *WEATHER)]
    times = [local.dt.hour().cast(pl.Float64).alias("hour"), local.dt.weekday().cast(pl.Float64).alias("weekday")]
    return joined.select(when.alias("when"), *coded, *numbers, *times, pl.col("arr_delay").cast(pl.Float64))


def _inputs(frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return frame.select(FEATURES).to_numpy(), frame.get_column("arr_delay").to_numpy()


def _part(frame: pl.DataFrame, classifier: LGBMClassifier, regressor: LGBMRegressor) -> Part:
    inputs, delay = _inputs(frame)
    when = frame.get_column("when").dt.replace_time_zone(None).to_numpy()
    scores, predictions = (np.asarray(m) for m in (classifier.predict_proba(inputs), regressor.predict(inputs)))
    return Part(when, inputs, scores[:, 1], predictions, (delay > LATE_MINUTES).astype(int), delay)
