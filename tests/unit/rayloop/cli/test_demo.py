"""The demo's project, in a checkout and in an installed package."""

from pathlib import Path

import pytest

from rayloop.cli.demo import MODULE, demo_project
from rayloop.project import locate_project


def test_demo_project_in_checkout_is_the_module(tmp_path: Path) -> None:
    assert demo_project(tmp_path) == MODULE


def test_demo_project_elsewhere_is_a_copy_alone_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    location = locate_project(demo_project(tmp_path / "home"))
    assert location == (tmp_path / "home" / "demo", MODULE)
    assert [path.name for path in location.folder.iterdir()] == ["examples"]
    assert not [path for path in location.folder.rglob("*") if path.stat().st_mode & 0o077]
