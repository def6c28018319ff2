"""The cluster of hosts: its tests run, and what they measure is the table's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.results import Row

ROOT = Path(__file__).parents[2]
TESTS = ("test_door", "test_faults", "test_training", "test_join", "test_schedules")
VARIABLE = "RAYLOOP_FIGURES"
"""Names the file that tests add their rows to."""


def measure(tests: Sequence[str], progress: Callable[[str], None]) -> Iterator[Row]:
    """Run modules of ``tests/hosts``; yield the rows that they add.

    Args:
        tests: Names of the modules.
        progress: Gets a line for each test that ends.
    """
    paths = [f"tests/hosts/{name}.py" for name in tests]
    command = [sys.executable, "-u", "-m", "pytest", "-v", "-p", "no:cacheprovider", "-m", "hosts", *paths]
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures"
        environment = os.environ | {VARIABLE: str(figures)}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            for line in run.stdout:
                progress(line.rstrip())
        rows = figures.read_text().splitlines() if figures.exists() else []
    for row in rows:
        yield Row.model_validate_json(row)
    if run.returncode:
        progress(f"a test failed: pytest ended with {run.returncode}")
