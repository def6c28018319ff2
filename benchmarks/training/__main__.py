"""The command line of the training benchmark: sections, most of them measured on a cluster that this starts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import results
from benchmarks.progress import ProgressPrinter
from benchmarks.results import Row
from benchmarks.serving.environments import pinned
from benchmarks.training import checkpoints, quality, speed, sweep
from benchmarks.training.case import TrainingCase, arguments, cluster, flights
from benchmarks.training.runs import PEERS
from trainers.data.datasets import TrainingData

AREA = "training"
SECTIONS = ("steady", "first_epoch", "fit_overhead", "checkpoint", "sweep", "quality")

Section = Callable[[Callable[[str], None]], list[Row]]
_ABOUT = """\
One row of the table is one comparison: rayloop's value, the peer's, their ratio, the target, and whether it is met.
docs/benchmarks.md describes the method and what makes it fair."""


def main() -> None:
    """Run the chosen sections and write the results after each."""
    arguments, host, progress = _arguments(sys.argv[1:]), results.machine(), ProgressPrinter()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    case = flights(arguments.folder, progress)
    for work in _works(case, arguments.only, arguments.rounds, arguments.folder):
        progress(f"written to {results.write(AREA, work(progress), _versions(), _ABOUT, arguments.out, host)}")


def _works(case: TrainingCase, arguments: Sequence[str], rounds: int, folder: Path) -> Iterator[Section]:
    """Three sections come from the same runs; only quality needs no cluster."""
    of_runs = {*arguments} & {"steady", "first_epoch", "fit_overhead"}
    if of_runs or {*arguments} & {"checkpoint", "sweep"}:
        with cluster(folder):
            data = TrainingData(case.table)
            if of_runs:
                yield lambda progress: [
                    one for one in speed.rows(case, data, rounds, progress) if _section(one) in of_runs
                ]
            if "checkpoint" in arguments:
                yield lambda progress: checkpoints.rows(case, data, rounds, progress)
            if "sweep" in arguments:
                yield lambda progress: sweep.rows(case, data, rounds, progress)
    if "quality" in arguments:
        yield lambda progress: quality.rows(case, progress)


def _section(row: Row) -> str:
    return row.work.partition(":")[0]


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = arguments("python -m benchmarks.training", str(__doc__))
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="others are kept")
    return parser.parse_args(words)


def _versions() -> dict[str, str]:
    own = {name: version(name) for name in ("ray", "torch", "lightgbm", "scikit-learn")}
    lines = (PEERS / "torch" / "requirements.txt").read_text().splitlines()
    assert pinned("torch", PEERS)[1] == own["torch"].partition("+")[0]
    return own | dict([lines[1].split("==")])


if __name__ == "__main__":
    main()
