"""The archive of a project's folder."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

from rayloop.stages.project_code import zip_folder


def fill(folder: Path) -> Path:
    for name in ("project.py", "data/rows.csv", ".git/config", "pkg/__pycache__/x.pyc", ".venv/lib/big"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def test_archive_holds_what_a_job_needs(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(zip_folder(fill(tmp_path)))) as archive:
        assert archive.namelist() == ["data/rows.csv", "project.py"]
        archive.extractall(tmp_path / "out")
    assert (tmp_path / "out" / "data" / "rows.csv").read_text() == "data/rows.csv"


def test_equal_folders_have_equal_archives(tmp_path: Path) -> None:
    first, second = (fill(tmp_path / name) for name in ("a", "b"))
    os.utime(second / "project.py", (1e9, 1e9))
    assert zip_folder(first) == zip_folder(second)
    (second / "project.py").write_text("other")
    assert zip_folder(first) != zip_folder(second)
