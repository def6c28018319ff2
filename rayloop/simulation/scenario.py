"""A simulation of the whole loop: history replayed as live traffic, in four phases.

Quiet traffic (no alarm), a sound challenger (promoted), a sabotaged one (aborted), and drift (an alarm, a retraining by
the Ray job that the monitor submits, the rollout of its challenger).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import polars as pl

from cluster import jobs
from cluster.actors import get_actor, get_result
from cluster.errors import RayloopError, RolloutError
from cluster.names import monitor_actor
from cluster.values import Alarm, Decision, Snapshot
from deployments.rollout.rollout_status import RolloutStatus
from features.derived_columns import request_features
from features.offline.example_rows import label_values
from features.outcomes import LabelWithin
from features.sources.stored_rows import read_newest
from features.types import AS_OF, ID, INSTANT, LABEL, LABEL_KNOWN_AT
from monitoring.detection.alarm_actions import AlarmEntry
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from rayloop.project import Period, Simulation
from rayloop.simulation.api_key import temporary_key
from rayloop.simulation.load_client import LoadClient, LoadStats
from rayloop.simulation.traffic_replay import TrafficReplay
from rayloop.stages import deploy, feature_data
from rayloop.stages.candidate import Recipe
from rayloop.stages.train_version import build_version

_POLL_S = 0.1
_PROCESSED_S = 10.0
_SETTLE_S = 20.0
_SABOTAGE_EPOCHS = 1

_T = TypeVar("_T")


@dataclass
class Phase:
    """A phase and its outcome."""

    name: str
    load_stats: LoadStats
    decisions: tuple[Decision, ...] = ()
    alarms: tuple[Alarm, ...] = ()


@dataclass
class ScenarioResult:
    """The outcome of a simulation."""

    phases: list[Phase] = field(default_factory=list)

    retrain_job: str = ""
    retrain_seconds: float = 0.0
    log_rows: Mapping[str, int] = field(default_factory=dict)


def run_scenario(
    context: ProjectContext, plan: Simulation, snapshots: Mapping[str, Snapshot], recipe: Recipe
) -> ScenarioResult:
    """Run all phases against the served model.

    Args:
        context: The project.
        plan: The project's simulation.
        snapshots: Snapshot of each source's table.
        recipe: What the first version was trained with; the challengers are trained with the same.

    Raises:
        RolloutError: A phase does not end as it must.
    """
    result = ScenarioResult()
    with temporary_key(context.settings, context.project.name, "simulation") as headers:
        with context.progress.stage("replay"):
            runner = ScenarioRunner(context, plan, snapshots, headers)
            runner.replay.push(plan.quiet.start)
        result.phases.append(_quiet(runner, plan.quiet))
        frame, sound = _sound_challenger(context, snapshots, plan, recipe)
        result.phases.append(_rollout(runner, "sound challenger", sound, plan.sound, "promoted"))
        bad = _train_bad_challenger(context, frame, recipe)
        result.phases.append(_rollout(runner, "sabotaged challenger", bad, plan.sabotage, "aborted"))
        _drift(runner, plan.drift, result)
        result.log_rows = deploy.flush_log(context)

    return result


class ScenarioRunner:
    """The replay, and the actors that the phases observe."""

    def __init__(
        self, context: ProjectContext, plan: Simulation, snapshots: Mapping[str, Snapshot], headers: Mapping[str, str]
    ) -> None:
        self.context = context
        project = context.project
        sources = {name: read_newest(context.tables, s) for name, s in snapshots.items()}
        rows = _traffic_rows(context, sources[project.examples.source])
        client = LoadClient(context.settings.endpoint, project.name, plan.connections, headers)
        self.replay = TrafficReplay(project.task, project.features, rows, sources, context.store, client, plan.step)
        self.monitor = get_actor(monitor_actor(project.name))
        self._rows_before = self._monitored_rows()

    def play(self, period: Period, enough: Callable[[], bool], what: str) -> LoadStats:
        """Replay a period as live traffic and report each tenth of it.

        Args:
            period: What to replay.
            enough: Called after each step; True ends the replay. It waits until the monitor or the rollout has
                processed the step, so that the outcome depends on the data and not on the speed of this machine.
            what: Name of the traffic, for the console.
        """
        report_progress = self.context.progress
        start = max(period.start, self.replay.now or period.start)
        self.replay.push(start)
        reported = [0, 0]

        def tick(now: datetime, load_stats: LoadStats) -> None:
            for failure in load_stats.failures[reported[1] :]:
                report_progress(f"a request failed: {failure}")
            reported[1] = len(load_stats.failures)
            tenth = int(10 * (now - start) / (period.end - start))
            if tenth > reported[0]:
                reported[0] = tenth
                rate = load_stats.requests / max(load_stats.seconds, 1e-9)
                report_progress(
                    f"{what} at {now:%d %b %H:%M}: {load_stats.requests:,} requests, {load_stats.failed} failed,"
                    f" {rate:,.0f} req/s"
                )

        return self.replay.run(start, period.end, enough, tick)

    def wait_for_monitor(self) -> None:
        """Wait until the monitor has processed every answer so far."""
        answered = self._rows_before + self.replay.answered
        self.wait_until(self._monitored_rows, lambda rows: rows >= answered, "the monitor")

    def wait_until(self, poll: Callable[[], _T], condition: Callable[[_T], bool], waiting_for: str) -> _T:
        """Poll until the condition holds. At the deadline, report and continue: the rest was lost with a process."""
        deadline = time.monotonic() + _PROCESSED_S
        while not condition(answer := poll()):
            if time.monotonic() > deadline:
                self.context.progress(
                    f"{waiting_for} has not processed every answer within {_PROCESSED_S:.0f} s; the replay continues"
                )
                break
            time.sleep(_POLL_S)
        return answer

    def _monitored_rows(self) -> int:
        return int(get_result(self.monitor.status.remote())["rows_since_start"])

    def alarms(self) -> list[Alarm]:
        return [entry.alarm for entry in self.drift_journal()]

    def drift_journal(self) -> list[AlarmEntry]:
        """Entries about drift. Findings of log analyses depend on when labels arrive, and do not count here."""
        return [entry for entry in get_result(self.monitor.journal.remote()) if entry.alarm.kind == "drift"]


def _traffic_rows(context: ProjectContext, rows: pl.DataFrame) -> pl.DataFrame:
    """Return every row of the examples' source as a request, with its label when it has one."""
    project = context.project
    examples = project.examples
    assert not isinstance(examples.label, LabelWithin), "a project with such a label has no simulation"
    dtype = rows.lazy().select(examples.label.alias(LABEL)).collect_schema()[LABEL]
    dated = pl.col(examples.time_column).cast(INSTANT).alias(AS_OF)
    request = request_features(project.features, rows if project.features.as_of else rows.with_columns(dated))
    head = rows.select(
        pl.col(examples.id).cast(pl.String).alias(ID),
        label_values(project.task, examples.label, dtype).alias(LABEL),
        pl.col(examples.label_known_at).cast(INSTANT).alias(LABEL_KNOWN_AT),
    )
    columns = request.select(AS_OF, *(c.name for c in project.features.request if c.name != ID))
    return pl.concat([head, columns], how="horizontal")


def _quiet(runner: ScenarioRunner, period: Period) -> Phase:
    with runner.context.progress.stage("quiet"):

        def enough() -> bool:
            runner.wait_for_monitor()
            return False

        load_stats = runner.play(period, enough, "quiet traffic")
        alarms = tuple(runner.alarms())
        runner.context.progress(f"{len(alarms)} false alarms on traffic that resembles the training data")
        return Phase("quiet traffic", load_stats, alarms=alarms)


def _sound_challenger(
    context: ProjectContext, snapshots: Mapping[str, Snapshot], plan: Simulation, recipe: Recipe
) -> tuple[FrameView, str]:
    """Train on all that was known when the rollout begins."""
    now = plan.sound.start
    frame = feature_data.retrain_frame(context, snapshots, now)
    with context.progress.stage("train"):
        candidate = build_version(context, frame, recipe, f"all data until {now:%Y-%m-%d}")
    return frame, candidate.version.version


def _train_bad_challenger(context: ProjectContext, frame: FrameView, recipe: Recipe) -> str:
    config = recipe.config.model_copy(update={"epochs": _SABOTAGE_EPOCHS, "workers": 1})
    with context.progress.stage("train"):
        shuffled_recipe = Recipe(recipe.spec, config, shuffle_labels=True)
        why = "simulation: the rollout, not the gate, must stop it"
        return build_version(context, frame, shuffled_recipe, "shuffled labels", override_gate=why).version.version


def _rollout(runner: ScenarioRunner, name: str, version: str, period: Period, expected: str) -> Phase:
    """Roll a version out under replayed traffic, until the rollout has ended and the period is over."""
    context = runner.context
    with context.progress.stage("rollout"):
        deploy.start_rollout(context, [context.registry.version(context.project.name, version)])
        return _finish_rollout(runner, name, period, expected)


def _finish_rollout(runner: ScenarioRunner, name: str, period: Period, expected: str) -> Phase:
    load_stats = _under_traffic(runner, name, period)
    status = _wait_for_end(runner, name, period)
    _expect(status, expected, name)
    return Phase(name, load_stats, decisions=status.decisions)


def _under_traffic(runner: ScenarioRunner, name: str, period: Period) -> LoadStats:
    reported, before = [0], runner.replay.answered

    def ended() -> bool:
        sent = runner.replay.answered - before
        status = runner.wait_until(
            lambda: deploy.rollout_status(runner.context),
            lambda status: status.finished or status.requests >= sent,
            "the rollout's evidence",
        )
        for decision in status.decisions[reported[0] :]:
            runner.context.progress(describe_decision(decision))
        reported[0] = len(status.decisions)
        return status.finished

    return runner.play(period, ended, name)


def _wait_for_end(runner: ScenarioRunner, name: str, period: Period) -> RolloutStatus:
    try:
        return deploy.wait_for_rollout(runner.context, _SETTLE_S)
    except RolloutError as error:
        why = f"the replay reached {period.end:%d %B}"
        deploy.abort_rollout(runner.context, why)
        raise RolloutError("rollout.simulation_undecided", phase=name, reason=error.what, why=why) from error


def _expect(status: RolloutStatus, expected: str, name: str) -> None:
    state = status.state
    if state is None or state.status != expected:
        outcome = f"{state.status}: {state.reason}" if state else "not started"
        raise RolloutError("rollout.simulation_unexpected_outcome", phase=name, expected=expected, outcome=outcome)


def describe_decision(decision: Decision) -> str:
    """Describe a decision; "start" and "advance" with the share that follows."""
    share = f" at {decision.share:.0%}" if decision.action in ("start", "advance") else ""
    return f"{decision.action}{share}: {decision.reason}"


def _drift(runner: ScenarioRunner, period: Period, result: ScenarioResult) -> None:
    """Replay until the alarm; let its retrain job finish; replay on until its challenger's rollout has ended."""
    context, known = runner.context, len(runner.alarms())

    def has_alarm() -> bool:
        runner.wait_for_monitor()
        return len(runner.alarms()) > known

    with context.progress.stage("drift"):
        load_stats = runner.play(period, has_alarm, "drifting traffic")
        alarms = tuple(runner.alarms()[known:])
        if not alarms:
            raise RolloutError("rollout.simulation_no_alarm")
        context.progress(f"ALARM {alarms[0].reason}")
        result.phases.append(Phase("drift", load_stats, alarms=alarms))
    with context.progress.stage("retrain"):
        began = time.monotonic()
        result.retrain_job = _wait_for_retrain(runner)
        result.retrain_seconds = time.monotonic() - began
    with context.progress.stage("rollout"):
        result.phases.append(_finish_rollout(runner, "retrained challenger", period, "promoted"))


def _wait_for_retrain(runner: ScenarioRunner) -> str:
    """Wait for the retrain job that the alarm submitted, and pass on its output."""
    entry = runner.drift_journal()[-1]
    settings, report_progress = runner.context.settings, runner.context.progress
    job = entry.outcome
    if entry.failed or entry.action != "retrain":
        raise RayloopError("rayloop.simulation_without_retrain_job", action=entry.action, outcome=entry.outcome)
    report_progress(f"the monitor submitted job {job}")

    def pass_on(text: str) -> None:
        for line in text.splitlines():
            if line.strip():
                report_progress(f"| {line}")

    if not jobs.follow(settings, job, pass_on):
        raise RayloopError("rayloop.simulation_retrain_failed", job=job, reason=jobs.outcome(settings, job)[1])
    return job
