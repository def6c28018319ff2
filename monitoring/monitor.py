"""The drift monitor: one detached actor per model.

Replicas send live profiles and wait for nothing; windows close as event time moves on; an alarm is
journaled, then acted on. State is on disk after each closed window, so that the actor can be killed at any time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle

from cluster.contracts import ACTOR_NAMESPACE, CHAMPION, Alarm, monitor_actor
from cluster.errors import DataError, RayloopError
from cluster.registry import Registry
from cluster.settings import Settings
from features.bundle import PROFILE
from features.profiles import Profile
from features.reference import ReferenceProfile
from monitoring.alarm import DetectorState, DriftDetector, DriftPolicy, WindowResult, judge, unjudged
from monitoring.calibrate import Calibration
from monitoring.checkpoint import Entry, Folder, State
from monitoring.exporter import Exporter, PrometheusExporter, RayExporter
from monitoring.windows import LiveWindows

Act = Callable[[Alarm], str]
"""Does something about an alarm and returns its name (a job id). It may be called again for the same alarm after
a crash: model, version and window identify the alarm, so that a repeat can be recognised."""

HISTORY = 200
"""Closed windows and journal entries that are kept."""
EARLIEST_S = -6e10
"""The year 69: dates before are not dates."""
FOLLOW_S = 2.0
"""The registry is asked for the champion at most this often."""
CHECKPOINT_S = 5.0
"""Traffic since the last checkpoint is what a kill can lose."""


class DriftMonitor:
    """Compares a model's traffic with the reference profile of the version that serves it."""

    def __init__(self, model: str, folder: Folder, act: Act | None, exporters: tuple[Exporter, ...] = ()) -> None:
        self.model = model
        self._folder = folder
        self._act = act
        self._exporters = exporters
        self._live = LiveWindows()
        self._results: list[WindowResult] = []
        self._journal: list[Entry] = []
        self._counters: dict[str, int] = {}
        self._rows = 0
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
        if time.monotonic() - self._saved_at > CHECKPOINT_S:
            self._save()

    def watch(self, version: str, reference: bytes, policy: DriftPolicy) -> None:
        """Compare with this version's reference profile from now on. The same again changes nothing.

        Raises DataError for a bad reference, or one whose windows are not the policy's, and ProjectError for
        a policy that watches unknown columns.
        """
        if self._detector is not None and self._detector.version == version and self._policy == policy:
            return
        self._calibration = _calibration(reference, policy)
        # The budget of retrains is the model's, not the version's.
        spent = self._detector.state.retrained if self._detector else ()
        self._detector = DriftDetector(self.model, version, policy, DetectorState(retrained=spent))
        self._policy = policy
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
        detector = self._detector
        return {
            "model": self.model,
            "version": detector.version if detector else "",
            "drifting": detector.state.drifting if detector else False,
            "watched": list(self._calibration.watched) if self._calibration else [],
            "open_windows": {v: {str(s): p.rows for s, p in w.items()} for v, w in self._live.profiles.items()},
            "windows": len(self._results),
            "last_window": self._results[-1].model_dump() if self._results else None,
            "alarms": [entry.model_dump() for entry in self._journal],
            "counters": dict(self._counters),
            "rows_since_start": self._rows,
            "last_error": self._last_error,
        }

    def history(self) -> list[WindowResult]:
        """The closed windows, oldest first, of every version watched; at most HISTORY."""
        return list(self._results)

    def journal(self) -> list[Entry]:
        """Alarms and what was done about them, oldest first."""
        return list(self._journal)

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
        if run.rows < self._policy.min_rows:
            note = f"{run.rows} rows, {self._policy.min_rows} are needed"
            result = unjudged(detector.version, run_starts, run.rows, note)
        else:
            result = judge(calibration, self._policy, detector.version, run_starts, run)
        alarm = detector.update(result).alarm
        self._results = [*self._results, result][-HISTORY:]
        self._count("windows")
        for exporter in self._exporters:
            exporter.window(self.model, result)
        if alarm is not None:
            self._raise_alarm(detector, alarm)
        self._save()

    def _raise_alarm(self, detector: DriftDetector, alarm: Alarm) -> None:
        self._count("alarms")
        action = self._policy.action if self._act is not None else "notify"
        held = detector.claim_retrain(alarm.window) if action == "retrain" else ""
        outcome = held or ("journaled" if action == "notify" else "")
        entry = Entry(at=time.time(), alarm=alarm, action="held" if held else action, outcome=outcome)
        self._journal = [*self._journal, entry][-HISTORY:]
        self._save()
        self._finish(entry)

    def _finish(self, entry: Entry) -> None:
        """Carry out what the journal says is under way. The journal is on disk before and after."""
        if entry.outcome or self._act is None:
            return
        self._count("actions")
        try:
            done = entry.model_copy(update={"outcome": self._act(entry.alarm) or "done"})
        except Exception as error:
            # Whatever a project's action raises, monitoring goes on; the journal tells.
            done = entry.model_copy(update={"outcome": f"{type(error).__name__}: {error}", "failed": True})
            self._count("failures", done.outcome)
        self._journal[self._journal.index(entry)] = done
        self._save()

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
                journal=tuple(self._journal),
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
        self._results, self._journal = list(state.results), list(state.journal)
        self._counters = dict(state.counters)
        for entry in [e for e in self._journal if not e.outcome]:
            self._finish(entry)


class DriftMonitorActor(DriftMonitor):
    """The monitor as it runs in an actor: its files under the settings' home, its metrics exported."""

    def __init__(self, settings: Settings, model: str, act: Act | None, metrics_port: int | None) -> None:
        self._registry = Registry(settings)
        self._asked = -math.inf
        prometheus = PrometheusExporter()
        self._metrics = prometheus.serve(metrics_port) if metrics_port is not None else ""
        super().__init__(model, Folder(settings.home / "monitors" / model), act, (prometheus, RayExporter()))

    def observe(self, version: str, window_s: float, profile: bytes) -> None:
        """As above. Traffic of another version than the watched one may mean that it was promoted."""
        if self._detector is not None and version != self._detector.version:
            self._follow_champion()
        super().observe(version, window_s, profile)

    def status(self) -> dict[str, Any]:
        return {**super().status(), "metrics": self._metrics}

    def _follow_champion(self) -> None:
        """Compare with the champion's own reference profile from now on, whoever promoted it."""
        if time.monotonic() - self._asked < FOLLOW_S:
            return
        self._asked = time.monotonic()
        try:
            champion = self._registry.aliased(self.model, CHAMPION)
            if champion is not None and self._detector is not None and champion.version != self._detector.version:
                self.watch(champion.version, (self._registry.fetch(champion) / PROFILE).read_bytes(), self._policy)
        except (RayloopError, OSError) as error:
            # The registry may be away for a while; the next profile asks again.
            self._count("failures", str(error))


def start_monitor(settings: Settings, model: str, act: Act | None = None, metrics_port: int | None = 0) -> ActorHandle:
    """The model's monitor, started if there is none. It outlives its creator and is restarted when it dies.

    ``metrics_port``: where the actor answers Prometheus on its own machine; 0 a free port (``status`` tells), None
    nowhere.
    """
    options = {
        "name": monitor_actor(model),
        "namespace": ACTOR_NAMESPACE,
        "lifetime": "detached",
        "max_restarts": -1,
        "num_cpus": 0,
        "get_if_exists": True,
    }
    actor: Any = ray.remote(DriftMonitorActor)
    handle: ActorHandle = actor.options(**options).remote(settings, model, act, metrics_port)
    return handle


def _calibration(reference: bytes, policy: DriftPolicy) -> Calibration:
    profile = ReferenceProfile.from_bytes(reference)
    if profile.window_s != policy.window_s:
        raise DataError(
            f"the reference has windows of {profile.window_s:g} s, the drift policy of {policy.window_s:g} s",
            "profile the training data by the policy's windows",
        )
    return Calibration(profile, policy.span, policy.watch)
