"""The leak of a late label: the gate's figure with and without training rows whose label was not yet known.

Three splits of the same rows, with the same test rows: by ``as_of`` alone; the same dates, purged; and the dates that
rayloop names when it refuses the second for want of validation rows, purged too.

Customers have a row a week. The label, known 91 days after the row, is whether a known quantity of the row plus what
happens to its customer in these 91 days is positive. What happens is independent noise from week to week, so no model
can know it; but two rows of a customer less than 91 days apart share a part of it. A training row that is so close to
the test rows that its label was not known before them carries their answers to a model that tells customers apart.

The truth is known: the best possible AUC in closed form, and each model's own from fresh rows of the same customers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.results import Row, Target, row
from cluster.values import Task
from features.definitions import Column
from features.encoder import Encoder
from features.offline.split_dates import RowTimes, working_dates
from features.split import TEST, TRAIN, TimeSplit
from features.types import AS_OF, INSTANT, LABEL, LABEL_KNOWN_AT
from trainers import metrics
from trainers.evaluation.bootstrap import Interval, confidence_intervals
from trainers.evaluation.lightgbm_baseline import PARAMETERS, fit_baseline

SEEDS, FEW_SEEDS = 12, 2
CUSTOMERS, FRESH_ROWS = 2_000, 50_000
WEEK, DELAY_WEEKS = timedelta(days=7), 13
START = datetime(2026, 1, 5, tzinfo=UTC)
WEEKS = 43
"""Weeks of rows, the last of them for test."""
DECLARED = TimeSplit(
    start=START,
    validate_from=START + (WEEKS - 3) * WEEK,
    test_from=START + (WEEKS - 1) * WEEK,
    end=START + (WEEKS + DELAY_WEEKS) * WEEK,
)
KNOWN_WEIGHT = 0.6
"""Standard deviation of the known quantity; that of the noise is 1."""
TASK = Task(kind="binary", label="positive")
TREES = 100
WORK = "a label known after 91 days, AUC at the gate"
BY_DATE, PURGED, NAMED = "split by as_of alone", "the same dates, purged", "the dates that the refusal names"
_COLUMNS = (Column(name="known", kind="number"), Column(name="customer", kind="category"))
_MIN_CATEGORY_ROWS = 1
_ALPHA, _RESAMPLES = 0.05, 200


class Figures(NamedTuple):
    """The gate's figure of a model, and the true one."""

    gate: Interval
    truth: float

    @property
    def covered(self) -> bool:
        return self.gate.low <= self.truth <= self.gate.high


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Compare the gate's figure with the truth for each split."""
    figures = [measure(seed, CUSTOMERS, progress) for seed in range(FEW_SEEDS if small else SEEDS)]
    small_error = Target(of="value", sign="≤", limit=0.01)
    for name, target in ((BY_DATE, None), (PURGED, small_error), (NAMED, small_error)):
        yield _row(name, [one[name] for one in figures], target)


def best_auc() -> float:
    """AUC of the known quantity, which no model exceeds on rows whose noise it cannot know.

    P(x1 > x0 | u1 > 0, u0 < 0) for u = x + noise: the orthant probability of three normal variables (Sheppard 1898),
    of which x1 - x0 correlates by rho / sqrt(2) with u1 and -u0, and those not at all.
    """
    rho = KNOWN_WEIGHT / math.hypot(KNOWN_WEIGHT, 1)
    return 0.5 + 2 / math.pi * math.asin(rho / math.sqrt(2))


def history(seed: int, customers: int) -> pl.DataFrame:
    """Rows of every week until the end of the test, with their labels and the times at which these became known."""
    rng = np.random.default_rng(seed)
    weekly = rng.normal(size=(customers, WEEKS + DELAY_WEEKS))
    total = np.cumsum(np.pad(weekly, ((0, 0), (1, 0))), axis=1)
    customer, week = np.repeat(np.arange(customers), WEEKS), np.tile(np.arange(WEEKS), customers)
    noise = (total[customer, week + DELAY_WEEKS] - total[customer, week]) / math.sqrt(DELAY_WEEKS)
    as_of = pl.lit(START) + pl.col("week") * pl.lit(WEEK)
    times = {AS_OF: as_of.cast(INSTANT), LABEL_KNOWN_AT: (as_of + DELAY_WEEKS * WEEK).cast(INSTANT)}
    return _labeled(rng, customer, noise).with_columns(week=pl.Series(week)).with_columns(**times)


def _labeled(rng: np.random.Generator, customer: np.ndarray, noise: np.ndarray) -> pl.DataFrame:
    known = rng.normal(size=len(customer))
    columns = {"known": known, "customer": customer, LABEL: (KNOWN_WEIGHT * known + noise > 0).astype(np.float64)}
    return pl.DataFrame(columns).with_columns(pl.col("customer").cast(pl.String))


def measure(seed: int, customers: int, progress: Callable[[str], None]) -> dict[str, Figures]:
    """Return the figures of each split."""
    rows, rng = history(seed, customers), np.random.default_rng(1_000 + seed)
    fresh = _labeled(rng, rng.integers(customers, size=FRESH_ROWS), rng.normal(size=FRESH_ROWS))
    test = rows.filter(DECLARED.split_expr() == TEST)
    named = named_split(rows).split_expr()
    parts = {BY_DATE: DECLARED.part_expr(), PURGED: DECLARED.split_expr(), NAMED: named}
    figures = {name: _figures(rows.filter(part == TRAIN), test, fresh, seed) for name, part in parts.items()}
    progress(f"seed {seed}: " + "; ".join(f"{n}: {f.gate.value:.4f}, true {f.truth:.4f}" for n, f in figures.items()))
    return figures


def named_split(rows: pl.DataFrame) -> TimeSplit:
    """Return the split of the dates that the refusal of DECLARED names."""
    as_of, known_at = (rows[column].dt.epoch("us").to_numpy() for column in (AS_OF, LABEL_KNOWN_AT))
    dates = working_dates(DECLARED, RowTimes(as_of, known_at))
    if dates is None:
        raise ValueError("no dates work")
    return DECLARED.model_copy(update={"validate_from": dates.validate_from, "test_from": dates.test_from})


def _figures(train: pl.DataFrame, test: pl.DataFrame, fresh: pl.DataFrame, seed: int) -> Figures:
    """Fit LightGBM on ``train``; measure it as the gate does on ``test``, and in truth on ``fresh``."""
    tables = [_table(part) for part in (train, test, fresh)]
    encoder = Encoder.fit(_COLUMNS, tables[0], _MIN_CATEGORY_ROWS)
    both = pa.concat_tables(tables[1:])
    scores = fit_baseline(TASK, encoder, tables[0], parameters={**PARAMETERS, "rounds": TREES}).score(both)
    labels = both[LABEL].to_numpy()
    held_out = confidence_intervals(
        TASK, scores[: len(test)], labels[: len(test)], alpha=_ALPHA, resamples=_RESAMPLES, seed=seed
    )
    truth = metrics.prepare(TASK, "auc", scores[len(test) :], labels[len(test) :])(None)
    return Figures(held_out["auc"], truth)


def _table(rows: pl.DataFrame) -> pa.Table:
    return rows.select("known", "customer", LABEL).to_arrow()


def _row(name: str, figures: Sequence[Figures], target: Target | None) -> Row:
    gate, truth = np.mean([(one.gate.value, one.truth) for one in figures], axis=0).tolist()
    covered = sum(one.covered for one in figures)
    note = (
        f"gate {gate:.4f}, true {truth:.4f}, best possible {best_auc():.4f}; the gate's 95 % interval has the true "
        f"figure in {covered} of {len(figures)} seeds"
    )
    return row(f"{WORK}: {name}", "gate's AUC minus the true one, mean", gate - truth, target=target, note=note)
