"""The command line of the feature benchmark; a section is a function of (small, progress) that yields rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import results
from benchmarks.features import offline, online
from benchmarks.features.joined import joined_rows
from benchmarks.features.request import request_rows
from benchmarks.progress import ProgressPrinter

AREA = "features"
SECTIONS = {
    "flights": offline.flights_rows,
    "feast": offline.feast_rows,
    "feast_ray": offline.feast_ray_rows,
    "generated": offline.generated_rows,
    "large": offline.large_rows,
    "embedded": online.embedded_rows,
    "redis": online.redis_rows,
    "request": request_rows,
    "joined": joined_rows,
}
_ABOUT = """\
One row of the table is one comparison: rayloop's value, the peer's, their ratio, the target, and whether it is met.
docs/benchmarks.md describes the method and what makes it fair."""
_PEER_PINS = Path(__file__).parent / "peers" / "feast" / "requirements.txt"


def main() -> None:
    """Run the chosen sections and write the results after each."""
    arguments, host = _arguments(sys.argv[1:]), results.machine()
    progress = ProgressPrinter()
    for name in arguments.only:
        rows = SECTIONS[name](arguments.small, progress)
        progress(f"{name}: written to {results.write(AREA, rows, _versions(), _ABOUT, arguments.out, host)}")


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=tuple(SECTIONS), help="others are kept")
    parser.add_argument("--small", action="store_true", help="small tables and one round, for a trial")
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="folder of the results")
    return parser.parse_args(words)


def _versions() -> dict[str, str]:
    own = {name: version(name) for name in ("ray", "polars", "pyarrow", "duckdb")}
    name, _, pinned = _PEER_PINS.read_text().splitlines()[0].partition("==")
    return own | {name: pinned}


if __name__ == "__main__":
    main()
