"""The local cluster without Ray: which processes are its own, what it starts, and what it refuses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from cluster import local_cluster
from cluster.errors import ClusterUnavailable, OutOfMemory, RayloopError
from cluster.node.environment import local_environment
from cluster.node.ports import agent_ports, free_port
from cluster.node.private_files import close_files
from cluster.node.session import SESSION_VARIABLE, processes, require_current_layout
from cluster.settings import Settings
from tests.factories.errors import raises


def test_start_with_too_little_memory_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 30))
    settings = Settings(home=tmp_path / "home")
    with raises(OutOfMemory, "memory.too_little", available_gib=1.0):
        local_cluster.start(settings)
    assert not settings.home.exists()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    ports = {name: free_port() for name in Settings.model_fields if name.endswith("_port")}
    return Settings(home=tmp_path / "missing" / "home", **ports)


@pytest.fixture
def session(settings: Settings) -> str:
    """The session of a cluster of this layout, which has no process yet."""
    settings.home.mkdir(parents=True)
    (settings.home / "cluster.json").write_text('{"session": "one", "layout": 2}')
    return "one"


def test_processes_are_those_of_the_session_and_their_children(settings: Settings, session: str) -> None:
    shell = ["sh", "-c", f"env -u {SESSION_VARIABLE} sleep 60 & echo $!; wait"]
    own, other = (
        subprocess.Popen(shell, env=os.environ | {SESSION_VARIABLE: name}, stdout=subprocess.PIPE)
        for name in (session, "another")
    )
    children = [int(each.stdout.readline()) for each in (own, other)]
    try:
        assert {process.pid for process in processes(settings)} == {own.pid, children[0]}
    finally:
        for pid in (own.pid, other.pid, *children):
            psutil.Process(pid).kill()
        for each in (own, other):
            each.communicate()


def test_processes_of_a_home_without_cluster_are_none(settings: Settings) -> None:
    assert processes(settings) == []


@pytest.mark.parametrize(
    ("stored", "release", "layout"),
    [('{"session": "one"}', "an earlier", 1), ('{"session": "one", "layout": 1000}', "a later", 1000)],
)
def test_running_cluster_of_another_release_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stored: str, release: str, layout: int
) -> None:
    settings.home.mkdir(parents=True)
    (settings.home / "cluster.json").write_text(stored)
    monkeypatch.setattr("cluster.node.session.processes", lambda settings: [psutil.Process()])
    monkeypatch.setattr("cluster.node.session.listens", lambda port: True)
    with raises(ClusterUnavailable, "cluster.other_release", release=release, layout=layout):
        require_current_layout(settings)


def test_ports_of_replicas_are_disjoint_ranges_without_gaps(settings: Settings) -> None:
    variables = local_environment(settings)

    def port(name: str) -> int:
        return int(variables[f"RAY_SERVE_{name}_PORT"]) - settings.replica_ports_from

    http, grpc = (
        range(port(f"DIRECT_INGRESS_MIN_{kind}"), port(f"DIRECT_INGRESS_MAX_{kind}") + 1) for kind in ("HTTP", "GRPC")
    )
    proxies = [port(f"FALLBACK_PROXY_{kind}") for kind in ("HTTP", "GRPC")]
    assert [*http, *grpc, *proxies] == list(range(1002))
    assert len(http) == len(grpc)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with programs in place of Ray and of MLflow's server, which listens."""
    folder = tmp_path / "bin"
    folder.mkdir()
    listen = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"
    _write_program(folder / "python", f'exec {sys.executable} -S -c "{listen}" "$7"')
    _write_program(folder / "ray", "exit 0")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 40))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    # Ends nothing: these tests end the one server themselves.
    monkeypatch.setattr(local_cluster, "stop", lambda settings: 0)
    children: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def record(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        children.append(popen(*arguments, **options))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", record)
    yield folder
    for child in children:
        child.kill()
        child.wait()


def _write_program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def test_start_creates_the_home_and_a_server_that_outlives_the_terminal(settings: Settings, programs: Path) -> None:
    assert local_cluster.start(settings)
    (server,) = processes(settings)
    assert os.getsid(server.pid) == server.pid, "a session of its own: Ctrl-C in the terminal does not reach it"
    assert (settings.home / "cluster.json").exists()


def test_start_without_token_fails_when_ray_generates_none(settings: Settings, programs: Path) -> None:
    _write_program(programs / "ray", '[ "$1" != get-auth-token ]')
    with pytest.raises(subprocess.CalledProcessError):
        local_cluster.start(settings)
    assert processes(settings) == []


@pytest.fixture
def open_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose home, state and token every user of the machine can read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path / ".ray", tmp_path / ".rayloop", tmp_path / ".rayloop" / "online"):
        folder.mkdir()
        folder.chmod(0o755)
    for file in (tmp_path / ".ray" / "auth_token", tmp_path / ".rayloop" / "online" / "data.mdb"):
        file.touch()
        file.chmod(0o644)
    (tmp_path / ".rayloop" / "gone").symlink_to(tmp_path / "nowhere")
    return Settings(home=tmp_path / ".rayloop")


def test_close_files_closes_the_home_and_the_token_once(open_settings: Settings, tmp_path: Path) -> None:
    token, state = tmp_path / ".ray" / "auth_token", open_settings.home / "online" / "data.mdb"
    assert close_files(open_settings) == 4
    assert [path.stat().st_mode & 0o777 for path in (token, state, open_settings.home)] == [0o600, 0o600, 0o700]
    assert close_files(open_settings) == 0


def test_close_files_names_a_file_of_another_user(open_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    with raises(RayloopError, "rayloop.file_open_to_others"):
        close_files(open_settings)


def test_agents_get_a_free_port_each_unless_the_command_gives_one() -> None:
    options = dict(option.split("=") for option in agent_ports(["ray", "start", "--metrics-export-port=8080"]))
    assert set(options) == {
        "--dashboard-agent-grpc-port", "--dashboard-agent-listen-port", "--runtime-env-agent-port",
    }  # fmt: skip
    assert len(set(options.values())) == 3
    for port in options.values():
        # Free again.
        socket.create_server(("", int(port))).close()
