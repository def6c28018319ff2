"""A command outside a Ray job submits itself, in words that the command line accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import typer

from cluster import connection, jobs
from cluster.errors import SettingsError
from cluster.settings import Settings
from rayloop import compatibility
from rayloop.cli import project_commands
from rayloop.cli.app import app
from rayloop.cli.submission import require_stores, submit_outside, submit_with_file
from rayloop.project import Location
from tests.factories.errors import raises

PROJECT = "examples.flights.project"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
REMOTE = Settings(address="http://head:8265")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("serve-again", []),
        ("train", []),
        ("deploy", ["--version", "2", "--version", "3"]),
        ("retrain", ["--until", "2013-06-01T00:00:00+00:00", "--reason", "drift"]),
        ("backfill", ["--view", "weather"]),
    ],
)
def test_command_submits_words_that_the_command_line_accepts(
    command: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    submitted: list[list[str]] = []

    def submit(settings: Any, words: list[str], folder: Path, variables: dict[str, str]) -> str:
        submitted.append(words)
        return "job"

    monkeypatch.setenv("RAYLOOP_HOME", str(tmp_path))
    monkeypatch.setattr(connection, "in_job", lambda: False)
    monkeypatch.setattr(compatibility, "require_compatible_cluster", lambda settings: None)
    monkeypatch.setattr(jobs, "submit", submit)
    monkeypatch.setattr(jobs, "follow", lambda settings, job, write: True)
    COMMANDS[command].main([PROJECT, *arguments], command, standalone_mode=False)
    ((_, option, package, name, *words),) = submitted
    assert (option, package) == ("-m", "rayloop")
    COMMANDS[name].make_context(name, list(words))
    assert callable(getattr(project_commands, name.replace("-", "_")))
    assert (name, words[0]) == (command, PROJECT)
    assert set(arguments) <= set(words)


class Submitted:
    """What was submitted, and the files that were uploaded with it."""

    def __init__(self) -> None:
        self.arguments: Sequence[str] = ()
        self.files: dict[str, str] = {}

    def submit(
        self, settings: Settings, arguments: Sequence[str], folder: Path | None, variables: Mapping[str, str]
    ) -> str:
        self.arguments = arguments
        if folder is not None:
            self.files = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}
        return "job"


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> Submitted:
    record = Submitted()
    monkeypatch.setattr(jobs, "submit", record.submit)
    monkeypatch.setattr(jobs, "follow", lambda *arguments: True)
    monkeypatch.setattr(compatibility, "require_compatible_cluster", lambda settings: None)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    return record


def test_command_for_another_cluster_is_a_job_there(submitted: Submitted) -> None:
    assert submit_outside(REMOTE, "abort", "shop", reason="two words", version="", rollout="shop-2")
    python, *words = submitted.arguments
    assert python == "python"
    assert words == ["-m", "rayloop", "abort", "--reason", "two words", "--rollout", "shop-2", "--", "shop"]
    assert submitted.files == {}


def test_labels_for_another_cluster_are_logged_by_a_job_there(submitted: Submitted) -> None:
    assert submit_outside(REMOTE, "label", "shop", log=True)
    _, _, _, name, *words = submitted.arguments
    parameters = COMMANDS[name].make_context(name, words).params
    assert (name, parameters["model"], parameters["log"]) == ("label", "shop", True)


def test_command_of_a_group_is_a_job_there(submitted: Submitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLOOP_ADDRESS", REMOTE.address)
    given = ["to", "http://next:8265", "shop", "--share", "2.5", "--anyway"]
    COMMANDS["move"].main(given, "move", standalone_mode=False)
    _, _, _, name, *words = submitted.arguments
    assert (name, words[0], words[-3:]) == ("move", "to", ["--", "http://next:8265", "shop"])
    group = COMMANDS["move"].commands["to"]
    assert group.make_context("to", words[1:]).params == group.make_context("to", given[1:]).params


def test_command_runs_here_in_a_job_and_for_this_machines_cluster(
    submitted: Submitted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not submit_outside(Settings(address=""), "status")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert not submit_outside(REMOTE, "status")
    assert not submit_with_file(REMOTE, Location(tmp_path, "shop"), "push", "visits", tmp_path / "more.csv")
    assert submitted.arguments == ()


@pytest.mark.parametrize(
    ("words", "variable"),
    [
        (["forget", PROJECT, "--entity", "tailnum=N14228"], "RAYLOOP_CATALOG_URI"),
        (["keys", "create", "shop", "--model", "*"], "RAYLOOP_ACCESS_STORE"),
        (["keys", "list"], "RAYLOOP_ACCESS_STORE"),
        (["label", "shop", "--agreement"], "RAYLOOP_CATALOG_URI"),
    ],
)
def test_command_for_another_cluster_does_not_work_on_stores_of_this_machine(
    words: list[str], variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("RAYLOOP_HOME", str(tmp_path))
    monkeypatch.setenv("RAYLOOP_ADDRESS", REMOTE.address)
    with raises(SettingsError, "settings.stores_not_set") as caught:
        app(words, standalone_mode=False)
    assert variable in cast("list[str]", caught.value.fields["variables"])
    assert list(tmp_path.iterdir()) == []


def test_stores_are_required_only_outside_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    require_stores(Settings(address=""), "access_store")
    require_stores(REMOTE.model_copy(update={"access_store": "postgresql://database/keys"}), "access_store")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    require_stores(REMOTE, "access_store")


def test_file_is_uploaded_beside_the_project(submitted: Submitted, tmp_path: Path) -> None:
    (tmp_path / "project" / "shop").mkdir(parents=True)
    (tmp_path / "project" / "shop" / "project.py").write_text("project")
    (tmp_path / "more.csv").write_text("events")
    location = Location(tmp_path / "project", "shop.project")
    assert submit_with_file(REMOTE, location, "push", "visits", tmp_path / "more.csv")
    assert submitted.arguments[1:] == ["-m", "rayloop", "push", "shop.project", "visits", "uploaded.csv"]
    assert submitted.files["uploaded.csv"] == "events"
    assert set(submitted.files) <= {"uploaded.csv", "shop/project.py"}
