"""What a person gets who types something wrong: one line, exit code 2, no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.local_cluster import free_port

REPOSITORY = Path(__file__).parents[3]


def rayloop(*words: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    ports = {f"RAYLOOP_{p}_PORT": str(free_port()) for p in ("DASHBOARD", "SERVE", "GCS", "MLFLOW")}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAYLOOP_")}
    environment |= {"RAYLOOP_HOME": str(home), **ports, **variables}
    command = [sys.executable, "-m", "rayloop", *words]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=REPOSITORY, timeout=120, check=False
    )


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.fixture
def taken_port() -> str:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield str(holder.getsockname()[1])


def test_no_cluster(tmp_path: Path) -> None:
    assert_one_line(rayloop("run", "examples.flights.project", home=tmp_path), "no Ray cluster answers", "rayloop up")
    assert_one_line(rayloop("status", home=tmp_path), "rayloop up")


def test_no_project(tmp_path: Path) -> None:
    assert_one_line(rayloop("run", "nowhere/project.py", home=tmp_path), "nowhere/project.py")


def test_a_port_in_use_names_the_port_and_the_variable(tmp_path: Path, taken_port: str) -> None:
    done = rayloop("up", home=tmp_path, RAYLOOP_SERVE_PORT=taken_port)
    assert_one_line(done, taken_port, "RAYLOOP_SERVE_PORT", str(os.getpid()))
    assert not (tmp_path / "cluster.json").exists()


def test_a_setting_that_is_no_port(tmp_path: Path) -> None:
    assert_one_line(rayloop("up", home=tmp_path, RAYLOOP_SERVE_PORT="eighty"), "RAYLOOP_SERVE_PORT='eighty'")


def test_an_mlflow_that_is_away(tmp_path: Path) -> None:
    done = rayloop("doctor", home=tmp_path, RAYLOOP_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "FAIL  mlflow: MLflow at" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_down_when_nothing_runs(tmp_path: Path) -> None:
    done = rayloop("down", home=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "nothing was running")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("forget", "--entity", "tailnum"), "--entity column=value"),
        (("forget", "--entity", "dep_delay=5"), "keeps nobody by dep_delay; name one of carrier, dest"),
        (("backfill", "--view", "weather", "--since", "yesterday"), "--since 'yesterday' is no time"),
    ],
)
def test_what_cannot_be_forgotten_or_filled(tmp_path: Path, words: tuple[str, ...], part: str) -> None:
    assert_one_line(rayloop(words[0], "examples.flights.project", *words[1:], home=tmp_path), part)
