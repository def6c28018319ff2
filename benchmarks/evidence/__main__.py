"""The command line of the benchmark of evidence; a section is a function of (small, progress) that yields rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import results
from benchmarks.evidence import estimates, ladder, late_labels, leak, quiet_year, rebuild, sabotage, split
from benchmarks.evidence import rows as rows_to_harm
from benchmarks.options import listed
from benchmarks.progress import ProgressPrinter
from benchmarks.results import Row

AREA = "evidence"
_ABOUT = """\
One row of the table is one claim about evidence on generated data whose truth is known: rayloop's value, that of what
it is compared with, the target, and whether it is met. Seeds are fixed. docs/evidence.md explains the terms."""

SECTIONS: dict[str, Callable[[bool, Callable[[str], None]], Iterable[Row]]] = {
    "leak": leak.rows,
    "quiet-year": quiet_year.rows,
    "estimates": estimates.rows,
    "rows": rows_to_harm.rows,
    "ladder": ladder.rows,
    "sabotage": sabotage.rows,
    "sound": sabotage.sound_rows,
    "split": split.rows,
    "rebuild": rebuild.rows,
    "late-labels": late_labels.rows,
}


def main() -> None:
    """Run the chosen sections and write the results of each when it ends."""
    arguments, host, progress = _arguments(sys.argv[1:]), results.machine(), ProgressPrinter()
    for name in arguments.only:
        rows = list(SECTIONS[name](arguments.small, progress))
        progress(f"{name} written to {results.write(AREA, rows, _versions(), _ABOUT, arguments.out, host)}")


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument("--only", type=listed(SECTIONS), default=tuple(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--small", action="store_true", help="few seeds, for a trial")
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="folder of the results")
    return parser.parse_args(words)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("numpy", "polars", "scipy", "lightgbm")}


if __name__ == "__main__":
    main()
