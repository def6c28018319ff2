"""The generated histories of the benchmark of evidence have the truth that they claim, and show the effects."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from scipy import stats

from benchmarks.evidence import estimates, late_labels, leak, monitored_days, quiet_year, rebuild
from cluster.values import Task
from features.split import TEST, TRAIN, VALIDATION
from features.types import AS_OF, LABEL, LABEL_KNOWN_AT
from monitoring.drift_policy import DriftPolicy, LogAnalysisPolicy
from trainers import metrics


def test_best_auc_is_that_of_the_known_quantity():
    rng = np.random.default_rng(0)
    known = rng.normal(size=200_000)
    labels = (leak.KNOWN_WEIGHT * known + rng.normal(size=len(known)) > 0).astype(float)
    measured = metrics.prepare(Task(kind="binary", label="positive"), "auc", known, labels)(None)
    assert leak.best_auc() == pytest.approx(measured, abs=0.005)


def test_history_has_labels_that_are_known_after_91_days_and_shared_only_until_then():
    history = leak.history(0, customers=2_000).sort("customer", AS_OF)
    assert (history[LABEL_KNOWN_AT] - history[AS_OF]).unique().to_list() == [timedelta(days=91)]
    labels = history[LABEL].to_numpy().reshape(2_000, -1)
    near, far = (np.corrcoef(labels[:, 0], labels[:, weeks])[0, 1] for weeks in (1, leak.DELAY_WEEKS))
    assert near > 0.3
    assert abs(far) < 0.08
    assert history.select(pl.col("customer").n_unique()).item() == 2_000


def test_measure_of_training_rows_with_unknown_labels_exceeds_what_is_possible():
    by_date, purged, named = leak.measure(0, 400, print).values()
    assert by_date.gate.value - by_date.truth > 0.05
    assert abs(purged.gate.value - purged.truth) < 0.02
    assert purged.covered
    assert named.covered
    assert max(purged.truth, named.truth) <= leak.best_auc()


def test_named_split_of_the_history_leaves_rows_in_every_part():
    history = leak.history(0, customers=50)
    parts = history.select(leak.DECLARED.split_expr().alias("part")).group_by("part").len()
    assert VALIDATION not in parts["part"].to_list()
    named = history.select(leak.named_split(history).split_expr().alias("part")).group_by("part").len()
    assert {TRAIN, VALIDATION, TEST} <= set(named["part"].to_list())


def test_interval_of_the_budget_is_that_of_a_poisson_count():
    assert quiet_year.budget_interval(100, 365) == (pytest.approx(36_500 / 30), 1149.0, 1286.0)


def test_episode_starts_after_more_than_release_quiet_days():
    found = np.isin(np.arange(20), [3, 4, 8, 12, 13])
    assert monitored_days.episodes(found, 3).tolist() == [3, 8, 12]
    assert monitored_days.episodes(found, 4).tolist() == [3]


def _findings(models: int, days: int, change: monitored_days.Change) -> int:
    policy = DriftPolicy(false_alarms=1.0, log_analysis=LogAnalysisPolicy(segments=("segment",)))
    monitor, starts = monitored_days.Monitor(policy, floors=False), 0
    past_days = monitored_days.TRAIN_DAYS + monitored_days.HELD_OUT_DAYS
    for model in range(models):
        rng = np.random.default_rng([5, model])
        whole = monitored_days.simulate(rng, past_days + days, 0.0, change, past_days)
        past, live = whole.part(0, past_days), whole.part(past_days, past_days + days)
        aucs = rng.normal(0.55, 0.02, 20), rng.normal(0.55, 0.02, days)
        findings = monitor.findings(past, live, aucs)
        starts += sum(len(monitored_days.episodes(each, 3)) for found in findings.values() for each in found)
    return starts


@pytest.mark.long
def test_quiet_year_without_smallest_effects_keeps_the_budget():
    # A Poisson count with the budget's mean exceeds this once in 1,000 times.
    assert _findings(4, 365, monitored_days.Change()) <= stats.poisson.ppf(0.999, 4 * 365 / 30)


def test_shifted_days_are_found_where_quiet_ones_are_not():
    assert _findings(1, 10, monitored_days.Change(inputs=1.0)) >= 2


@pytest.mark.parametrize("kind", ["prior", "concept"])
def test_days_of_a_stream_change_as_their_kind_says(kind):
    task = estimates.TASKS[0]
    quiet, changed = (
        estimates.day(np.random.default_rng(0), task, 0, 20_000, each, size)
        for each, size in (("none", 0.0), (kind, 0.25))
    )
    assert changed.labels.mean() > quiet.labels.mean() + 0.03
    moved = np.abs(np.mean(changed.frame["a"].to_numpy()) - np.mean(quiet.frame["a"].to_numpy()))
    assert (moved > 0.1) is np.bool_(kind == "prior")


def test_frames_rebuilt_as_of_earlier_days_have_the_same_bits():
    outcome = rebuild.measure(rebuild.FEW_DAYS, 1, print)
    assert outcome.corrections > 500
    assert outcome.rebuilt == outcome.first
    # No label is known on the first day or two.
    assert len(set(outcome.first)) >= rebuild.FEW_DAYS - 1
    assert outcome.same_of_newest < rebuild.FEW_DAYS


@pytest.mark.long
@pytest.mark.parametrize(("harm", "end"), [(late_labels.HARM, "rollback"), (0.0, "confirm")])
def test_labels_that_come_90_days_late_decide_within_ten_days(harm, end):
    outcome = late_labels.replay_history(100, harm)
    assert outcome.journal == ("start", "advance", "advance", "advance", "promote", end)
    assert outcome.decided_after_days <= late_labels.MOST_DAYS
