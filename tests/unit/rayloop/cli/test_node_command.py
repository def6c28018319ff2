"""The supervisor of a node, with a program in place of Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster import local_cluster
from cluster.errors import ClusterUnavailable
from cluster.node.session import open_session, processes
from cluster.settings import Settings
from rayloop.cli import node_command
from tests.factories.errors import raises
from tests.factories.until import until

SUPERVISE = """
import sys
from pathlib import Path
from cluster.settings import Settings
from rayloop.cli import node_command
sys.executable, home, node_command.START_S = sys.argv[1], sys.argv[2], float(sys.argv[3])
node_command.STOPPED_S = node_command.RESTART_S = 0.1
node_command.supervise_node(Settings(home=Path(home)), ["ray", "start", "--address=head:6379"])
"""
NODE = """#!/bin/sh
echo "$@" >>{folder}/calls
[ ! -e {folder}/hangs ] || exec sleep 60
{folder}/raylet 60 &
# As Ray's own command, it reports the start of a raylet that is there: between fork and exec it has another name.
until read -r name </proc/$!/comm && [ "$name" = raylet ]; do :; done
echo "Ray runtime started."
wait
[ ! -e {folder}/lives-on ] || exec sleep 60
exit 1
"""


class Node:
    """A supervised node whose programs are in a folder."""

    def __init__(self, folder: Path, start_s: float, variables: Mapping[str, str]) -> None:
        self.folder, self.settings = folder, Settings(home=folder / "home")
        self.settings.home.mkdir(parents=True)
        shutil.copy("/bin/sleep", folder / "raylet")
        (folder / "ray").write_text(NODE.format(folder=folder))
        (folder / "ray").chmod(0o755)
        environment = os.environ | open_session(self.settings) | variables
        command = [sys.executable, "-c", SUPERVISE, str(folder / "python"), str(self.settings.home), str(start_s)]
        self.supervisor = subprocess.Popen(command, env=environment, start_new_session=True)

    def raylet(self) -> psutil.Process | None:
        with suppress(psutil.NoSuchProcess):
            running = (p for p in processes(self.settings) if p.name() == "raylet")
            return next((p for p in running if p.status() != psutil.STATUS_ZOMBIE), None)
        return None

    def door(self) -> psutil.Process | None:
        """The program in place of the door."""
        with suppress(psutil.NoSuchProcess):
            return next((p for p in processes(self.settings) if "cluster.door" in p.cmdline()), None)
        return None

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "bin"
    path.mkdir()
    return path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    class Started(Node):
        def __init__(self, start_s: float = 60.0, **variables: str) -> None:
            super().__init__(folder, start_s, variables)
            nodes.append(self)

    yield Started
    for node in nodes:
        local_cluster.stop(node.settings)
        node.supervisor.wait(10)


@pytest.mark.parametrize("lives_on", [False, True])
def test_node_whose_raylet_ended_starts_again(start: Callable[..., Node], folder: Path, lives_on: bool) -> None:
    if lives_on:
        (folder / "lives-on").touch()
    node = start()
    first = until(node.raylet, "the node is up")
    until((node.settings.home / "node.ready").exists, "the node says so")
    first.kill()
    second = until(lambda: (again := node.raylet()) and again.pid != first.pid and again, "the node is up again")
    assert second.pid != first.pid
    assert len(node.calls()) == 2
    assert all(call.startswith("start --address=head:6379 ") and call.endswith(" --block") for call in node.calls())


def test_node_whose_start_hangs_is_started_again(start: Callable[..., Node], folder: Path) -> None:
    (folder / "hangs").touch()
    node = start(start_s=2.0)
    until(node.calls, "it hangs")
    (folder / "hangs").unlink()
    until(node.raylet, "it is up")
    assert len(node.calls()) >= 2


def test_stop_ends_the_supervisor_with_its_node(start: Callable[..., Node]) -> None:
    node = start()
    until(node.raylet, "the node is up")
    # The launcher's `ray stop` ends processes whose name contains "ray::".
    assert "ray::" in psutil.Process(node.supervisor.pid).name()
    assert local_cluster.stop(node.settings) >= 3
    assert node.supervisor.wait(10) is not None
    assert processes(node.settings) == []


@pytest.fixture
def door_program(folder: Path) -> None:
    """A program in place of Python that stays, and holds its arguments."""
    (folder / "python").write_text("#!/bin/sh\nwhile :; do sleep 60; done\n")
    (folder / "python").chmod(0o755)


@pytest.mark.usefixtures("door_program")
def test_door_of_a_node_stays_when_its_raylet_ends_and_starts_again_when_it_ends(start: Callable[..., Node]) -> None:
    node = start(RAYLOOP_DOOR="1")
    raylet, door = until(node.raylet, "the node is up"), until(node.door, "the door is up")
    raylet.kill()
    until(lambda: (again := node.raylet()) and again.pid != raylet.pid, "the node is up again")
    assert until(node.door, "the door is up").pid == door.pid
    door.kill()
    until(lambda: (again := node.door()) and again.pid != door.pid, "the door is up again")


@pytest.mark.usefixtures("door_program")
def test_stop_ends_the_door_with_its_node(start: Callable[..., Node]) -> None:
    node = start(RAYLOOP_DOOR="1")
    door = until(node.door, "the door is up")
    local_cluster.stop(node.settings)
    assert not door.is_running() or door.status() == psutil.STATUS_ZOMBIE
    assert processes(node.settings) == []


def test_node_has_no_door_by_default(start: Callable[..., Node]) -> None:
    node = start()
    until((node.settings.home / "node.ready").exists, "the node is up")
    assert node.door() is None


def test_command_that_starts_no_node_is_refused(tmp_path: Path) -> None:
    with raises(ClusterUnavailable, "cluster.not_a_node_command", command="ray stop"):
        node_command.start_node(Settings(home=tmp_path / "home"), ["ray", "stop"])


def test_node_that_was_never_started_has_no_last_command(tmp_path: Path) -> None:
    with raises(ClusterUnavailable, "cluster.never_started"):
        node_command.start_node(Settings(home=tmp_path / "home"), [])


def test_node_that_runs_is_not_started_as_it_was_last(start: Callable[..., Node]) -> None:
    node = start()
    first = until(node.raylet, "the node is up")
    until((node.settings.home / "node.ready").exists, "the node says so")
    (node.settings.home / "node.json").write_text('{"command": ["ray", "start", "--address=head:6379"]}')
    node_command.start_node(node.settings, [])
    assert node.raylet() == first
    assert node.supervisor.poll() is None


@pytest.mark.parametrize("words", [["--address=10.0.0.5:6379"], ["--address", "10.0.0.5:6379"]])
def test_worker_finds_the_dashboard_where_its_head_is(tmp_path: Path, words: list[str]) -> None:
    environment = node_command.node_variables(Settings(home=tmp_path), ["ray", "start", *words])
    assert environment["RAYLOOP_ADDRESS"] == "http://10.0.0.5:8265"
    assert "RAY_gcs_storage" not in environment


def test_head_keeps_the_state_of_this_release_and_removes_that_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_REDIS_ADDRESS", raising=False)
    head = ["ray", "start", "--head"]
    store = Path(node_command.node_variables(Settings(home=tmp_path), head)["RAY_gcs_storage_path"])
    (store / "session_name").write_text("session")
    (store.parent / "ray-1.0-layout-1").mkdir()
    assert node_command.node_variables(Settings(home=tmp_path), head)["RAY_gcs_storage"] == "rocksdb"
    assert [path.name for path in store.parent.iterdir()] == [store.name]
    assert (store / "session_name").exists()
    monkeypatch.setenv("RAY_REDIS_ADDRESS", "redis.internal:6379")
    assert "RAY_gcs_storage" not in node_command.node_variables(Settings(home=tmp_path), head)
