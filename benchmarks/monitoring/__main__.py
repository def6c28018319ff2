"""The command line of the monitoring benchmark: compare rayloop with peers, write results after each section."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import results
from benchmarks.monitoring import delay, detection, profiling, programs, weeks, wide
from benchmarks.options import listed
from benchmarks.progress import ProgressPrinter
from benchmarks.results import Row

AREA = "monitoring"
_ABOUT = """\
One row of the table is one comparison: rayloop's value, the peer's, their ratio, the target, and whether it is met.
Streams are seeded and the same for all; peers run with their defaults in environments of their own.
docs/benchmarks.md describes the method and what makes it fair."""
Progress = Callable[[str], None]
_KINDS = tuple(dict.fromkeys(change.kind for change in detection.CHANGES))


def _false_alarms(arguments: argparse.Namespace, progress: Progress) -> Iterator[Row]:
    return detection.false_alarms(detection.Workload.of(arguments.windows, arguments.sizes), progress)


def _power(arguments: argparse.Namespace, progress: Progress) -> Iterator[Row]:
    changes = [change for change in detection.CHANGES if change.kind in arguments.changes]
    return detection.power(detection.Workload.of(arguments.windows), changes, progress)


def _delay(arguments: argparse.Namespace, progress: Progress) -> Iterator[Row]:
    return delay.rows(progress)


def _profiling(arguments: argparse.Namespace, progress: Progress) -> Iterator[Row]:
    return profiling.rows(arguments.rows, arguments.repeats, progress)


def _weeks(arguments: argparse.Namespace, progress: Progress) -> Iterator[Row]:
    return weeks.rows(progress)


def _wide(arguments: argparse.Namespace, progress: Progress) -> Iterator[Row]:
    return wide.rows(arguments.wide_rows, progress)


SECTIONS: dict[str, Callable[[argparse.Namespace, Progress], Iterator[Row]]] = {
    "false_alarms": _false_alarms,
    "power": _power,
    "delay": _delay,
    "profiling": _profiling,
    "weeks": _weeks,
    "wide": _wide,
}


def main() -> None:
    """Run the chosen sections and write the results of each when it ends."""
    arguments, host, progress = _arguments(sys.argv[1:]), results.machine(), ProgressPrinter()
    for name in arguments.only:
        rows = list(SECTIONS[name](arguments, progress))
        progress(f"{name} written to {results.write(AREA, rows, _versions(), _ABOUT, arguments.out, host)}")


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitoring", description=__doc__)
    parser.add_argument("--only", type=listed(SECTIONS), default=tuple(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--windows", type=int, default=100, help="windows of each kind; fewer at a million rows")
    parser.add_argument("--sizes", type=_sizes, default=detection.SIZES, help="rows of a window, for false alarms")
    parser.add_argument("--changes", type=listed(_KINDS), default=_KINDS, help=f"some of {','.join(_KINDS)}, for power")
    parser.add_argument("--rows", type=int, default=100_000, help="rows that are profiled")
    parser.add_argument("--wide-rows", type=int, default=500_000, help="rows of the 1,000 columns that are profiled")
    parser.add_argument("--repeats", type=int, default=5, help="how often they are profiled")
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="folder of the results")
    return parser.parse_args(words)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _versions() -> dict[str, str]:
    own = {name: version(name) for name in ("datasketches", "numpy", "scipy", "lightgbm", "scikit-learn")}
    return own | programs.versions()


if __name__ == "__main__":
    main()
