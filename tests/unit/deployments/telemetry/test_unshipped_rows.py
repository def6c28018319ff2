"""The unshipped rows of a replica are known once it is dead, and only then."""

import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_unshipped_counters_of_one_folder_are_apart(tmp_path: Path) -> None:
    first, second = UnshippedCounter(tmp_path, "first"), UnshippedCounter(tmp_path, "second")
    second.add("labels", 1)
    first.close()
    assert [path.name for path in tmp_path.iterdir()] == ["second"]
    second.close()


def test_close_after_the_file_was_removed_does_nothing(tmp_path: Path) -> None:
    counter = UnshippedCounter(tmp_path, "removed")
    (tmp_path / "removed").unlink()
    counter.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        # Version 1 ends with the counts; a version beyond 2 is left to replicas that know it.
        ((5, 7), {"predictions": 5, "labels": 7}),
        ((5, 7, 2), {"predictions": 5, "labels": 7}),
        ((5, 7, 3), None),
        ((5, 7, 3, 9), None),
    ],
)
def test_read_remainders_follows_the_version_behind_the_counts(
    tmp_path: Path, words: tuple[int, ...], rows: dict[str, int] | None
) -> None:
    (tmp_path / "dead").write_bytes(struct.pack(f"={len(words)}q", *words))
    assert unshipped(tmp_path) == ({} if rows is None else {"dead": rows})
