"""Commands to a rollout: version and rollout id reach the cluster."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from rayloop.cli import app, rollout_commands
from rayloop.cli.submission import option_words


@pytest.mark.parametrize(
    ("words", "command", "version", "rollout"),
    [
        (["promote", "trips", "--version", "3"], "promote", "3", ""),
        (["abort", "trips", "--version", "3"], "abort", "3", ""),
        (["abort", "trips"], "abort", "", ""),
        (["abort", "trips", "--rollout", "r1"], "abort", "", "r1"),
        (["pause", "trips", "--rollout", "r1"], "pause", "", "r1"),
        (["resume", "trips", "--rollout", "r1"], "resume", "", "r1"),
    ],
)
def test_command_passes_version_and_rollout(
    monkeypatch: pytest.MonkeyPatch, words: list[str], command: str, version: str, rollout: str
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(rollout_commands, "send_command", lambda settings, *args: calls.append(args))
    assert CliRunner().invoke(app.app, words).exit_code == 0
    assert calls == [("trips", command, "by hand", version, rollout)]


def test_deploy_passes_several_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(app, "run_or_submit", lambda *_, **options: calls.append(option_words(options)))
    for words in ([], ["--version", "3"], ["--version", "3", "--version", "4"]):
        assert CliRunner().invoke(app.app, ["deploy", "shop/project.py", *words]).exit_code == 0
    assert calls == [[], ["--version", "3"], ["--version", "3", "--version", "4"]]
