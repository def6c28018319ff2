"""What every stage needs: the project, the settings, the stores and the console."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pyarrow.fs import FileType

from cluster.files import atomic_write, open_filesystem
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
    def folder(self) -> str:
        """Folder of the project's reports and notes: a path, or a URI that every machine can reach."""
        return f"{self.settings.state}/projects/{self.project.name}"

    def write(self, name: str, text: str) -> str:
        """Write a file into the project's folder.

        Returns:
            Its URI.
        """
        filesystem, path = open_filesystem(f"{self.folder}/{name}")
        folder, _, base = path.rpartition("/")
        atomic_write(filesystem, folder, base, [text.encode()])
        return self.uri_of(name)

    def read(self, name: str) -> str | None:
        """Read a file of the project's folder; None when there is none."""
        filesystem, path = open_filesystem(f"{self.folder}/{name}")
        try:
            with filesystem.open_input_stream(path) as file:
                return bytes(file.read()).decode()
        except FileNotFoundError:
            return None

    def uri_of(self, name: str) -> str:
        """URI of a file of the project's folder."""
        path = f"{self.folder}/{name}"
        return path if "://" in path else Path(path).absolute().as_uri()

    def delete_files(self) -> None:
        """Delete the project's folder, if it exists."""
        filesystem, path = open_filesystem(self.folder)
        if filesystem.get_file_info(path).type != FileType.NotFound:
            filesystem.delete_dir(path)

    @property
    def checkpoints(self) -> str:
        """Folder of the checkpoints from which the project's training runs resume."""
        return f"{self.settings.checkpoints}/{self.project.name}"

    @cached_property
    def code_version(self) -> str:
        """Version of the project's code."""
        return code_version(self.location.folder)
