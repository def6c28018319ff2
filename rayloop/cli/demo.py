"""Where ``rayloop demo`` finds its project."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from cluster.permissions import close_to_others

MODULE = "examples.flights.project"


def demo_project(home: Path) -> str:
    """Find the flights example, in a folder that a Ray job can ship.

    Args:
        home: Folder of rayloop's state; the example that comes with an installed package is copied there, because a job
            ships the folder that holds its project, and site-packages is too large.

    Returns:
        The module's name in a source checkout, else the path of the copy.
    """
    if Path(*MODULE.split(".")).with_suffix(".py").is_file():
        return MODULE
    package, *rest = MODULE.split(".")
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations, "the wheel contains the example"  # noqa: PT018
    copy = home / "demo" / package
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(spec.submodule_search_locations[0], copy, ignore=shutil.ignore_patterns("__pycache__"))
    # copytree keeps the permissions of the installed files.
    close_to_others([copy, *copy.rglob("*")])
    return str(copy.joinpath(*rest).with_suffix(".py"))
