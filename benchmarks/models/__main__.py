"""The command line of the benchmark of models; a section is a function of (small, progress) that yields rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import results
from benchmarks.models import label_queue
from benchmarks.options import listed
from benchmarks.progress import ProgressPrinter
from benchmarks.results import Row

AREA = "models"
_ABOUT = """\
One row of the table is one claim about models or about the labels that train them. Seeds are fixed. docs/labels.md and
docs/training.md explain the terms."""

SECTIONS: dict[str, Callable[[bool, Callable[[str], None]], Iterable[Row]]] = {"label-queue": label_queue.rows}


def main() -> None:
    """Run the chosen sections and write the results of each when it ends."""
    arguments, host, progress = _arguments(sys.argv[1:]), results.machine(), ProgressPrinter()
    for name in arguments.only:
        rows = list(SECTIONS[name](arguments.small, progress))
        progress(f"{name} written to {results.write(AREA, rows, _versions(), _ABOUT, arguments.out, host)}")


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument("--only", type=listed(SECTIONS), default=tuple(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--small", action="store_true", help="few seeds, for a trial")
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="folder of the results")
    return parser.parse_args(words)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("numpy", "scikit-learn")}


if __name__ == "__main__":
    main()
