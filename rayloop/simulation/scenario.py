"""The rehearsal: history replayed as live traffic, so that one sees the loop turn.

Four phases: quiet traffic (no alarm), a sound challenger (promoted), a sabotaged one (aborted), drift (alarm, retrain by a
Ray job that the monitor submits, rollout of its challenger). What happened is measured, and handed on as a value.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import polars as pl
import ray

from cluster import jobs
from cluster.actors import get_result
from cluster.errors import RayloopError, RolloutError
from cluster.names import monitor_actor
from cluster.values import Alarm, Decision, Snapshot
from deployments.rollout.controller import RolloutStatus
from features.offline.training_frame import ID, LABEL, LABEL_KNOWN_AT, label_values
from features.online.feature_reader import request_features
from features.types import AS_OF, INSTANT
from monitoring.detection.action_limits import Entry
from monitoring.detection.detector import WindowResult
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from rayloop.project import Period, Simulation
from rayloop.simulation.api_key import temporary_key
from rayloop.simulation.load_client import LoadClient, LoadStats
from rayloop.simulation.traffic_replay import TrafficReplay
from rayloop.stages import deploy, steps
from rayloop.stages.train_version import Recipe, build_version

_POLL_S = 0.1
_SEEN_S = 10.0
_SETTLE_S = 20.0
_SABOTAGE_EPOCHS = 1

_T = TypeVar("_T")


@dataclass
class Phase:
    """One act: what was tried, what the client saw, what was decided."""

    name: str
    tally: LoadStats
    decisions: tuple[Decision, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    note: str = ""


@dataclass
class ScenarioResult:
    """What happened in a rehearsal."""

    phases: list[Phase] = field(default_factory=list)
    windows: tuple[WindowResult, ...] = ()
    retrain_job: str = ""
    retrain_seconds: float = 0.0
    log_rows: Mapping[str, int] = field(default_factory=dict)


def run_scenario(
    context: ProjectContext, plan: Simulation, landed: Mapping[str, Snapshot], recipe: Recipe
) -> ScenarioResult:
    """Play all acts. Raises RolloutError when one does not end as it must."""
    with temporary_key(context.settings, context.project.name, "rehearsal") as headers:
        return _run_phases(context, plan, landed, recipe, headers)


def _run_phases(
    context: ProjectContext,
    plan: Simulation,
    landed: Mapping[str, Snapshot],
    recipe: Recipe,
    headers: Mapping[str, str],
) -> ScenarioResult:
    story = ScenarioResult()
    with context.progress.stage("replay"):
        stage = ScenarioRunner(context, plan, landed, headers)
        stage.replay.push(plan.quiet.start)
    story.phases.append(_quiet(stage, plan.quiet))
    frame, sound = _sound_challenger(context, landed, plan, recipe)
    story.phases.append(_rollout(stage, "sound challenger", sound, plan.sound, "promoted"))
    story.phases.append(
        _rollout(stage, "sabotaged challenger", _sabotage(context, frame, recipe), plan.sabotage, "aborted")
    )
    _drift(stage, plan.drift, story)
    story.log_rows = deploy.flush_log(context)
    story.windows = tuple(get_result(stage.monitor.history.remote()))
    return story


class ScenarioRunner:
    """The replay and the actors that the acts play with."""

    def __init__(
        self, context: ProjectContext, plan: Simulation, landed: Mapping[str, Snapshot], headers: Mapping[str, str]
    ) -> None:
        self.context = context
        project = context.project
        sources = {name: pl.DataFrame(context.tables.read(s.table, s.id)) for name, s in landed.items()}
        rows = _traffic_rows(context, sources[project.examples.source])
        client = LoadClient(context.settings.endpoint, project.name, plan.connections, headers)
        self.replay = TrafficReplay(project.task, project.features, rows, sources, context.store, client, plan.step)
        self.monitor = ray.get_actor(monitor_actor(project.name))
        self._seen_before = self._seen()

    def play(self, period: Period, enough: Callable[[], bool], what: str) -> LoadStats:
        """Replay a period as live traffic until ``enough``, which is asked after each step; a line for each tenth.

        ``enough`` also waits for whoever judges to have seen the step: what an act shows shall depend on the data,
        not on how fast this machine is.
        """
        tell = self.context.progress
        start = max(period.start, self.replay.now or period.start)
        self.replay.push(start)
        told = [0, 0]

        def tick(now: datetime, tally: LoadStats) -> None:
            for failure in tally.failures[told[1] :]:
                tell(f"a request failed: {failure}")
            told[1] = len(tally.failures)
            tenth = int(10 * (now - start) / (period.end - start))
            if tenth > told[0]:
                told[0] = tenth
                rate = tally.requests / max(tally.seconds, 1e-9)
                tell(
                    f"{what} at {now:%d %b %H:%M}: {tally.requests:,} requests, {tally.failed} failed, {rate:,.0f} req/s"
                )

        return self.replay.run(start, period.end, enough, tick)

    def wait_for_monitor(self) -> None:
        """Wait until the monitor has seen every answer so far."""
        answered = self._seen_before + self.replay.answered
        self.once(self._seen, lambda rows: rows >= answered, "the monitor")

    def once(self, ask: Callable[[], _T], holds: Callable[[_T], bool], who: str) -> _T:
        """Ask until the answer holds. After the deadline, which it tells, time goes on: the rest was lost with a process."""
        deadline = time.monotonic() + _SEEN_S
        while not holds(answer := ask()):
            if time.monotonic() > deadline:
                self.context.progress(f"{who} has not seen every answer within {_SEEN_S:.0f} s; the replay goes on")
                break
            time.sleep(_POLL_S)
        return answer

    def _seen(self) -> int:
        return int(get_result(self.monitor.status.remote())["rows_since_start"])

    def alarms(self) -> list[Alarm]:
        return [entry.alarm for entry in self.drift_journal()]

    def drift_journal(self) -> list[Entry]:
        """Entries about drift; what looks find depends on when labels come, and is not part of the plot."""
        return [entry for entry in get_result(self.monitor.journal.remote()) if entry.alarm.kind == "drift"]


def _traffic_rows(context: ProjectContext, rows: pl.DataFrame) -> pl.DataFrame:
    """Every row of the examples' source as a request, with its label where it has one."""
    project = context.project
    examples = project.examples
    dtype = rows.lazy().select(examples.label.alias(LABEL)).collect_schema()[LABEL]
    dated = pl.col(examples.event_time or examples.label_known_at).cast(INSTANT).alias(AS_OF)
    request = request_features(project.features, rows if project.features.as_of else rows.with_columns(dated))
    head = rows.select(
        pl.col(examples.id).cast(pl.String).alias(ID),
        label_values(project.task, examples.label, dtype).alias(LABEL),
        pl.col(examples.label_known_at).cast(INSTANT).alias(LABEL_KNOWN_AT),
    )
    wanted = request.select(AS_OF, *(c.name for c in project.features.request if c.name != ID))
    return pl.concat([head, wanted], how="horizontal")


def _quiet(stage: ScenarioRunner, period: Period) -> Phase:
    with stage.context.progress.stage("quiet"):

        def enough() -> bool:
            stage.wait_for_monitor()
            return False

        tally = stage.play(period, enough, "quiet traffic")
        alarms = tuple(stage.alarms())
        stage.context.progress(f"{len(alarms)} alarms on traffic like the training data")
        return Phase("quiet traffic", tally, alarms=alarms)


def _sound_challenger(
    context: ProjectContext, landed: Mapping[str, Snapshot], plan: Simulation, recipe: Recipe
) -> tuple[FrameView, str]:
    """Train on all that was known when the rollout begins."""
    now = plan.sound.start
    split = context.project.split.for_retrain(now, context.project.retrain.holdout)
    frame = steps.training_frame(context, landed, split, now)
    with context.progress.stage("train"):
        made = build_version(context, frame, recipe, f"all data until {now:%Y-%m-%d}")
    return frame, made.version.version


def _sabotage(context: ProjectContext, frame: FrameView, recipe: Recipe) -> str:
    config = recipe.config.model_copy(update={"epochs": _SABOTAGE_EPOCHS, "workers": 1})
    with context.progress.stage("train"):
        spoilt = Recipe(recipe.spec, config, shuffle_labels=True)
        why = "rehearsal: the rollout, not the gate, shall stop it"
        return build_version(context, frame, spoilt, "shuffled labels", override_gate=why).version.version


def _rollout(stage: ScenarioRunner, name: str, version: str, period: Period, expected: str) -> Phase:
    """Roll a version out under replayed traffic, until the rollout has ended and the period is over."""
    context = stage.context
    with context.progress.stage("rollout"):
        deploy.start_rollout(context, [context.registry.version(context.project.name, version)])
        tally = _under_traffic(stage, name, period)
        status = _ended(stage, name, period)
        _expect(status, expected, name)
        return Phase(name, tally, decisions=status.decisions)


def _under_traffic(stage: ScenarioRunner, name: str, period: Period) -> LoadStats:
    told, before = [0], stage.replay.answered

    def ended() -> bool:
        sent = stage.replay.answered - before
        status = stage.once(
            lambda: deploy.rollout_status(stage.context),
            lambda found: found.over or found.requests >= sent,
            "the rollout's evidence",
        )
        for decision in status.decisions[told[0] :]:
            stage.context.progress(describe_decision(decision))
        told[0] = len(status.decisions)
        return status.over

    return stage.play(period, ended, name)


def _ended(stage: ScenarioRunner, name: str, period: Period) -> RolloutStatus:
    try:
        return deploy.wait_for_rollout(stage.context, _SETTLE_S)
    except RolloutError as error:
        why = f"the rehearsal's traffic until {period.end:%d %B} is used up"
        deploy.abort_rollout(stage.context, why)
        raise RolloutError(
            f"{name}: {error.what}, and {why}; it is aborted", "`rayloop report` shows the evidence; widen the period"
        ) from error


def _expect(status: RolloutStatus, expected: str, name: str) -> None:
    state = status.state
    if state is None or state.status != expected:
        found = f"{state.status}: {state.reason}" if state else "never begun"
        raise RolloutError(f"the {name} should have been {expected}, but is {found}", "see the report and the journal")


def describe_decision(decision: Decision) -> str:
    """A decision for people; "advance" names the share it leads to."""
    share = f" at {decision.share:.0%}" if decision.action in ("start", "advance") else ""
    return f"{decision.action}{share}: {decision.reason}"


def _drift(stage: ScenarioRunner, period: Period, story: ScenarioResult) -> None:
    """Replay until the alarm; let its retrain job finish; replay on until its challenger's rollout has ended."""
    context, known = stage.context, len(stage.alarms())

    def alarmed() -> bool:
        stage.wait_for_monitor()
        return len(stage.alarms()) > known

    with context.progress.stage("drift"):
        tally = stage.play(period, alarmed, "drifting traffic")
        alarms = tuple(stage.alarms()[known:])
        if not alarms:
            raise RolloutError("the drifting period raised no alarm", "see the drift policy, and the report")
        context.progress(f"ALARM {alarms[0].reason}")
        story.phases.append(Phase("drift", tally, alarms=alarms))
    with context.progress.stage("retrain"):
        began = time.monotonic()
        story.retrain_job = _retrained(stage)
        story.retrain_seconds = time.monotonic() - began
    with context.progress.stage("rollout"):
        tally = _under_traffic(stage, "retrained challenger", period)
        status = _ended(stage, "retrained challenger", period)
        _expect(status, "promoted", "retrained challenger")
        story.phases.append(Phase("retrained challenger", tally, decisions=status.decisions))


def _retrained(stage: ScenarioRunner) -> str:
    """Wait for the retrain job that the alarm has submitted; its output is passed on."""
    entry = stage.drift_journal()[-1]
    settings, tell = stage.context.settings, stage.context.progress
    job = entry.outcome
    if entry.failed or entry.action != "retrain":
        raise RayloopError(
            f"the alarm submitted no retrain job: {entry.action}, {entry.outcome}", "see the monitor's status"
        )
    tell(f"the monitor submitted job {job}")

    def pass_on(text: str) -> None:
        for line in text.splitlines():
            if line.strip():
                tell(f"| {line}")

    if not jobs.follow(settings, job, pass_on):
        raise RayloopError(f"retrain job {job} failed: {jobs.outcome(settings, job)[1]}", f"ray job logs {job}")
    return job
