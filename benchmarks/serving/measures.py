"""Names of measures, and the values measured so far by server and measure, with failures."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.results import median_or_none
from benchmarks.serving.environments import InstallFailed
from benchmarks.serving.processes import ServerFailed

RATE, P50, P99, LATE = "requests/s", "p50 ms", "p99 ms", "ms late left the load (p99)"
CANARY, CHALLENGED = "requests/s, canary", "challenger's share"
SHADOWED, UNSHADOWED = "p99 ms, shadowed", "p99 ms, not shadowed"
COPIED, UNCOPIED = "requests/s, canary with copies", "requests/s, canary without"
COPIED_P99, UNCOPIED_P99 = "p99 ms, canary with copies", "p99 ms, canary without"
COPIED_CPU, UNCOPIED_CPU = "CPU ms a request, canary with copies", "CPU ms a request, canary without"
OPEN_COPIED_CPU, OPEN_UNCOPIED_CPU = "CPU ms a request, open, with copies", "CPU ms a request, open, without"
COPIES, OPEN_COPIES = "requests copied, full load", "requests copied, open load"
REPORTING, LOGGING, SILENT = "requests/s, reporting", "requests/s, log alone", "requests/s, silent"
TENSORS, LOST = "rows/s, tensors", "share of rows not logged"
TREES, BESIDE_TREES, PARITY = "requests/s, trees", "requests/s, the MLP beside trees", "trees: graph against library"
ABORT, WEIGHTS = "abort ms", "weight change ms"
LOGGED, PROFILED = "rows logged per answer", "rows profiled per answer"

_FAILURES = (ServerFailed, InstallFailed, OSError, subprocess.SubprocessError, ValueError)


class Measurements:
    """Values of each repeat, notes and failures; ``progress`` reports each."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._values: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._notes: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._failed: dict[str, str] = {}

    def add(self, name: str, measure: str, value: float) -> None:
        self._values[name, measure].append(value)
        self._progress(f"{name}: {value:,.4g} {measure}")

    def note(self, name: str, measure: str, text: str) -> None:
        """Add a remark that a reader of the row needs, such as failed requests."""
        self._notes[name, measure].append(text)
        self._progress(f"{name}: {measure}: {text}")

    def notes(self, name: str, measure: str) -> str:
        return "; ".join(dict.fromkeys(self._notes[name, measure]))

    def values(self, name: str, measure: str) -> list[float]:
        return self._values[name, measure]

    def median(self, name: str, measure: str) -> float | None:
        return median_or_none(self._values[name, measure])

    def failure(self, name: str) -> str:
        """Return why a server could not be run, or an empty string."""
        return self._failed.get(name, "")

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Guard a block that uses a server: after a failure the server is not tried again."""
        try:
            yield
        except _FAILURES as error:
            self._failed[name] = f"{type(error).__name__}: {error}"
            self._progress(f"{name} could not be run: {self._failed[name]}")

    @contextmanager
    def measuring(self, name: str, measure: str) -> Iterator[None]:
        """Guard the measurement of one measure: a failure becomes a note."""
        try:
            yield
        except _FAILURES as error:
            self.note(name, measure, f"{type(error).__name__}: {error}")
