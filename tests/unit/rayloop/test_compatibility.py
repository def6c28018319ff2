"""A cluster that another release started is refused before any work is submitted, by functions and by commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
import ray

from cluster import jobs, local_cluster
from cluster.errors import ClusterUnavailable
from cluster.node.session import LAYOUT
from cluster.settings import Settings
from deployments.rollout import serve_details
from rayloop.cli.app import main
from rayloop.compatibility import outdated_applications, require_compatible_cluster
from rayloop.served_models import flush_logs
from tests.factories.errors import raises

# As release 0.1.0 declared them.
EARLIER = {
    "rayloop-front": "deployments.front:build",
    "trips": "deployments.server:build",
    "trips.challenger.r1.2": "deployments.challenger:build",
}
CURRENT = {
    "rayloop-front": "deployments.ingress.root_app:build",
    "trips": "deployments.ingress.model_app:build",
    "trips.challenger.r1.2": "deployments.inference.challenger_app:build",
    "theirs": "shop.service:app",
}


def details(paths: dict[str, str]) -> dict[str, Any]:
    return {"applications": {name: {"deployed_app_config": {"import_path": path}} for name, path in paths.items()}}


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.node.session.processes", lambda settings: [psutil.Process()])
    monkeypatch.setattr("cluster.node.session.listens", lambda port: True)
    # ``run`` would start a cluster where it sees none.
    monkeypatch.setattr("rayloop.cli.app.processes", lambda settings: [psutil.Process()])


def session(home: Path, **fields: object) -> Settings:
    home.mkdir(exist_ok=True)
    (home / "cluster.json").write_text(json.dumps({"session": "5c1a", **fields}))
    return Settings(home=home)


@pytest.mark.usefixtures("running")
def test_session_of_the_previous_release_is_refused_by_up_and_before_a_job(tmp_path: Path) -> None:
    settings = session(tmp_path)
    with raises(ClusterUnavailable, "cluster.other_release", layout=1):
        local_cluster.start(settings)
    with raises(ClusterUnavailable, "cluster.other_release", layout=1):
        require_compatible_cluster(settings)


@pytest.mark.usefixtures("running")
def test_session_of_a_later_release_is_refused(tmp_path: Path) -> None:
    with raises(ClusterUnavailable, "cluster.other_release", layout=LAYOUT + 1):
        require_compatible_cluster(session(tmp_path, layout=LAYOUT + 1))


@pytest.mark.usefixtures("running")
def test_session_of_this_release_is_accepted(tmp_path: Path) -> None:
    settings = session(tmp_path, layout=LAYOUT)
    assert local_cluster.start(settings) is False
    require_compatible_cluster(settings)


def test_session_of_a_cluster_that_does_not_run_is_accepted(tmp_path: Path) -> None:
    require_compatible_cluster(session(tmp_path))


def test_remote_cluster_with_applications_of_the_previous_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(address="http://cluster:8265")
    monkeypatch.setattr(serve_details, "fetch_serve_details", lambda settings: details(EARLIER))
    with raises(ClusterUnavailable, "cluster.earlier_release", application="rayloop-front", module="deployments.front"):
        require_compatible_cluster(settings)
    monkeypatch.setattr(serve_details, "fetch_serve_details", lambda settings: details(CURRENT))
    require_compatible_cluster(settings)


def test_outdated_applications_are_ours_whose_module_does_not_exist() -> None:
    assert set(outdated_applications(details(EARLIER))) == set(EARLIER)
    assert outdated_applications(details(CURRENT)) == {}
    assert outdated_applications({"applications": {"going": {"deployed_app_config": None}}}) == {}
    assert outdated_applications({}) == {}


PROJECT = "examples.flights.project"


def unexpected(*arguments: object, **options: object) -> NoReturn:
    pytest.fail("nothing is sent to a cluster of another release")


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The one line with which a command ends."""
    monkeypatch.setattr(jobs, "submit", unexpected)
    monkeypatch.setattr(ray, "init", unexpected)
    monkeypatch.setattr(sys, "argv", ["rayloop", *words])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    "words",
    [
        ["up"],
        ["demo"],
        ["deploy", PROJECT],
        ["run", PROJECT],
        ["report", PROJECT],
        ["status"],
        ["promote", "trips"],
        ["abort", "trips"],
        ["pause", "trips"],
        ["resume", "trips"],
        ["forget", PROJECT, "--entity", "carrier=UA"],
    ],
    ids=lambda words: words[0],
)
def test_command_on_a_cluster_of_the_previous_release_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    session(tmp_path)
    monkeypatch.setenv("RAYLOOP_HOME", str(tmp_path))
    line = refusal(monkeypatch, capsys, words)
    assert line.startswith("error: an earlier release")
    assert line.endswith("[cluster.other_release]")


def test_deploy_on_a_remote_cluster_of_the_previous_release_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYLOOP_HOME", str(tmp_path))
    monkeypatch.setenv("RAYLOOP_ADDRESS", "http://cluster:8265")
    monkeypatch.setattr(serve_details, "fetch_serve_details", lambda settings: details(EARLIER))
    line = refusal(monkeypatch, capsys, ["deploy", PROJECT])
    assert line.endswith("[cluster.earlier_release]")


@pytest.mark.usefixtures("running")
def test_down_connects_to_a_cluster_of_the_previous_release_to_commit_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, addresses = session(tmp_path), []
    monkeypatch.setattr(ray, "init", lambda address, **options: addresses.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray.util, "list_named_actors", lambda all_namespaces: [])
    flush_logs(settings, print)
    assert addresses == [f"127.0.0.1:{settings.gcs_port}"]
