"""``python -m tests.mutation``: seed faults into pure modules, and count those that unit tests notice.

A fault changes one operator, number or condition of one line. Each is tried in a process of its own, forked from one
that has imported the heavy libraries: first by the tests of the module itself, then by the other unit tests that import
it. The run fails when fewer than 90 % of the faults are noticed, or when a surviving one is missing from harmless/,
which says why no test can notice it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.mutation.faults import Fault, sample
from tests.mutation.harmless import reasons
from tests.mutation.runner import TIME_LIMIT, Outcome, run

REQUIRED_SHARE = 0.9


def main() -> int:
    arguments = _arguments()
    faults = sample(arguments.faults, arguments.seed, arguments.only)
    started, outcomes = time.monotonic(), []
    for outcome in run(faults, arguments.jobs):
        outcomes.append(outcome)
        noticed = sum(each.noticed for each in outcomes)
        if not outcome.noticed or outcome.noticed_by == TIME_LIMIT:
            print(f"{outcome.noticed_by or 'NOT NOTICED'}  {outcome.fault}", flush=True)
        if len(outcomes) % 20 == 0:
            print(f"{len(outcomes)}/{len(faults)}: {noticed} noticed, {time.monotonic() - started:.0f} s", flush=True)
    _save(arguments.out, outcomes)
    return _judge(outcomes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.mutation", description=__doc__)
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="of the sample, the modules whose dotted name starts with this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/mutation.json"))
    return parser.parse_args()


def _judge(outcomes: list[Outcome]) -> int:
    survivors = [outcome.fault for outcome in outcomes if not outcome.noticed]
    known = reasons()
    unexplained = [fault for fault in survivors if fault.key not in known]
    share = 1.0 - len(survivors) / len(outcomes)
    print(
        f"\n{len(outcomes)} faults, {share:.1%} noticed, {len(survivors) - len(unexplained)} harmless by their reasons"
    )
    for fault in unexplained:
        print(f"unexplained: {fault}")
    return int(share < REQUIRED_SHARE or bool(unexplained))


def _save(path: Path, outcomes: list[Outcome]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"fault": _row(each.fault), "noticed_by": each.noticed_by, "seconds": each.seconds} for each in outcomes]
    path.write_text(json.dumps(rows, indent=1))


def _row(fault: Fault) -> dict[str, object]:
    return {"module": fault.module, "line": fault.line, "before": fault.before, "after": fault.after}


if __name__ == "__main__":
    sys.exit(main())
