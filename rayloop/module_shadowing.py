"""Modules of a project that hide rayloop's own packages: Python searches the project's folder first."""

from __future__ import annotations

from pathlib import Path

PACKAGES = ("cluster", "features", "trainers", "deployments", "monitoring", "rayloop")
_ROOT = Path(__file__).resolve().parent.parent


def hiding_module(folder: Path) -> Path | None:
    """Return the module in ``folder`` that hides one of rayloop's packages; None when there is none.

    A folder of that name without an ``__init__.py`` hides nothing: Python prefers a regular package.
    """
    if folder.resolve() == _ROOT:
        return None
    candidates = (path for name in PACKAGES for path in (folder / f"{name}.py", folder / name / "__init__.py"))
    return next((path for path in candidates if path.exists()), None)


def hiding_module_on(search_path: list[str]) -> Path | None:
    """Return the first module on Python's search path that hides one of rayloop's packages."""
    for entry in search_path:
        folder = Path(entry or ".")
        if folder.resolve() == _ROOT:
            return None
        if (path := hiding_module(folder)) is not None:
            return path.resolve()
    return None
