"""The command line of a benchmark in sections; a section is a function of (small, progress) that yields rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import results
from benchmarks.options import listed
from benchmarks.progress import ProgressPrinter
from benchmarks.results import Row

Section = Callable[[bool, Callable[[str], None]], Iterable[Row]]


def run_sections(area: str, about: str, sections: Mapping[str, Section], packages: Sequence[str]) -> None:
    """Run the sections that the command line chooses, and write the results of each when it ends.

    Args:
        area: Name of the benchmark, of its package and of its files of results.
        about: What the results are, for their reader.
        sections: All sections, by name.
        packages: Packages whose versions the results name.
    """
    arguments = _arguments(area, sections, sys.argv[1:])
    host, progress, versions = results.machine(), ProgressPrinter(), {name: version(name) for name in packages}
    for name in arguments.only:
        rows = list(sections[name](arguments.small, progress))
        progress(f"{name} written to {results.write(area, rows, versions, about, arguments.out, host)}")


def _arguments(area: str, sections: Mapping[str, Section], words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{area}", description=f"The benchmark of {area}.")
    parser.add_argument("--only", type=listed(sections), default=tuple(sections), help=f"some of {','.join(sections)}")
    parser.add_argument("--small", action="store_true", help="few seeds, for a trial")
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="folder of the results")
    return parser.parse_args(words)
