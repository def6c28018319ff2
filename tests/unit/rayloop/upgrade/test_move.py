"""Steps of a move: without a rollout, with equal answers, and undone when it fails."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.door.moves import SECOND, Moves
from cluster.errors import RayloopError, RolloutError
from cluster.settings import Settings
from cluster.values import ModelVersion, MoveMark
from deployments.serve_schema import ServerConfig
from rayloop.cli import app
from rayloop.upgrade import move
from rayloop.upgrade.comparison import Comparison, Side
from tests.factories.errors import raises

ADDRESS = "http://second:8265"
EQUAL = Comparison(10, (Side("first", 0, 1.0, 2.0), Side("second", 0, 1.0, 2.0)), ())


def config(version: str) -> ServerConfig:
    return ServerConfig(champion=ModelVersion(model="m", version=version, run_id="r", bundle_uri="/nowhere"))


class Clusters:
    """Both clusters and their stores; calls of actors return at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moves, self.mark, self.active = Moves(), None, False
        self.versions = {"http://127.0.0.1:8265": "3", ADDRESS: "3"}
        self.comparison = EQUAL
        self.newer: dict[str, dict[str, Any]] = {dashboard: {} for dashboard in self.versions}
        self.events: list[str] = []
        self.lines: list[str] = []
        methods = {name: getattr(self, f"_{name}") for name in ("set_share", "current_config", "remove")}
        methods["moves"] = lambda: self.moves
        writer = SimpleNamespace(**{name: SimpleNamespace(remote=method) for name, method in methods.items()})
        replaced: dict[str, Any] = {
            "connection": SimpleNamespace(connect=lambda settings: None),
            "connect_config_writer": lambda settings: writer,
            "get_result": lambda value, limit_s: value,
            "find_actor": lambda name: None,
            "session_name": lambda: "session_1",
            "fetch_serve_details": lambda settings: settings.dashboard,
            "declared_applications": self._declared,
            "Registry": lambda settings: SimpleNamespace(move=lambda model: self.mark, set_move=self._set_move),
            "Claim": SimpleNamespace(take=lambda *_: self.events.append("claim")),
            "RolloutJournal": lambda *_: SimpleNamespace(last_state=self._last_state),
            "Tables": lambda settings: None,
            "Manifest": SimpleNamespace(load=lambda folder: SimpleNamespace(features=None)),
            "fetch_bundle": lambda *_: None,
            "temporary_key": lambda *_: nullcontext({}),
            "compare_clusters": lambda *_: self.comparison,
            "answering_cluster": lambda settings, model, wanted: SECOND if model in self.moves.shares else "",
        }
        for name, value in replaced.items():
            monkeypatch.setattr(move, name, value)

    def move(self, share: float, anyway: bool = False) -> None:
        move.move_model(Settings(), "m", ADDRESS, share, 10, anyway, self.lines.append)

    def _declared(self, dashboard: str) -> dict[str, Any]:
        if (served := self._served(dashboard)) is None:
            return {}
        return {"m": {"deployments": [{"user_config": served.model_dump(mode="json") | self.newer[dashboard]}]}}

    def _served(self, dashboard: str) -> ServerConfig | None:
        return config(self.versions[dashboard]) if dashboard in self.versions else None

    def _current_config(self, model: str) -> ServerConfig | None:
        return self._served("http://127.0.0.1:8265")

    def _set_share(self, model: str, address: str, share: float | None) -> Moves:
        self.events.append(f"share {share}")
        self.moves = self.moves.without(model) if share is None else self.moves.with_share(model, address, share)
        return self.moves

    def _remove(self, model: str) -> None:
        self.versions.pop("http://127.0.0.1:8265")

    def _set_move(self, model: str, mark: MoveMark | None) -> None:
        self.events.append(f"mark {mark.share if mark else None}")
        self.mark = mark

    def _last_state(self) -> Any:
        return SimpleNamespace(active=self.active, id="r1")


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> Clusters:
    return Clusters(monkeypatch)


def test_second_cluster_may_be_of_a_newer_release(clusters: Clusters) -> None:
    clusters.newer[ADDRESS] = {"schema_version": 99, "more": 1}
    clusters.move(0.1)
    assert clusters.moves.shares == {"m": 0.1}


def test_move_grows_after_equal_answers_and_goes_back(clusters: Clusters) -> None:
    clusters.move(0.1)
    assert clusters.events == ["mark 0.0", "claim", "share 0.0", "share 0.1", "mark 0.1"]
    clusters.move(1.0)
    assert clusters.mark == MoveMark(cluster="session_1", share=1.0)
    assert clusters.events.count("claim") == 1
    move.move_back(Settings(), "", clusters.lines.append)
    assert (clusters.moves, clusters.mark) == (Moves(), None)


@pytest.mark.parametrize("before", [None, 0.5])
def test_difference_leaves_everything_as_it_was(clusters: Clusters, before: float | None) -> None:
    if before:
        clusters.move(before)
    moves, mark = clusters.moves, clusters.mark
    clusters.comparison = EQUAL._replace(differences=(("200 [1]", "200 [2]"),))
    with raises(RayloopError, "rayloop.move_differs", differences=1, rows=10):
        clusters.move(1.0)
    assert (clusters.moves, clusters.mark) == (moves, mark)
    clusters.move(1.0, anyway=True)
    assert clusters.moves.shares == {"m": 1.0}


def test_model_with_a_rollout_or_another_version_stays(clusters: Clusters) -> None:
    clusters.active = True
    with raises(RolloutError, "rollout.in_progress", rollout="r1"):
        clusters.move(0.1)
    # The controller that conducts the rollout keeps its claim.
    assert clusters.events == []
    clusters.versions[ADDRESS] = "2"
    with raises(RayloopError, "rayloop.move_other_version", version="3", other="2"):
        clusters.move(0.1)
    del clusters.versions[ADDRESS]
    with raises(RayloopError, "rayloop.move_not_served", address=ADDRESS):
        clusters.move(0.1)
    assert clusters.events == []


def test_model_is_deleted_here_only_when_all_its_requests_are_there(clusters: Clusters) -> None:
    clusters.move(0.9)
    with raises(RayloopError, "rayloop.move_unfinished", percent=90.0):
        move.finish_move(Settings(), "m", clusters.lines.append)
    clusters.move(1.0)
    move.finish_move(Settings(), "m", clusters.lines.append)
    assert clusters.moves.shares == {"m": 1.0}
    with raises(RayloopError, "rayloop.move_finished", model="m"):
        move.move_back(Settings(), "m", clusters.lines.append)


def test_command_passes_the_share_as_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(move, "move_model", lambda settings, *arguments: calls.append(arguments[:5]))
    words = ["move", "to", ADDRESS, "m", "--share", "2.5"]
    assert CliRunner().invoke(app.app, words).exit_code == 0
    assert CliRunner().invoke(app.app, [*words, "--rows", "0", "--anyway"]).exit_code == 0
    assert CliRunner().invoke(app.app, ["move", "to", ADDRESS, "m", "--share", "101"]).exit_code == 2
    assert calls == [("m", ADDRESS, 0.025, 100, False), ("m", ADDRESS, 0.025, 0, True)]
