"""Drift of the version that serves a model: open windows, closed ones, and the detector over them. Pure."""

from __future__ import annotations

from cluster.errors import DataError
from cluster.values import Alarm
from features.profiles.reference_profile import ReferenceProfile
from monitoring.detection.detector import DetectorState, DriftDetector, WindowResult, evaluate_run, skipped_window
from monitoring.detection.windows import LiveWindows
from monitoring.drift_policy import DriftPolicy
from monitoring.statistics.drift_reference import DriftReference

MAX_RESULTS = 200
"""Closed windows that are kept, for a model with few columns."""
MAX_CELLS, MIN_RESULTS = 20_000, 10
"""For a model with many columns, as many windows as hold this many column results: each save writes all of them."""


class DriftTracker:
    """Follows one version at a time; before the first, windows accumulate and none closes.

    Attributes:
        policy: The policy in force.
        drift_reference: The followed version's reference; None before the first.
        detector: The followed version's detector; None before the first.
        windows: Open windows.
        results: Closed windows of every version, oldest first.
    """

    def __init__(self, model: str) -> None:
        """Start without a version."""
        self.model = model
        self.policy = DriftPolicy()
        self.drift_reference: DriftReference | None = None
        self.detector: DriftDetector | None = None
        self.windows = LiveWindows()
        self.results: list[WindowResult] = []

    @property
    def version(self) -> str:
        """The followed version; "" before the first."""
        return self.detector.version if self.detector else ""

    @property
    def drifting(self) -> bool:
        """Whether an episode of drift is open."""
        return self.detector is not None and self.detector.state.drifting

    def follow(self, version: str, reference: bytes, policy: DriftPolicy, state: DetectorState | None = None) -> None:
        """Compare with this version's reference profile from now on.

        Args:
            version: The version.
            reference: Its reference profile.
            policy: The policy.
            state: State of its detector, to continue with.

        Raises:
            DataError: The reference is damaged, or its windows differ from the policy's.
            ProjectError: The policy monitors a column that is not profiled.
        """
        profile = ReferenceProfile.from_bytes(reference)
        if profile.window_s != policy.window_s:
            raise DataError("data.window_mismatch", reference_s=profile.window_s, policy_s=policy.window_s)
        self.drift_reference = DriftReference(profile, policy.span, policy.watch, policy.window_rows)
        self.detector = DriftDetector(self.model, version, policy, state)
        self.policy = policy
        self.windows.follow(version, profile.total.columns)

    def close(self, start: float) -> tuple[WindowResult, Alarm | None, bool]:
        """Close a window of the followed version and evaluate the run that ends with it.

        Returns:
            The result, the alarm that it raised, and whether traffic has now been quiet for long enough to end one.
        """
        detector, drift_reference = self.detector, self.drift_reference
        assert detector is not None
        assert drift_reference is not None
        starts, run = self.windows.close(detector.version, start, self.policy)
        if self.policy.window_rows is None and run.rows < self.policy.min_rows:
            note = f"{run.rows} rows, {self.policy.min_rows} are needed"
            result = skipped_window(detector.version, starts, run.rows, note)
        else:
            result = evaluate_run(drift_reference, self.policy, detector.version, starts, run)
        was_drifting = detector.state.drifting
        alarm = detector.update(result)
        most = max(MIN_RESULTS, min(MAX_RESULTS, MAX_CELLS // max(1, len(drift_reference.profile.bins))))
        self.results = [*self.results, result][-most:]
        return result, alarm, was_drifting and not detector.state.drifting
