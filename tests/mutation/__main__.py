"""``python -m tests.mutation``: seed faults into pure modules, and count those that unit tests notice.

A fault changes one operator, number or condition of one line. Each is tried in a process of its own, forked from one
that has imported the heavy libraries: first by the tests of the module itself, then by the other unit tests that import
it. The run fails when fewer than 90% of the faults are noticed, or when sample.csv has no reason for a surviving one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.mutation import sample
from tests.mutation.faults import Fault
from tests.mutation.runner import CRASH, TIME_LIMIT, Outcome, run

REQUIRED_SHARE = 0.9


def main() -> int:
    arguments = _arguments()
    if arguments.renew:
        sample.write(sample.renew(arguments.faults, arguments.seed))
        return 0
    entries = [entry for entry in sample.read() if entry.module.startswith(arguments.only)]
    faults = sample.faults(entries)
    if gone := len(entries) - len(faults):
        print(f"{gone} of {len(entries)} faults are gone with their lines; --renew draws others", flush=True)
    started, outcomes = time.monotonic(), []
    for outcome in run(faults, arguments.jobs):
        outcomes.append(outcome)
        noticed = sum(each.noticed for each in outcomes)
        if outcome.noticed_by in ("", TIME_LIMIT, CRASH):
            print(f"{outcome.noticed_by or 'NOT NOTICED'}  {outcome.fault}", flush=True)
        if len(outcomes) % 20 == 0:
            print(f"{len(outcomes)}/{len(faults)}: {noticed} noticed, {time.monotonic() - started:.0f} s", flush=True)
    _save(arguments.out, outcomes)
    return _judge(outcomes, {entry[:3]: entry.reason for entry in entries})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.mutation", description=__doc__)
    parser.add_argument("--only", default="", help="of the sample, the modules whose dotted name starts with this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/mutation.json"))
    parser.add_argument("--renew", action="store_true", help="replace faults of the sample whose lines are gone")
    parser.add_argument("--faults", type=int, default=500, help="size of the renewed sample")
    parser.add_argument("--seed", type=int, default=1, help="seed of the renewed sample")
    return parser.parse_args()


def _judge(outcomes: list[Outcome], reasons: dict[tuple[str, ...], str]) -> int:
    survivors = [outcome.fault for outcome in outcomes if not outcome.noticed]
    unexplained = [fault for fault in survivors if not reasons[fault.key]]
    share = 1.0 - len(survivors) / len(outcomes)
    print(f"\n{len(outcomes)} faults, {share:.1%} noticed, {len(survivors) - len(unexplained)} harmless by a reason")
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
