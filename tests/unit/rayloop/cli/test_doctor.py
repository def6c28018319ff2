"""Doctor finds what other users of the machine can open, and closes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.settings import Settings
from rayloop.cli import doctor


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (tmp_path / ".ray", tmp_path / ".rayloop", tmp_path / ".rayloop" / "online"):
        folder.mkdir()
        folder.chmod(0o755)
    for file in (tmp_path / ".ray" / "auth_token", tmp_path / ".rayloop" / "online" / "data.mdb"):
        file.touch()
        file.chmod(0o644)
    (tmp_path / ".rayloop" / "gone").symlink_to(tmp_path / "nowhere")
    return Settings(home=tmp_path / ".rayloop")


def test_files_that_others_can_open_are_closed_once(settings: Settings, tmp_path: Path) -> None:
    token, state = tmp_path / ".ray" / "auth_token", settings.home / "online" / "data.mdb"
    assert "4 files" in doctor._files(settings)
    assert [path.stat().st_mode & 0o777 for path in (token, state, settings.home)] == [0o600, 0o600, 0o700]
    assert doctor._files(settings) == "closed to other users"


def test_file_of_another_user_fails_the_check(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "chmod", refuse)
    lines: list[str] = []
    assert not doctor._passes(doctor._files, settings, lines.append)
    assert lines[0].startswith("FAIL  files: ")
    assert lines[0].endswith("[rayloop.file_open_to_others]")
