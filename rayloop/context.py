"""What every stage needs: the project, the settings, the stores and the console."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.names import CHAMPION
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import ModelVersion
from features.online.store import ProjectStore, open_store
from rayloop.code_version import code_version
from rayloop.console import ProgressConsole
from rayloop.project import Location, Project


@dataclass(frozen=True)
class ProjectContext:
    """A project on a cluster. Connections to stores open when they are first used."""

    project: Project
    location: Location
    settings: Settings
    progress: ProgressConsole

    @cached_property
    def tables(self) -> Tables:
        """Iceberg tables."""
        return Tables(self.settings)

    @cached_property
    def registry(self) -> Registry:
        """MLflow."""
        return Registry(self.settings)

    @cached_property
    def store(self) -> ProjectStore:
        """The project's part of the online store."""
        return open_store(self.settings.online_store_uri, self.project.name)

    @property
    def champion(self) -> ModelVersion | None:
        """The champion, as the registry has it now."""
        return self.registry.version_by_alias(self.project.name, CHAMPION)

    @property
    def frame_table(self) -> str:
        """Name of the table of training frames; each definition of the features has its own."""
        return f"{self.project.name}.frame_{self.project.features.content_hash[:8]}"

    @property
    def folder(self) -> Path:
        """Folder of the project's reports and notes."""
        return self.settings.home / "projects" / self.project.name

    def write(self, name: str, text: str) -> Path:
        """Write a file into the project's folder.

        Returns:
            Its path.
        """
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @property
    def checkpoints(self) -> str:
        """Folder of the checkpoints from which the project's training runs resume."""
        return f"{self.settings.checkpoints}/{self.project.name}"

    @cached_property
    def code_version(self) -> str:
        """Version of the project's code."""
        return code_version(self.location.folder)
