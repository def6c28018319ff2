"""A cluster that an earlier release started is refused before any work is submitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster import local_cluster
from cluster.errors import ClusterUnavailable
from cluster.settings import Settings
from rayloop import compatibility
from rayloop.compatibility import outdated_applications, require_compatible_cluster
from tests.factories.errors import raises

# As release 0.1.0 declared them.
EARLIER = {
    "front": "deployments.front:build",
    "trips": "deployments.server:build",
    "trips-challenger-r1-2": "deployments.challenger:build",
}
CURRENT = {
    "front": "deployments.ingress.root_app:build",
    "trips": "deployments.ingress.model_app:build",
    "trips-challenger-r1-2": "deployments.inference.challenger_app:build",
    "theirs": "shop.service:app",
}


def details(paths: dict[str, str]) -> dict[str, Any]:
    return {"applications": {name: {"deployed_app_config": {"import_path": path}} for name, path in paths.items()}}


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cluster, "is_running", lambda settings: True)


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
    with raises(ClusterUnavailable, "cluster.other_release", layout=local_cluster.LAYOUT + 1):
        require_compatible_cluster(session(tmp_path, layout=local_cluster.LAYOUT + 1))


@pytest.mark.usefixtures("running")
def test_session_of_this_release_is_accepted(tmp_path: Path) -> None:
    settings = session(tmp_path, layout=local_cluster.LAYOUT)
    assert local_cluster.start(settings) is False
    require_compatible_cluster(settings)


def test_session_of_a_cluster_that_does_not_run_is_accepted(tmp_path: Path) -> None:
    require_compatible_cluster(session(tmp_path))


def test_remote_cluster_with_applications_of_the_previous_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(address="http://cluster:8265")
    monkeypatch.setattr(compatibility, "serve_details", lambda settings: details(EARLIER))
    with raises(ClusterUnavailable, "cluster.earlier_release", application="front", module="deployments.front"):
        require_compatible_cluster(settings)
    monkeypatch.setattr(compatibility, "serve_details", lambda settings: details(CURRENT))
    require_compatible_cluster(settings)


def test_outdated_applications_are_ours_whose_module_does_not_exist() -> None:
    assert set(outdated_applications(details(EARLIER))) == set(EARLIER)
    assert outdated_applications(details(CURRENT)) == {}
    assert outdated_applications({"applications": {"going": {"deployed_app_config": None}}}) == {}
    assert outdated_applications({}) == {}
