"""Live profiles by version and window, until their windows close. Memory is bounded whatever arrives."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cluster.errors import DataError
from features.definitions import Column
from features.profiles.profile import Profile
from monitoring.drift_policy import DriftPolicy

MAX_VERSIONS = 4
MAX_WINDOWS = 64
"""Windows kept of one version; beyond, the one with the fewest rows goes. Stray event times make tiny windows."""


class LiveWindows:
    """Profiles of a model's traffic. Only the version that is followed closes windows; others wait their turn."""

    def __init__(self) -> None:
        self.profiles: dict[str, dict[float, Profile]] = {}
        self.closed: float = -math.inf
        self._columns: dict[str, tuple[Column, ...]] = {}

    def follow(self, version: str, columns: tuple[Column, ...]) -> None:
        """Close windows of ``version`` from now on, and see its traffic through ``columns``. Others are forgotten."""
        kept = self.profiles.get(version, {})
        self.profiles = {version: {start: profile.select_columns(columns) for start, profile in kept.items()}}
        self._columns = {version: columns}
        self.closed = -math.inf

    def observe(self, version: str, start: float, profile: Profile) -> None:
        """Add a profile of the window at ``start``. Raises DataError when it fits nothing that is known."""
        if not math.isfinite(start):
            raise DataError(f"a live profile of {version} for window {start}", "windows start at a finite time")
        columns = self._columns.get(version)
        if columns is not None:
            if not set(columns) & set(profile.columns):
                raise DataError(f"a live profile of {version} without a column of its reference")
            profile = profile.select_columns(columns)
        windows = self.profiles.setdefault(version, {})
        if start in windows:
            windows[start].merge(profile)
        elif version in self._columns and start <= self.closed:
            raise DataError(f"a live profile of {version} for a window that was closed and left behind")
        else:
            windows[start] = profile
        self._bound()

    def due(self, version: str, policy: DriftPolicy) -> list[float]:
        """Windows that can close: a later one holds ``min_rows`` rows. Ascending."""
        windows = self.profiles.get(version, {})
        full = [start for start, profile in windows.items() if profile.rows >= policy.min_rows]
        return self.before(version, max(full, default=-math.inf) - policy.lateness_s, policy)

    def before(self, version: str, before: float, policy: DriftPolicy) -> list[float]:
        """Windows that end at ``before`` or earlier and are still open. Ascending."""
        starts = self.profiles.get(version, {})
        return sorted(s for s in starts if s > self.closed and s + policy.window_s <= before)

    def close(self, version: str, start: float, policy: DriftPolicy) -> tuple[tuple[float, ...], Profile]:
        """Close a window. Returns the starts and the merged profile of the run that ends with it.

        A window of fewer than ``min_rows`` rows is dropped and is a run of its own. Later ones can still take late
        rows as long as a coming run needs them. By count, a run is all that was not in one before; it ends once it is full.
        """
        windows = self.profiles[version]
        self.closed = max(self.closed, start)
        if policy.window_rows is not None:
            return self._count(windows, start, policy.window_rows)
        if windows[start].rows < policy.min_rows:
            return (start,), windows.pop(start)
        starts = tuple(sorted(s for s in windows if s <= start)[-policy.span :])
        run = Profile.empty(windows[start].columns)
        for each in starts:
            run.merge(windows[each])
        for stale in [s for s in windows if s < starts[0]]:
            del windows[stale]
        return starts, run

    def _count(
        self, windows: dict[float, Profile], start: float, window_rows: int
    ) -> tuple[tuple[float, ...], Profile]:
        starts = tuple(sorted(s for s in windows if s <= start))
        run = Profile.empty(windows[start].columns)
        for each in starts:
            run.merge(windows[each])
        if run.rows >= window_rows:
            for each in starts:
                del windows[each]
        return starts, run

    def to_text(self) -> dict[str, dict[str, str]]:
        """Every profile as JSON text, by version and window start."""
        return {
            version: {repr(start): profile.to_bytes().decode() for start, profile in windows.items()}
            for version, windows in self.profiles.items()
        }

    def restore(self, text: Mapping[str, Mapping[str, str]], closed: float) -> None:
        """Take back what ``to_text`` gave. Raises DataError when it is damaged."""
        self.profiles = {
            version: {float(start): Profile.from_bytes(profile.encode()) for start, profile in windows.items()}
            for version, windows in text.items()
        }
        self.closed = closed

    def _bound(self) -> None:
        while len(self.profiles) > MAX_VERSIONS:
            del self.profiles[next(v for v in self.profiles if v not in self._columns)]
        for windows in self.profiles.values():
            if len(windows) > MAX_WINDOWS:
                del windows[min(windows, key=lambda start: windows[start].rows)]
