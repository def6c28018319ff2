"""What a replica owes the log is known when it is dead, and only then."""

import signal
import subprocess
import sys
from pathlib import Path

from deployments.telemetry.unshipped_rows import UnshippedCounter, unsettled

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


def owed(folder: Path) -> dict[str, dict[str, int]]:
    return {debt.replica: debt.rows for debt in unsettled(folder)}


def test_a_killed_replica_leaves_what_it_owed(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", REPLICA, str(tmp_path)], stdin=pipe, stdout=pipe, text=True
    ) as replica:
        assert replica.stdout is not None
        assert replica.stdout.readline() == "counted\n"
        assert owed(tmp_path) == {}, "it lives"
        replica.communicate("go\n")
    assert replica.returncode == -signal.SIGKILL
    assert owed(tmp_path) == {"killed": {"predictions": 55, "labels": 3}}
    for debt in unsettled(tmp_path):
        assert owed(tmp_path) == {}, "somebody is at it"
        debt.forget()
    assert owed(tmp_path) == {}


def test_a_replica_that_closes_owes_nothing_and_may_count_on(tmp_path: Path) -> None:
    counter = UnshippedCounter(tmp_path / "made", "closed")
    counter.add("labels", 1)
    assert owed(tmp_path / "made") == {}
    counter.close()
    counter.add("labels", 1)
    assert list((tmp_path / "made").iterdir()) == []


def test_no_folder_no_debts(tmp_path: Path) -> None:
    assert owed(tmp_path / "none") == {}
