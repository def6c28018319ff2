"""Files and folders are closed to other users, and nothing else about them changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.permissions import close_to_others


def test_close_to_others_keeps_what_the_owner_may_do(tmp_path: Path) -> None:
    modes = {"open": 0o666, "program": 0o755, "group": 0o640, "private": 0o600}
    for name, mode in modes.items():
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(0o755)
    assert close_to_others([tmp_path, *(tmp_path / name for name in modes)]) == 4
    after = {name: (tmp_path / name).stat().st_mode & 0o777 for name in modes}
    assert after == {"open": 0o600, "program": 0o700, "group": 0o600, "private": 0o600}
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    assert close_to_others([tmp_path, *(tmp_path / name for name in modes)]) == 0


def test_close_to_others_leaves_the_target_of_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.touch(0o644)
    target.chmod(0o644)
    link.symlink_to(target)
    assert close_to_others([link]) == 0
    assert target.stat().st_mode & 0o777 == 0o644


def test_close_to_others_of_another_users_file_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(0o644)
    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(PermissionError, match="file"):
        close_to_others([tmp_path / "file"])
