"""The unshipped rows of a replica are known once it is dead, and only then."""

import signal
import subprocess
import sys
from pathlib import Path

from deployments.telemetry.unshipped_rows import UnshippedCounter, read_remainders

REPLICA = """
import os, signal, sys
from pathlib import Path
from deployments.telemetry.unshipped_rows import UnshippedCounter

counter = UnshippedCounter(Path(sys.argv[1]), "killed")
counter.add("predictions", 70)
counter.add("labels", 3)
counter.add("predictions", -20)
print("counted", flush=True)
sys.stdin.readline()
counter.add("predictions", 5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def unshipped(folder: Path) -> dict[str, dict[str, int]]:
    return {remainder.replica: remainder.rows for remainder in read_remainders(folder)}


def test_read_remainders_after_a_kill_yields_the_unshipped_rows(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", REPLICA, str(tmp_path)], stdin=pipe, stdout=pipe, text=True
    ) as replica:
        assert replica.stdout is not None
        assert replica.stdout.readline() == "counted\n"
        assert unshipped(tmp_path) == {}, "the replica runs"
        replica.communicate("go\n")
    assert replica.returncode == -signal.SIGKILL
    assert unshipped(tmp_path) == {"killed": {"predictions": 55, "labels": 3}}
    for remainder in read_remainders(tmp_path):
        assert unshipped(tmp_path) == {}, "locked while it is handled"
        remainder.forget()
    assert unshipped(tmp_path) == {}


def test_read_remainders_after_close_is_empty(tmp_path: Path) -> None:
    counter = UnshippedCounter(tmp_path / "counters", "closed")
    counter.add("labels", 1)
    assert unshipped(tmp_path / "counters") == {}
    counter.close()
    counter.add("labels", 1)
    assert list((tmp_path / "counters").iterdir()) == []


def test_read_remainders_without_a_folder_is_empty(tmp_path: Path) -> None:
    assert unshipped(tmp_path / "none") == {}
