"""The drift monitor of one model, as it is wherever it runs (monitoring/runtime/monitor_actor.py has it run in an actor).

Replicas send live profiles and wait for nothing; windows close as event time moves on; the logged rows of closed windows
are looked at by a task; an alarm is journaled, then acted on. State is on disk after each closed window, so that the
process can be killed at any time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from cluster.errors import DataError
from cluster.values import Alarm, Usage
from features.profiles.profile import Profile
from features.profiles.reference_profile import ReferenceProfile
from monitoring.analysis.analysis_scheduler import Lookout, LookState
from monitoring.analysis.log_analysis import Asked, Looked
from monitoring.detection.action_limits import Entry
from monitoring.detection.alarm_actions import Act, Responses, Tells
from monitoring.detection.detector import DetectorState, DriftDetector, WindowResult, judge, unjudged
from monitoring.detection.windows import LiveWindows
from monitoring.drift_policy import Action, DriftPolicy
from monitoring.export.cost import FREE, Prices, Used, cost
from monitoring.export.metric_definitions import Figure, of_look, of_use, of_version, of_window
from monitoring.export.prometheus import Exporter
from monitoring.runtime.state_store import Folder, State
from monitoring.statistics.calibration import Calibration

HISTORY = 200
"""Closed windows that are kept, of a model with few columns."""
MAX_CELLS, LEAST_HISTORY = 20_000, 10
"""Of one with a thousand, as many as have so many column results together: all are written at each checkpoint."""
EARLIEST_S = -6e10
"""The year 69: dates before are not dates."""
REPLICA_GONE_S = 30.0
"""A replica that has not told of itself for as long is not counted."""
CHECKPOINT_S = 5.0
"""Traffic since the last checkpoint is what a kill can lose."""


class Looks(Protocol):
    """Runs looks, one at a time, elsewhere (monitoring/runtime/analysis_task.py)."""

    def start(self, asked: Asked) -> None: ...

    def finished(self) -> Looked | str | None:
        """What was seen, or why nothing could be; None while none has ended."""


class DriftMonitor:
    """Compares a model's traffic with the reference profile of the version that serves it."""

    def __init__(
        self,
        model: str,
        folder: Folder,
        acts: Mapping[Action, Act] | None = None,
        exporters: tuple[Exporter, ...] = (),
        looks: Looks | None = None,
        tells: Tells | None = None,
        prices: Prices | None = None,
    ) -> None:
        self.model = model
        self._folder = folder
        self._exporters = exporters
        self._looks = looks
        self._asked: Asked | None = None
        self._looked_at = -math.inf
        self._lookout = Lookout()
        self._responses = Responses(acts or {}, tells, self._save, self._count)
        self._live = LiveWindows()
        self._results: list[WindowResult] = []
        self._counters: dict[str, int] = {}
        self._rows = 0
        self._prices = prices or FREE
        self._used, self._tags = Used(), dict[str, str]()
        self._told: dict[str, float] = {}
        self._last_error = ""
        self._policy = DriftPolicy()
        self._detector: DriftDetector | None = None
        self._calibration: Calibration | None = None
        self._saved_at = time.monotonic()
        self._resume()

    def observe(self, version: str, window_s: float, profile: bytes) -> None:
        """Add a live profile of the window that starts at ``window_s`` (event time, seconds since the epoch).

        Never raises for what it is given: a profile that cannot be used is counted, and ``status`` says why.
        """
        rows = 0
        try:
            live = Profile.from_bytes(profile)
            rows = live.rows
            self._refuse_impossible(window_s)
            self._live.observe(version, window_s, live)
        except (DataError, TypeError, ValueError) as error:
            self._count("rejected", str(error))
        else:
            if self._detector is not None and version == self._detector.version:
                self._close(self._live.due(version, self._policy))
        # Also those of a rejected profile: they have been seen.
        self._rows += rows
        self._collect()
        if time.monotonic() - self._saved_at > CHECKPOINT_S:
            self._save()

    def used(self, usage: Usage) -> None:
        """Add what a replica held and used; shown as the model's cost."""
        self._used = self._used.plus(usage)
        self._told[usage.replica] = time.monotonic()
        self._show(of_use(self.model, self._used, self._replicas(), self._tags, self._prices))
        # Replicas tell of themselves without traffic too: what a look found waits for no request.
        self._collect()

    def watch(self, version: str, reference: bytes, policy: DriftPolicy, tags: Mapping[str, str] | None = None) -> None:
        """Compare with this version's reference profile from now on. The same again changes nothing.

        ``tags`` are what the model's cost is shown by.

        Raises DataError for a bad reference, or one whose windows are not the policy's, and ProjectError for
        a policy that watches unknown columns.
        """
        self._tags = dict(self._tags if tags is None else tags)
        if self._detector is not None and self._detector.version == version and self._policy == policy:
            return
        self._calibration = _calibration(reference, policy)
        if self._detector is None or self._detector.version != version:
            self._show(of_version(self.model, version))
        self._detector = DriftDetector(self.model, version, policy)
        self._policy = policy
        self._lookout.follow()
        self._live.follow(version, self._calibration.reference.total.columns)
        self._folder.save_reference(version, reference)
        self._close(self._live.due(version, policy))
        self._save()
        self._folder.forget_references_but(version)

    def close(self, before_s: float) -> int:
        """Close every window that ends at ``before_s`` or earlier. Returns how many were closed."""
        if self._detector is None:
            return 0
        return self._close(self._live.before(self._detector.version, before_s, self._policy))

    def status(self) -> dict[str, Any]:
        """For people: what is watched, what was seen, what was done. Plain JSON values."""
        self._collect()
        detector, looks = self._detector, self._lookout.state.looks
        return {
            "model": self.model,
            "version": detector.version if detector else "",
            "drifting": detector.state.drifting if detector else False,
            "watched": list(self._calibration.watched) if self._calibration else [],
            "open_windows": {v: {str(s): p.rows for s, p in w.items()} for v, w in self._live.profiles.items()},
            "windows": len(self._results),
            "last_window": self._results[-1].model_dump() if self._results else None,
            "alarms": [entry.model_dump() for entry in self._responses.journal],
            "last_look": looks[-1].model_dump(mode="json") if looks else None,
            "looking": self._asked is not None or self._lookout.state.due is not None,
            "tags": dict(self._tags),
            "replicas": self._replicas(),
            "used": self._used.model_dump(),
            "cost": cost(self._used, self._prices),
            "counters": dict(self._counters),
            "rows_since_start": self._rows,
            "last_error": self._last_error,
        }

    def history(self) -> list[WindowResult]:
        """The closed windows, oldest first, of every version watched; at most HISTORY."""
        return list(self._results)

    def journal(self) -> list[Entry]:
        """Alarms and what was done about them, oldest first."""
        self._collect()
        return list(self._responses.journal)

    def looks(self) -> LookState:
        """What was found in logged rows, and performance by window and segment."""
        self._collect()
        return self._lookout.state

    def _refuse_impossible(self, start: float) -> None:
        # One window of the far future would close every window before it, now and for ever.
        if not EARLIEST_S <= start <= time.time() + self._policy.window_s:
            raise DataError(f"a live profile for the window at {start:g}, which is no possible event time")

    def _close(self, starts: list[float]) -> int:
        for start in starts:
            self._close_window(start)
        return len(starts)

    def _close_window(self, start: float) -> None:
        detector, calibration = self._detector, self._calibration
        if detector is None or calibration is None:
            return
        run_starts, run = self._live.close(detector.version, start, self._policy)
        if self._policy.window_rows is None and run.rows < self._policy.min_rows:
            note = f"{run.rows} rows, {self._policy.min_rows} are needed"
            result = unjudged(detector.version, run_starts, run.rows, note)
        else:
            result = judge(calibration, self._policy, detector.version, run_starts, run)
        was_drifting = detector.state.drifting
        alarm = detector.update(result).alarm
        self._results = [*self._results, result][-_kept(len(calibration.reference.bins)) :]
        self._lookout.closed(self.model, self._policy, self._results)
        self._count("windows")
        self._show(of_window(self.model, result, detector.state.drifting))
        if alarm is not None:
            self._responses.respond(self._policy, alarm)
        if was_drifting and not detector.state.drifting:
            self._responses.quiet(self._policy, self.model, detector.version, start)
        self._save()

    def _collect(self) -> None:
        """Take in what has ended meanwhile elsewhere, and have the next look begin."""
        self._responses.collect()
        found = self._looks.finished() if self._looks and self._asked else None
        if found is not None:
            self._took(found)
        look, due = self._policy.look, self._lookout.state.due
        if self._looks and look and due and not self._asked and time.monotonic() - self._looked_at >= look.every_s:
            self._asked, self._looked_at = due, time.monotonic()
            self._looks.start(due)

    def _took(self, found: Looked | str) -> None:
        asked, self._asked = self._asked, None
        assert asked is not None
        if isinstance(found, str):
            self._lookout.gave_up(asked)
            self._count("failures", f"a look failed: {found}")
        elif asked.version == (self._detector.version if self._detector else ""):
            fresh = self._lookout.took(asked, found)
            self._count("looks", *found.faults[:1])
            self._show(of_look(self.model, found))
            for one in fresh:
                self._responses.respond(
                    self._policy,
                    Alarm(
                        model=self.model,
                        version=found.version,
                        window=one.window,
                        reason=one.reason,
                        features=one.features,
                        kind=one.kind,
                    ),
                )
        self._save()

    def _replicas(self) -> int:
        """How many have told of themselves lately."""
        since = time.monotonic() - REPLICA_GONE_S
        self._told = {replica: at for replica, at in self._told.items() if at > since}
        return len(self._told)

    def _show(self, figures: Iterable[Figure]) -> None:
        given = list(figures)
        for exporter in self._exporters:
            exporter.show(given)

    def _show_again(self) -> None:
        """A process that begins anew exports nothing; what its predecessor showed is still true."""
        detector = self._detector
        if detector is None:
            return
        self._show(of_version(self.model, detector.version))
        mine = [result for result in self._results if result.version == detector.version]
        if mine:
            self._show(of_window(self.model, mine[-1], detector.state.drifting))
        found = self._lookout.newest(detector.version)
        if found is not None:
            self._show(of_look(self.model, found))

    def _count(self, event: str, error: str = "") -> None:
        self._counters[event] = self._counters.get(event, 0) + 1
        self._last_error = error or self._last_error
        for exporter in self._exporters:
            exporter.count(self.model, event)

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        self._folder.save(
            State(
                model=self.model,
                version=self._detector.version if self._detector else "",
                policy=self._policy,
                detector=self._detector.state if self._detector else DetectorState(),
                closed=self._live.closed if math.isfinite(self._live.closed) else None,
                windows=self._live.to_text(),
                results=tuple(self._results),
                journal=tuple(self._responses.journal),
                acted=self._responses.acted,
                look=self._lookout.state,
                used=self._used,
                tags=self._tags,
                counters=self._counters,
            )
        )

    def _resume(self) -> None:
        try:
            state = self._folder.load()
            if state is not None:
                self._take(state)
        except DataError as error:
            # Without this a damaged file would make the actor die and restart for ever.
            self._folder.set_aside()
            self._count("failures", str(error))

    def _take(self, state: State) -> None:
        live = LiveWindows()
        if state.version and state.policy is not None:
            calibration = _calibration(self._folder.load_reference(state.version), state.policy)
            live.follow(state.version, calibration.reference.total.columns)
            self._policy, self._calibration = state.policy, calibration
            self._detector = DriftDetector(self.model, state.version, state.policy, state.detector)
        live.restore(state.windows, -math.inf if state.closed is None else state.closed)
        self._live = live
        self._results, self._lookout = list(state.results), Lookout(state.look)
        self._counters = dict(state.counters)
        self._used, self._tags = state.used, dict(state.tags)
        self._responses.journal, self._responses.acted = list(state.journal), state.acted
        self._responses.resume(self._policy)
        self._show_again()


def _kept(columns: int) -> int:
    return max(LEAST_HISTORY, min(HISTORY, MAX_CELLS // max(1, columns)))


def _calibration(reference: bytes, policy: DriftPolicy) -> Calibration:
    profile = ReferenceProfile.from_bytes(reference)
    if profile.window_s != policy.window_s:
        raise DataError(
            f"the reference has windows of {profile.window_s:g} s, the drift policy of {policy.window_s:g} s",
            "profile the training data by the policy's windows",
        )
    return Calibration(profile, policy.span, policy.watch, policy.window_rows)
