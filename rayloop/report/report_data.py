"""Collect what happened to a model from the stores that own it, and write the report."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import ray
from rich.console import Console

from cluster import names
from cluster.actors import find_actor, get_result
from cluster.settings import Settings
from cluster.values import Decision, ModelVersion
from deployments.rollout.journal import RolloutJournal
from deployments.rollout.state_machine import format_due, format_versions
from features.manifest import Manifest
from features.split import SPLIT, TEST, TRAIN
from features.types import AS_OF, LABEL
from monitoring.analysis.analysis_scheduler import SchedulerState
from monitoring.detection.alarm_actions import AlarmEntry
from monitoring.export.cost import UsageTotals
from monitoring.report import schema
from monitoring.report.feature_pages import render_catalog, render_skew
from monitoring.report.page import render_report
from monitoring.retraining.retrain_scheduler import ScheduleStatus
from rayloop.context import ProjectContext
from rayloop.label_delay import describe_path, find_label_delay, rollout_policy
from rayloop.labeling.annotation_store import measure_labelers
from rayloop.report import catalog_data
from rayloop.retraining.retrain_gains import RETRAINED_BECAUSE
from rayloop.stages import skew_check
from rayloop.stages.alarm_jobs import describe_job
from rayloop.stages.baselines import BaselineResults
from trainers import metrics as task_metrics
from trainers.scoring import onnx_scorer
from trainers.scoring.python_scorer import score_bundle

# Months with fewer rows, as at the edges of the data, are left out.
MIN_ROWS = 200
_WIDTH = 110


Months = dict[str, dict[str, float]]


def write_report(context: ProjectContext, baselines: BaselineResults) -> str:
    """Write report.html into the project's folder; returns its URI."""
    return context.write("report.html", render_report(build_report(context, baselines)))


def write_catalog(context: ProjectContext) -> str:
    """Print the catalog of the project's features and write features.html; returns its URI."""
    catalog = catalog_data.build_catalog(context, datetime.now(UTC))
    console = Console(file=sys.stdout, width=_WIDTH, highlight=False)
    for table in catalog_data.catalog_tables(catalog):
        console.print(table, "")
    return context.write("features.html", render_catalog(catalog))


def write_skew(context: ProjectContext) -> str:
    """Replay what was served, print the mismatches and write skew.html; returns its URI."""
    replay = skew_check.replay(context)
    for line in skew_check.describe_replay(replay):
        context.progress(line)
    html = render_skew(context.project.name, time.time(), replay.rows, replay.features, replay.left_out)
    return context.write("skew.html", html)


def build_report(context: ProjectContext, baselines: BaselineResults) -> schema.MonitoringReport:
    """Collect everything on the page."""
    name = context.project.name
    versions = context.registry.versions(name)
    held_out = _held_out(context, versions)
    live = _live_quality(context)
    monitor = find_actor(names.monitor_actor(name))
    schedule: ScheduleStatus | None = get_result(monitor.schedule_status.remote()) if monitor else None
    analyses: SchedulerState = get_result(monitor.analyses.remote()) if monitor else SchedulerState()
    return schema.MonitoringReport(
        model=name,
        made_at=time.time(),
        facts=_facts(context, versions, held_out),
        quality=(_quality(context, held_out, baselines, live),) if held_out else (),
        calibration=_calibration(context, held_out) if held_out else (),
        drift=tuple(get_result(monitor.history.remote())) if monitor else (),
        actions=_actions(context.settings, monitor) if monitor else (),
        performance=analyses.quality,
        analyses=analyses.analyses,
        cost=_cost(monitor) if monitor else None,
        rollouts=_rollouts(context),
        versions=tuple(_version(context, v) for v in versions),
        retraining=schedule.journal if schedule else (),
        gains=schedule.gains if schedule else (),
        timings=context.progress.seconds,
    )


def _held_out(context: ProjectContext, versions: list[ModelVersion]) -> _HeldOut | None:
    """Score the first version whose training frame still exists: an erasure may have expired it."""
    for version in versions:
        if context.tables.has_snapshot(Manifest.load(context.registry.fetch(version)).snapshot):
            return _HeldOut(context, version)
    return None


class _HeldOut:
    """A version's scores on the rows that it was not trained on, and its metrics by month."""

    def __init__(self, context: ProjectContext, version: ModelVersion) -> None:
        folder = context.registry.fetch(version)
        snapshot = Manifest.load(folder).snapshot
        rows = context.tables.read(snapshot.table, snapshot.id)
        self.version = version
        self.rows = rows.filter(pa.compute.not_equal(rows[SPLIT], TRAIN))
        self.labels = self.rows[LABEL].to_numpy()
        self.scores = score_bundle(folder, self.rows)
        self.months: Months = onnx_scorer.metrics_by_time(
            context.project.task, self.scores, self.labels, self.rows[AS_OF]
        )
        self.test = np.asarray(pa.compute.equal(self.rows[SPLIT], TEST))


def _facts(
    context: ProjectContext, versions: list[ModelVersion], held_out: _HeldOut | None
) -> tuple[tuple[str, str], ...]:
    champion = context.champion
    facts = [("champion", f"v{champion.version}" if champion else "none"), ("versions", str(len(versions)))]
    if held_out is not None:
        metric = task_metrics.primary_metric(context.project.task).name
        scores, labels = held_out.scores[held_out.test], held_out.labels[held_out.test]
        value = task_metrics.evaluate(context.project.task, scores, labels)[metric]
        facts.append((f"{metric} of v{held_out.version.version} on held-out rows", f"{value:.4f}"))
    facts += _label_facts(context)
    queued = context.tables.latest(names.label_candidates_table(context.project.name))
    if queued is not None:
        facts.append(("rows worth labeling", f"{queued.rows:,}"))
    if context.tables.exists(names.annotations_table(context.project.name)):
        agreement = measure_labelers(context.tables, context.project.name, context.project.task)
        facts.append(("labels by hand", str(agreement)))
    return tuple(facts)


def _label_facts(context: ProjectContext) -> list[tuple[str, str]]:
    """Which path rollouts take, and when labels may first decide on the newest promotion."""
    delay = find_label_delay(context)
    facts = [("rollouts are decided by", describe_path(rollout_policy(context.project, delay), delay))]
    state = RolloutJournal(context.project.name, context.tables).last_state()
    if state is not None and (state.active or state.on_probation) and state.labels_due is not None:
        facts.append((f"labels on {format_versions(state.challengers)}", format_due(state)))
    return facts


def _quality(
    context: ProjectContext, held_out: _HeldOut, baselines: BaselineResults, live: Months
) -> schema.MetricHistory:
    metric = task_metrics.primary_metric(context.project.task)
    months_by_name = {f"v{held_out.version.version}, held out": held_out.months, "as answered live": live}
    months_by_name |= {name: result["months"] for name, result in baselines.items()}
    enough = {
        period for months in months_by_name.values() for period, values in months.items() if values["rows"] >= MIN_ROWS
    }
    periods = tuple(sorted(enough))
    series = {
        name: tuple(_figure(months, period, metric.name) for period in periods)
        for name, months in months_by_name.items()
        if months
    }
    better: Literal["higher", "lower"] = "higher" if metric.direction == "max" else "lower"
    return schema.MetricHistory(metric=metric.name, better=better, periods=periods, series=series)


def _figure(months: Months, period: str, metric: str) -> float | None:
    value = months.get(period, {}).get(metric)
    return value if value is not None and np.isfinite(value) else None


def _calibration(context: ProjectContext, held_out: _HeldOut) -> tuple[schema.CalibrationCurve, ...]:
    if context.project.task.kind == "regression":
        return ()
    here = held_out.test
    bins = onnx_scorer.calibration_curve(context.project.task, held_out.scores[here], held_out.labels[here])
    return (
        schema.CalibrationCurve(
            name=f"v{held_out.version.version}",
            predicted=tuple(b.score for b in bins),
            observed=tuple(b.share for b in bins),
            counts=tuple(b.rows for b in bins),
        ),
    )


def _live_quality(context: ProjectContext) -> Months:
    """Metrics of what was answered, by month of the features' time, for the rows whose labels have come."""
    name, task = context.project.name, context.project.task
    if not (context.tables.exists(names.predictions_table(name)) and context.tables.exists(names.labels_table(name))):
        return {}
    output = "probabilities" if task.kind == "multiclass" else "score"
    answers = pl.DataFrame(context.tables.read(names.predictions_table(name), columns=["id", output, AS_OF]))
    answers = answers.drop_nulls(output)
    labels = pl.DataFrame(context.tables.read(names.labels_table(name), columns=["id", "label", "received"]))
    both = answers.unique("id", keep="last").join(labels.sort("received").unique("id", keep="last"), on="id")
    if not both.height:
        return {}
    scores = np.asarray(both.get_column(output).to_list(), np.float64)
    truth, times = both.get_column("label").to_numpy(), both.get_column(AS_OF).to_arrow()
    return onnx_scorer.metrics_by_time(task, scores, truth, times)


def _rollouts(context: ProjectContext) -> tuple[schema.RolloutHistory, ...]:
    by_rollout: dict[str, list[Decision]] = {}
    for decision in RolloutJournal(context.project.name, context.tables).decisions():
        by_rollout.setdefault(decision.rollout, []).append(decision)
    return tuple(
        schema.RolloutHistory(
            name=f"{format_versions(entries[0].challengers)} against v{entries[0].champion}", decisions=tuple(entries)
        )
        for entries in by_rollout.values()
    )


def _actions(settings: Settings, monitor: ray.actor.ActorHandle[Any]) -> tuple[schema.AlarmOutcome, ...]:
    entries = get_result(monitor.journal.remote())
    return tuple(schema.AlarmOutcome(at=e.at, alarm=e.alarm, outcome=_action_outcome(settings, e)) for e in entries)


def _action_outcome(settings: Settings, entry: AlarmEntry) -> str:
    done = describe_job(settings, entry.action, entry.outcome, entry.failed)
    notifications = [f"{url} {outcome or 'pending'}" for url, outcome in entry.notices.items()]
    return "; ".join([f"{entry.action}: {done}", *notifications])


def _cost(monitor: ray.actor.ActorHandle[Any]) -> schema.ModelCost | None:
    status = get_result(monitor.status.remote())
    used = UsageTotals.model_validate(status["used"])
    if not (used.reserved_cpu_s or used.cpu_s):
        return None
    return schema.ModelCost(total=status["cost"], usage=used, tags=status["tags"])


def _version(context: ProjectContext, version: ModelVersion) -> schema.VersionRow:
    champion = context.champion
    metrics = json.loads(version.tags.get("rayloop.summary", "{}"))
    role = "champion" if champion and champion.version == version.version else ""
    return schema.VersionRow(
        version=version.version,
        role=role,
        trained_on=version.tags.get("rayloop.snapshot", ""),
        because=version.tags.get(RETRAINED_BECAUSE, ""),
        metrics=metrics,
    )
