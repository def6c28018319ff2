"""The drift monitor of one model, independent of where it runs (monitoring/runtime/monitor_actor.py: in an actor).

Replicas send live profiles and wait for nothing; windows close as event time advances; a task analyzes the logged rows
of closed windows; an alarm is journaled, then acted on. State is stored after each closed window, so that the process
can be killed at any time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from cluster.errors import DataError
from cluster.values import Alarm, Usage
from features.profiles.profile import Profile
from monitoring.analysis.analysis_scheduler import AnalysisScheduler, SchedulerState
from monitoring.analysis.log_analysis import AnalysisRequest, AnalysisResult
from monitoring.detection.alarm_actions import AlarmAction, AlarmEntry, AlarmResponder, NotificationSink
from monitoring.detection.detector import DetectorState, WindowResult
from monitoring.detection.drift_tracker import DriftTracker
from monitoring.drift_policy import Action, DriftPolicy
from monitoring.export import metric_definitions as metrics
from monitoring.export.cost import ResourcePrices, UsageTotals, total_cost
from monitoring.export.metric_definitions import MetricValue
from monitoring.export.prometheus import MetricsExporter
from monitoring.retraining.retrain_scheduler import FactsReader, RetrainScheduler, ScheduleStatus, Submit
from monitoring.retraining.triggers import RetrainPolicy
from monitoring.runtime.state_store import MonitorState, MonitorStore

EARLIEST_S = -6e10
"""The year 69: earlier event times are taken for errors."""
REPLICA_TIMEOUT_S = 30.0
"""A replica that has not reported for so long is not counted."""
CHECKPOINT_S = 5.0
"""A kill can lose the traffic since the last checkpoint."""


class AnalysisRunner(Protocol):
    """Runs log analyses elsewhere, one at a time (monitoring/runtime/analysis_task.py)."""

    def start(self, request: AnalysisRequest) -> None:
        """Start an analysis."""

    def poll(self) -> AnalysisResult | str | None:
        """The result, or why there is none; None while the analysis runs."""


class DriftMonitor:
    """Compares a model's traffic with the reference profile of the version that serves it.

    It connects the parts, each of which does one thing: DriftTracker (windows and drift), AnalysisScheduler (analyses
    of logged rows), AlarmResponder (journal, actions, notifications), MonitorStore (files), exporters (metrics).
    """

    def __init__(
        self,
        model: str,
        store: MonitorStore,
        handlers: Mapping[Action, AlarmAction] | None = None,
        exporters: tuple[MetricsExporter, ...] = (),
        runner: AnalysisRunner | None = None,
        sink: NotificationSink | None = None,
        prices: ResourcePrices | None = None,
        reader: FactsReader | None = None,
        submit: Submit | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Continue from the files of ``store``, or start without a version.

        Args:
            model: Name of the model.
            store: Files of the monitor.
            handlers: What each action does; an action without one only notifies.
            exporters: Where metrics go.
            runner: Runs analyses of logged rows; None: there are none.
            sink: Sends notifications; None sends none.
            prices: Prices of resources; None: everything is free.
            reader: Reads what triggers of retraining depend on; None: only alarms retrain.
            submit: Submits the job of a retraining that a trigger starts.
            clock: Seconds since the epoch, for the triggers of retraining.
        """
        self.model = model
        self._store = store
        self._exporters = exporters
        self._runner = runner
        self._prices = prices or ResourcePrices()
        self._tracker = DriftTracker(model)
        self._scheduler = AnalysisScheduler()
        self._retraining = RetrainScheduler(reader, submit, self._save, self._count, clock)
        self._responder = AlarmResponder(
            handlers or {},
            sink,
            self._save,
            self._count,
            self._retraining.suppression,
            self._retraining.record_alarm,
        )
        self._running: AnalysisRequest | None = None
        self._analysis_started_at = -math.inf
        self._counters: dict[str, int] = {}
        self._rows = 0
        self._usage, self._tags = UsageTotals(), dict[str, str]()
        self._reported_at: dict[str, float] = {}
        self._last_error = ""
        self._saved_at = time.monotonic()
        self._resume()

    @property
    def version(self) -> str:
        """The version that is monitored; "" before the first."""
        return self._tracker.version

    @property
    def policy(self) -> DriftPolicy:
        """The policy in force."""
        return self._tracker.policy

    def observe(self, version: str, window_s: float, profile: bytes) -> None:
        """Add a live profile. It never raises: a profile that cannot be used is counted, and ``status`` says why.

        Args:
            version: The version that answered.
            window_s: Start of the window, seconds since the epoch, event time.
            profile: The profile, as bytes.
        """
        rows = 0
        try:
            live = Profile.from_bytes(profile)
            rows = live.rows
            # A single window in the far future would permanently close every window before it.
            if not EARLIEST_S <= window_s <= time.time() + self.policy.window_s:
                raise DataError("data.impossible_window", window=window_s)
            self._tracker.windows.observe(version, window_s, live)
        except (DataError, TypeError, ValueError) as error:
            self._count("rejected", str(error))
        else:
            if version == self.version:
                self._close(self._tracker.windows.closable(version, self.policy))
        # Also those of a rejected profile.
        self._rows += rows
        self._collect()
        if time.monotonic() - self._saved_at > CHECKPOINT_S:
            self._save()

    def record_usage(self, usage: Usage) -> None:
        """Add the resources that a replica reserved and used."""
        self._usage = self._usage.add(usage)
        self._reported_at[usage.replica] = time.monotonic()
        self._show(metrics.usage_metrics(self.model, self._usage, self._replicas(), self._tags, self._prices))
        # Replicas report even without traffic, so the result of an analysis does not wait for a request.
        self._collect()

    def watch(self, version: str, reference: bytes, policy: DriftPolicy, tags: Mapping[str, str] | None = None) -> None:
        """Compare with this version's reference profile from now on. The same call again changes nothing.

        Args:
            version: The version.
            reference: Its reference profile, as bytes.
            policy: The policy.
            tags: Tags that the model's cost is also reported by; None keeps them.

        Raises:
            DataError: The reference is damaged, or its windows differ from the policy's.
            ProjectError: The policy monitors a column that is not profiled.
        """
        self._tags = dict(self._tags if tags is None else tags)
        before = self.version
        if before == version and self.policy == policy:
            return
        self._tracker.follow(version, reference, policy)
        if before != version:
            self._show(metrics.version_metrics(self.model, version))
        self._show(metrics.policy_metrics(self.model, version, policy))
        self._scheduler.reset()
        self._store.save_reference(version, reference)
        self._close(self._tracker.windows.closable(version, self.policy))
        self._save()
        self._store.delete_other_references(version)

    def schedule(self, policy: RetrainPolicy) -> None:
        """Retrain by these triggers, within this budget, from now on. The same call again changes nothing."""
        self._retraining.follow(policy)

    def pause_retraining(self, by: str, reason: str) -> ScheduleStatus:
        """Start no retraining, whatever the trigger, until ``resume_retraining``."""
        self._retraining.pause(by, reason)
        return self.schedule_status()

    def resume_retraining(self, by: str, reason: str) -> ScheduleStatus:
        """Start retraining again when it is due."""
        self._retraining.resume(by, reason)
        return self.schedule_status()

    def schedule_status(self) -> ScheduleStatus:
        """Triggers, runs and budget of retraining, for people."""
        self._collect()
        return self._retraining.status(self.model, self._scheduler.state.gains)

    def close(self, before_s: float) -> int:
        """Close every window that ends at ``before_s`` or earlier. Returns how many closed."""
        return self._close(self._tracker.windows.ending_by(self.version, before_s, self.policy))

    def status(self) -> dict[str, Any]:
        """What is monitored, what was observed, what was done. Plain JSON values, for people."""
        self._collect()
        tracker, analyses = self._tracker, self._scheduler.state.analyses
        open_windows = tracker.windows.profiles.items()
        return {
            "model": self.model,
            "version": tracker.version,
            "drifting": tracker.drifting,
            "watched": list(tracker.drift_reference.monitored_columns) if tracker.drift_reference else [],
            "open_windows": {v: {str(s): p.rows for s, p in windows.items()} for v, windows in open_windows},
            "windows": len(tracker.results),
            "last_window": tracker.results[-1].model_dump() if tracker.results else None,
            "alarms": [entry.model_dump() for entry in self._responder.journal],
            "false_alarms": {kind: tracker.policy.monthly(kind) for kind in tracker.policy.kinds},
            "last_look": analyses[-1].model_dump(mode="json", by_alias=True) if analyses else None,
            "estimate": self._newest_estimate(),
            "looking": self._running is not None or self._scheduler.state.due is not None,
            "tags": dict(self._tags),
            "replicas": self._replicas(),
            "used": self._usage.model_dump(),
            "cost": total_cost(self._usage, self._prices),
            "counters": dict(self._counters),
            "rows_since_start": self._rows,
            "retraining": self._retraining.status(self.model, self._scheduler.state.gains).model_dump(mode="json"),
            "last_error": self._last_error,
        }

    def history(self) -> list[WindowResult]:
        """Closed windows of every monitored version, oldest first."""
        return list(self._tracker.results)

    def journal(self) -> list[AlarmEntry]:
        """Alarms and what was done about them, oldest first."""
        self._collect()
        return list(self._responder.journal)

    def analyses(self) -> SchedulerState:
        """Analyses of logged rows, and performance by window and segment."""
        self._collect()
        return self._scheduler.state

    def record_failure(self, error: Exception) -> None:
        """Count a failure that the monitor recovers from."""
        self._count("failures", str(error))

    def _close(self, starts: list[float]) -> int:
        for start in starts:
            result, alarm, ended_episode = self._tracker.close(start)
            self._scheduler.schedule(self.model, self.policy, self._tracker.results)
            self._count("windows")
            self._show(metrics.window_metrics(self.model, result, self._tracker.drifting))
            if alarm is not None:
                self._responder.respond(self.policy, alarm)
            elif self._tracker.drifting and result.drifted:
                self._responder.act_on_held(self.policy, result.version, start)
            if ended_episode:
                self._responder.notify_quiet(self.policy, self.model, result.version, start)
            self._save()
        return len(starts)

    def _collect(self) -> None:
        """Add what has ended elsewhere, and start the analysis that is due."""
        self._responder.collect_deliveries()
        self._retraining.tick()
        runner, settings = self._runner, self.policy.log_analysis
        if runner is None:
            return
        if self._running is not None and (outcome := runner.poll()) is not None:
            request, self._running = self._running, None
            self._record_analysis(request, outcome)
        due = self._scheduler.state.due
        if settings is None or due is None or self._running is not None:
            return
        if time.monotonic() - self._analysis_started_at >= settings.every_s:
            self._running, self._analysis_started_at = due, time.monotonic()
            runner.start(due)

    def _record_analysis(self, request: AnalysisRequest, outcome: AnalysisResult | str) -> None:
        if isinstance(outcome, str):
            self._scheduler.finish(request)
            self._count("failures", f"a log analysis failed: {outcome}")
        elif request.version == self.version:
            findings = self._scheduler.record(request, outcome)
            self._count("looks", *outcome.faults[:1])
            self._show(metrics.analysis_metrics(self.model, outcome))
            for finding in findings:
                kind, fields = finding.kind, finding.model_dump(exclude={"name"})
                fields |= {"level": request.policy.level(kind), "monthly": request.policy.monthly(kind)}
                alarm = Alarm(model=self.model, version=outcome.version, **fields)
                self._responder.respond(self.policy, alarm)
        self._save()

    def _newest_estimate(self) -> dict[str, Any] | None:
        """The followed version's newest estimate without labels, as plain JSON values."""
        for quality in reversed(self._scheduler.state.quality):
            if quality.version == self.version and quality.estimate is not None:
                return {"window": quality.window, **quality.estimate.model_dump(mode="json")}
        return None

    def _replicas(self) -> int:
        """How many replicas have reported recently."""
        since = time.monotonic() - REPLICA_TIMEOUT_S
        self._reported_at = {replica: at for replica, at in self._reported_at.items() if at > since}
        return len(self._reported_at)

    def _show(self, values: Iterable[MetricValue]) -> None:
        values = list(values)
        for exporter in self._exporters:
            exporter.show(values)

    def _show_again(self) -> None:
        """A new process exports nothing; what its predecessor exported is still true."""
        version = self.version
        if not version:
            return
        self._show(metrics.version_metrics(self.model, version))
        self._show(metrics.policy_metrics(self.model, version, self.policy))
        results = [result for result in self._tracker.results if result.version == version]
        if results:
            self._show(metrics.window_metrics(self.model, results[-1], self._tracker.drifting))
        if (analysis := self._scheduler.latest(version)) is not None:
            self._show(metrics.analysis_metrics(self.model, analysis))

    def _count(self, event: str, error: str = "") -> None:
        self._counters[event] = self._counters.get(event, 0) + 1
        self._last_error = error or self._last_error
        for exporter in self._exporters:
            exporter.count(self.model, event)

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        tracker = self._tracker
        closed_until = tracker.windows.closed_until
        state = MonitorState(
            model=self.model,
            version=tracker.version,
            policy=tracker.policy,
            detector=tracker.detector.state if tracker.detector else DetectorState(),
            closed=closed_until if math.isfinite(closed_until) else None,
            windows=tracker.windows.to_text(),
            results=tuple(tracker.results),
            journal=tuple(self._responder.journal),
            actions=self._responder.actions,
            scheduler=self._scheduler.state,
            usage=self._usage,
            tags=self._tags,
            counters=self._counters,
            retrain_policy=self._retraining.policy,
            retraining=self._retraining.state,
        )
        try:
            self._store.save(state)
        except OSError as error:
            # The store may be away for a while. The next save, after CHECKPOINT_S, has everything that this one had.
            self._count("failures", f"the monitor's state was not written: {error}")

    def _resume(self) -> None:
        try:
            if (state := self._store.load()) is not None:
                self._restore(state)
        except DataError as error:
            # Otherwise a damaged file would make the actor die and restart forever.
            self._store.set_aside()
            self._count("failures", str(error))

    def _restore(self, state: MonitorState) -> None:
        # First: a reference that is gone must not cost a person's pause, or the budget.
        self._retraining.policy, self._retraining.state = state.retrain_policy, state.retraining
        tracker = DriftTracker(self.model)
        if state.version and state.policy is not None:
            tracker.follow(state.version, self._store.load_reference(state.version), state.policy, state.detector)
        tracker.windows.restore(state.windows, -math.inf if state.closed is None else state.closed)
        tracker.results = list(state.results)
        self._tracker, self._scheduler = tracker, AnalysisScheduler(state.scheduler)
        self._counters = dict(state.counters)
        self._usage, self._tags = state.usage, dict(state.tags)
        self._responder.journal, self._responder.actions = list(state.journal), state.actions
        self._responder.resume(self.policy)
        self._retraining.resume_after_crash()
        self._show_again()
