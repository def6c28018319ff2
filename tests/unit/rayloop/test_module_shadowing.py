"""A project folder with modules named like rayloop's packages is refused with one line, by every command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.errors import ProjectError
from rayloop.cli.app import app
from rayloop.module_shadowing import PACKAGES, hiding_module

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["features.py", "cluster.py", "monitoring/__init__.py"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    (tmp_path / "shop.py").write_text("project = None")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "--simulate"],
        ["tune"],
        ["train"],
        ["retrain"],
        ["rollback"],
        ["deploy"],
        ["predict", "rows.parquet", "out"],
        ["push", "visits", "rows.parquet"],
        ["report"],
        ["backfill", "--view", "visits"],
        ["forget", "--entity", "customer=1"],
    ],
    ids=lambda words: "_".join(words[:2]),
)
def test_project_command_refuses_a_folder_that_hides_a_package(folder: Path, words: list[str]) -> None:
    result = CliRunner().invoke(app, [words[0], str(folder / "shop.py"), *words[1:]])
    assert isinstance(result.exception, ProjectError)
    assert result.exception.code == "project.hides_package"


@pytest.mark.parametrize("words", [["run", "shop.py"], ["status"], ["up"], ["--version"]], ids=" ".join)
def test_python_m_rayloop_inside_such_a_folder_is_refused_with_one_line(folder: Path, words: list[str]) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "rayloop", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAYLOOP_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith(f"error: {folder}/")
    assert line.endswith("[project.hides_package]")


def test_data_folder_with_the_name_of_a_package_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    assert hiding_module(tmp_path) is None


def test_packages_are_those_of_this_repository() -> None:
    assert all((ROOT / name / "__init__.py").exists() for name in PACKAGES)
