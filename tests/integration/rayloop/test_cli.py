"""Errors on the command line: one line that ends with the code, exit code 2, no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.node.ports import free_port
from rayloop import __version__

REPOSITORY = Path(__file__).parents[3]


def rayloop(*words: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    ports = {f"RAYLOOP_{p}_PORT": str(free_port()) for p in ("DASHBOARD", "SERVE", "GCS", "MLFLOW")}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAYLOOP_")}
    environment |= {"RAYLOOP_HOME": str(home), **ports, **variables}
    command = [sys.executable, "-m", "rayloop", *words]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=REPOSITORY, timeout=120, check=False
    )


def assert_one_line(process: subprocess.CompletedProcess[str], code: str, *parts: str) -> None:
    lines = process.stderr.strip().splitlines()
    assert process.returncode == 2, process.stderr
    assert len(lines) == 1, process.stderr
    assert lines[0].startswith("error: ")
    assert lines[0].endswith(f" [{code}]")
    for part in parts:
        assert part in lines[0]


@pytest.fixture
def taken_port() -> str:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield str(holder.getsockname()[1])


def test_command_without_a_cluster_is_one_line(tmp_path: Path) -> None:
    process = rayloop("train", "examples.flights.project", home=tmp_path)
    assert_one_line(process, "cluster.no_answer", "rayloop up")
    assert_one_line(rayloop("status", home=tmp_path), "cluster.not_running", "rayloop up")


def test_command_with_an_unknown_project_is_one_line(tmp_path: Path) -> None:
    process = rayloop("run", "nowhere/project.py", home=tmp_path)
    assert_one_line(process, "project.file_not_found", "nowhere/project.py")


def test_up_with_a_port_in_use_names_port_variable_and_process(tmp_path: Path, taken_port: str) -> None:
    process = rayloop("up", home=tmp_path, RAYLOOP_SERVE_PORT=taken_port)
    assert_one_line(process, "cluster.port_in_use", taken_port, "RAYLOOP_SERVE_PORT", str(os.getpid()))
    assert not (tmp_path / "cluster.json").exists()


def test_up_with_an_invalid_setting_is_one_line(tmp_path: Path) -> None:
    process = rayloop("up", home=tmp_path, RAYLOOP_SERVE_PORT="eighty")
    assert_one_line(process, "settings.invalid", "RAYLOOP_SERVE_PORT='eighty'")


def test_doctor_without_mlflow_fails_that_check(tmp_path: Path) -> None:
    process = rayloop("doctor", home=tmp_path, RAYLOOP_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    assert process.returncode == 2
    (line,) = (line for line in process.stdout.splitlines() if line.startswith("FAIL  mlflow: "))
    assert line.endswith("[registry.no_answer]")
    assert "Traceback" not in process.stdout + process.stderr


def test_down_without_a_cluster_succeeds(tmp_path: Path) -> None:
    process = rayloop("down", home=tmp_path)
    assert (process.returncode, process.stdout.strip()) == (0, "nothing was running")


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("forget", "--entity", "tailnum"), "project.invalid_entity", "tailnum"),
        (("forget", "--entity", "dep_delay=5"), "project.unknown_entity_column", "dep_delay"),
        (("backfill", "--view", "weather", "--since", "yesterday"), "rayloop.invalid_time", "yesterday"),
    ],
)
def test_bad_option_is_one_line(tmp_path: Path, words: tuple[str, ...], code: str, part: str) -> None:
    assert_one_line(rayloop(words[0], "examples.flights.project", *words[1:], home=tmp_path), code, part)


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert rayloop("--version", home=tmp_path).stdout == f"rayloop {__version__}\n"
