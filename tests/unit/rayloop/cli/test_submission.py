"""A command outside a Ray job submits itself, in words that the command line accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from cluster import connection, jobs
from rayloop import compatibility
from rayloop.cli import project_commands
from rayloop.cli.app import app

PROJECT = "examples.flights.project"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


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
