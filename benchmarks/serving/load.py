"""The load generator, in its own process: pre-encoded requests over persistent connections.

``python -m benchmarks.serving.load`` reads a plan as JSON from standard input, prints ``started`` after the first
response, and a report as JSON at the end.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import sys
from collections.abc import Mapping
from typing import Any

import uvloop

from benchmarks.serving.drivers import Closed, Open
from benchmarks.serving.plan import LoadPlan, Report


def _loop(plan: LoadPlan) -> asyncio.AbstractEventLoop:
    # Timers of epoll, uvloop's too, are whole milliseconds; those of select are exact, and its cost is negligible at
    # such rates.
    return asyncio.SelectorEventLoop(selectors.SelectSelector()) if plan.rate else uvloop.new_event_loop()


async def _run(plan: LoadPlan) -> Report:
    load = Open(plan) if plan.rate else Closed(plan)
    return await load.run()


def main(lines: str) -> Mapping[str, Any]:
    """Run a plan given as JSON."""
    plan = LoadPlan.from_json(lines)
    loop = _loop(plan)
    report = loop.run_until_complete(_run(plan))
    return report._asdict()


if __name__ == "__main__":
    print(json.dumps(main(sys.stdin.read())), flush=True)
