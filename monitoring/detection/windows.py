"""Live profiles by version and window, until their windows close. Memory is bounded. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cluster.errors import DataError
from features.definitions import Column
from features.profiles.profile import Profile
from monitoring.drift_policy import DriftPolicy

MAX_VERSIONS = 4
MAX_WINDOWS = 64
"""Windows kept per version; beyond that, the one with the fewest rows is dropped. Stray times make tiny windows."""


class LiveWindows:
    """Open windows of a model's traffic. Only windows of the followed version close; other versions accumulate.

    Attributes:
        profiles: Profile of each open window, by version and window start.
        closed_until: Start of the newest closed window; -inf before the first.
    """

    def __init__(self) -> None:
        self.profiles: dict[str, dict[float, Profile]] = {}
        self.closed_until: float = -math.inf
        self._columns: dict[str, tuple[Column, ...]] = {}

    def follow(self, version: str, columns: tuple[Column, ...]) -> None:
        """Follow ``version`` from now on, with these columns, and drop the windows of all others."""
        windows = self.profiles.get(version, {})
        self.profiles = {version: {start: profile.select_columns(columns) for start, profile in windows.items()}}
        self._columns = {version: columns}
        self.closed_until = -math.inf

    def observe(self, version: str, start: float, profile: Profile) -> None:
        """Add a profile of the window at ``start``.

        Raises:
            DataError: The start is not finite, the profile has none of the reference's columns, or the window is closed
                and no coming run needs it.
        """
        if not math.isfinite(start):
            raise DataError("data.impossible_window", window=start)
        columns = self._columns.get(version)
        if columns is not None:
            if not set(columns) & set(profile.columns):
                raise DataError("data.unknown_columns", version=version)
            profile = profile.select_columns(columns)
        windows = self.profiles.setdefault(version, {})
        if start in windows:
            windows[start].merge(profile)
        elif version in self._columns and start <= self.closed_until:
            raise DataError("data.closed_window", version=version, window=start)
        else:
            windows[start] = profile
        self._enforce_limits()

    def closable(self, version: str, policy: DriftPolicy) -> list[float]:
        """Windows that can close, because a later one has ``min_rows`` rows; ascending."""
        windows = self.profiles.get(version, {})
        full = [start for start, profile in windows.items() if profile.rows >= policy.min_rows]
        return self.ending_by(version, max(full, default=-math.inf) - policy.lateness_s, policy)

    def ending_by(self, version: str, time_s: float, policy: DriftPolicy) -> list[float]:
        """Open windows that end at ``time_s`` or earlier; ascending."""
        starts = self.profiles.get(version, {})
        return sorted(s for s in starts if s > self.closed_until and s + policy.window_s <= time_s)

    def close(self, version: str, start: float, policy: DriftPolicy) -> tuple[tuple[float, ...], Profile]:
        """Close a window.

        A window with fewer than ``min_rows`` rows is dropped and is a run by itself. Windows that a coming run needs
        still accept late rows. With windows by count, a run consists of all windows since the last full one.

        Returns:
            The starts of the windows of the run that ends with this one, and their merged profile.
        """
        windows = self.profiles[version]
        self.closed_until = max(self.closed_until, start)
        by_count = policy.window_rows is not None
        if not by_count and windows[start].rows < policy.min_rows:
            return (start,), windows.pop(start)
        starts = tuple(sorted(s for s in windows if s <= start))
        if not by_count:
            starts = starts[-policy.span :]
        run = Profile.empty(windows[start].columns)
        for each in starts:
            run.merge(windows[each])
        if policy.window_rows is None:
            stale = [s for s in windows if s < starts[0]]
        else:
            stale = list(starts) if run.rows >= policy.window_rows else []
        for each in stale:
            del windows[each]
        return starts, run

    def to_text(self) -> dict[str, dict[str, str]]:
        """Every profile as JSON text, by version and window start."""
        return {
            version: {repr(start): profile.to_bytes().decode() for start, profile in windows.items()}
            for version, windows in self.profiles.items()
        }

    def restore(self, text: Mapping[str, Mapping[str, str]], closed_until: float) -> None:
        """Restore what ``to_text`` returned.

        Raises:
            DataError: A profile is damaged.
        """
        self.profiles = {
            version: {float(start): Profile.from_bytes(profile.encode()) for start, profile in windows.items()}
            for version, windows in text.items()
        }
        self.closed_until = closed_until

    def _enforce_limits(self) -> None:
        while len(self.profiles) > MAX_VERSIONS:
            del self.profiles[next(v for v in self.profiles if v not in self._columns)]
        for windows in self.profiles.values():
            if len(windows) > MAX_WINDOWS:
                del windows[min(windows, key=lambda start: windows[start].rows)]
