"""What every stage needs at hand: the project, the settings, the stores, and somebody to tell."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.registry import Registry
from cluster.settings import Settings
from cluster.tables import Tables
from features.online import OnlineStore, open_store
from pipelines.progress import Progress
from pipelines.project import Location, Project


@dataclass(frozen=True)
class Workspace:
    """One project at work on one cluster."""

    project: Project
    location: Location
    settings: Settings
    progress: Progress

    @cached_property
    def tables(self) -> Tables:
        return Tables(self.settings)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.settings)

    @cached_property
    def store(self) -> OnlineStore:
        return open_store(self.settings.online_store_uri)

    @property
    def frame_table(self) -> str:
        """One table of training frames for each definition of the features."""
        return f"{self.project.name}.frame_{self.project.features.content_hash[:8]}"

    @property
    def folder(self) -> Path:
        """Where this project's files for people go."""
        return self.settings.home / "projects" / self.project.name

    @cached_property
    def code_version(self) -> str:
        """The git commit of the project, and a hash of its Python files: two that differ, differ in code."""
        digest = hashlib.sha256()
        for path in sorted(self.location.folder.rglob("*.py")):
            relative = path.relative_to(self.location.folder)
            if not any(part.startswith(".") for part in relative.parts):
                digest.update(str(relative).encode() + b"\0" + path.read_bytes())
        return f"{_commit(self.location.folder)}+{digest.hexdigest()[:12]}"


def _commit(folder: Path) -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() if found.returncode == 0 else "nogit"
