"""The wheel: every file of the packages, the license, and a lower bound for every dependency."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "features", "trainers", "deployments", "monitoring", "rayloop", "examples")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy, since setuptools leaves its build folder next to the sources.
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", folder, folder / "source"], check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_has_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*"))
    files = {str(path.relative_to(ROOT)) for path in paths if path.is_file() and "__pycache__" not in path.parts}
    assert files - set(wheel.namelist()) == set()


def test_wheel_declares_license_and_lower_bounds(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    headers = email.message_from_bytes(wheel.read(metadata))
    assert headers["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
    needed = [each for each in headers.get_all("Requires-Dist") if not each.endswith(('"dev"', '"docs"'))]
    assert len(needed) > 30
    assert [each for each in needed if ">=" not in each] == []
