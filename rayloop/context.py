"""What every stage needs at hand: the project, the settings, the stores, and somebody to tell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from features.online.store import OnlineStore, open_store
from rayloop.code_version import code_version
from rayloop.console import ProgressConsole
from rayloop.project import Location, Project


@dataclass(frozen=True)
class ProjectContext:
    """One project at work on one cluster."""

    project: Project
    location: Location
    settings: Settings
    progress: ProgressConsole

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

    @property
    def checkpoints(self) -> str:
        """Where this project's trainings keep what they would go on from."""
        return f"{self.settings.checkpoints}/{self.project.name}"

    @cached_property
    def code_version(self) -> str:
        return code_version(self.location.folder)
