"""The code version of a project folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rayloop.code_version import COMMIT, code_version, current_commit


@pytest.fixture(autouse=True)
def no_commit_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMIT, raising=False)


def test_code_version_changes_with_code_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text("a = 1")
    first = code_version(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "other.py").write_text("b = 2")
    assert code_version(tmp_path) == first
    (tmp_path / "project.py").write_text("a = 2")
    assert code_version(tmp_path) != first


def test_code_version_without_git_uses_the_commit_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert current_commit(tmp_path) == "nogit"
    monkeypatch.setenv(COMMIT, "abc1234")
    assert code_version(tmp_path).startswith("abc1234+")


def test_current_commit_is_that_of_the_folder(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    assert current_commit(tmp_path) == git("rev-parse", "--short", "HEAD").strip()
