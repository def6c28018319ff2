"""The summary at the end of a run; all figures were measured by that run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from features.sources.ingestion import IngestionResult
from rayloop.context import ProjectContext
from rayloop.simulation.load_client import example_curl
from rayloop.simulation.scenario import Phase, ScenarioResult, describe_decision
from rayloop.stages.baselines import BaselineResults
from rayloop.stages.candidate import Candidate
from rayloop.stages.tune import PAGE
from trainers import metrics as task_metrics

_WIDTH = 110


def print_summary(
    context: ProjectContext,
    ingestion_results: Mapping[str, IngestionResult],
    first: Candidate,
    baselines: BaselineResults,
    result: ScenarioResult | None,
    page: str,
) -> None:
    """Print data, quality, rollouts, drift, time, and where to look next."""
    console = Console(file=sys.stdout, width=_WIDTH, highlight=False)
    console.rule(f"{context.project.name}: summary", align="left")
    console.print(_data(ingestion_results))
    console.print(_quality(context, first, baselines))
    if result is not None:
        for phase in result.phases:
            _print_phase(console, phase)
        rows = ", ".join(f"{count:,} {name}" for name, count in result.log_rows.items())
        console.print(
            f"Logged: {rows}. The alarm's retrain job {result.retrain_job} took {result.retrain_seconds:.0f} s.\n"
        )
    console.print(_time(context))
    _next(console, context, page)


def _data(ingestion_results: Mapping[str, IngestionResult]) -> Table:
    table = _table("Data", "source", "rows", "in quarantine", "why")
    for name, result in ingestion_results.items():
        why = "; ".join(f"{count} x {reason}" for reason, count in result.quarantine_reasons.items())
        table.add_row(name, f"{result.snapshot.rows:,}", f"{result.quarantined_rows:,}", why or "-")
    return table


def _quality(context: ProjectContext, first: Candidate, baselines: BaselineResults) -> Table:
    metrics = list(first.quality)
    table = _table(
        f"Quality on the held-out rows ({task_metrics.primary_metric(context.project.task).name} decides)",
        "model",
        *metrics,
    )
    metrics_by_model = {f"this model ({first.version})": first.quality} | {
        name: b["metrics"] for name, b in baselines.items()
    }
    for name, values in metrics_by_model.items():
        table.add_row(name, *(f"{values[m]:.4f}" if m in values else "-" for m in metrics))
    return table


def _print_phase(console: Console, phase: Phase) -> None:
    stats = phase.load_stats
    latency = f"p50 {stats.percentile_ms(50):.1f} ms, p99 {stats.percentile_ms(99):.1f} ms"
    console.print(f"[bold]{phase.name}[/bold]: {stats.requests:,} requests, {stats.failed} failed, {latency}")
    for decision in phase.decisions:
        if decision.action != "hold":
            console.print(f"  {describe_decision(decision)}", soft_wrap=True)
    for alarm in phase.alarms:
        console.print(f"  [bold]alarm[/bold] {alarm.reason}", soft_wrap=True)
    if not phase.alarms and not phase.decisions:
        console.print("  no alarm")
    console.print()


def _time(context: ProjectContext) -> Table:
    total = context.progress.elapsed_s
    table = _table(f"Time by stage ({total:.0f} s)", "stage", "seconds", "share")
    for name, seconds in sorted(context.progress.seconds.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{seconds:.1f}", f"{seconds / total:.0%}")
    return table


def _next(console: Console, context: ProjectContext, page: str) -> None:
    settings, name = context.settings, context.project.name
    ray = Path(sys.executable).with_name("ray")
    console.rule("Where to look next", align="left")
    console.print(f"Report           {page}", soft_wrap=True)
    if context.read(PAGE) is not None:
        console.print(f"Search           {context.uri_of(PAGE)}", soft_wrap=True)
    console.print(f"MLflow           {settings.mlflow_server}/#/models/{name}", soft_wrap=True)
    console.print(
        f"Ray dashboard    {settings.dashboard}   (asks for the token that `{ray} get-auth-token` prints)",
        soft_wrap=True,
    )
    console.print(f"Endpoint         {settings.endpoint}/v2/models/{name}")
    console.print(_curl(context), soft_wrap=True, markup=False)
    console.print("Stop everything  make down   (or: rayloop down)")


def _curl(context: ProjectContext) -> str:
    project, source = context.project, context.project.examples.source
    names = [c.name for c in project.features.request]
    newest = pl.DataFrame(context.tables.read(f"{project.name}.{source}", columns=names)).drop_nulls().tail(1)
    settings = context.settings
    return example_curl(project.features, settings.endpoint, project.name, newest, access=settings.access)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 or column == "why" else "right")
    return table
