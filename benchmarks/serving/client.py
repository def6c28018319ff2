"""Run load generators, and send single requests."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.serving.drivers import DRAIN_S
from benchmarks.serving.http import Response, parse_response
from benchmarks.serving.plan import LoadPlan, Report

ROOT = Path(__file__).parents[2]
_START_S = 30.0
_RECEIVE_BYTES = 1 << 16


class Running:
    """A running load generator."""

    def __init__(self, plan: LoadPlan, process: subprocess.Popen[str]) -> None:
        self._plan, self._process = plan, process
        self._first = ""

    def wait_for_first(self) -> None:
        """Wait for the first response."""
        assert self._process.stdout is not None
        self._first = self._process.stdout.readline()

    def report(self) -> Report:
        """Wait for the end and return the report. Raises RuntimeError when the load generator failed."""
        limit_s = _START_S + self._plan.warm_up_s + self._plan.seconds + DRAIN_S
        out, errors = self._process.communicate(timeout=limit_s)
        lines = [line for line in out.splitlines() if line != "started"]
        if self._process.returncode or not lines:
            raise RuntimeError(f"the load generator failed: {errors.strip()[-500:]}")
        return Report(**json.loads(lines[-1]))


@contextmanager
def loading(plan: LoadPlan) -> Iterator[Running]:
    """Run a load during the block, which gets its report from the yielded object."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.load"],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        process.stdin.write(plan.to_json())
        process.stdin.close()
        # What communicate() would otherwise try to flush.
        process.stdin = None
        yield Running(plan, process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def load(plan: LoadPlan) -> Report:
    """Run a plan and return its report."""
    with loading(plan) as running:
        return running.report()


def send_request(port: int, request: bytes, limit_s: float = 30.0) -> Response:
    """Send one request on a new connection. Raises OSError without a complete response."""
    with socket.create_connection(("127.0.0.1", port), timeout=limit_s) as connection:
        connection.sendall(request)
        buffer = b""
        while (response := parse_response(buffer)) is None:
            received = connection.recv(_RECEIVE_BYTES)
            if not received:
                raise ConnectionError(f"the server hung up after {len(buffer)} bytes")
            buffer += received
        return response
