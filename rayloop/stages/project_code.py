"""The code of deployed versions, stored with their runs: it is needed to serve and to retrain them elsewhere."""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from pathlib import Path

from cluster.registry import Registry
from cluster.values import ModelVersion
from rayloop.context import ProjectContext

ARCHIVE_TAG = "rayloop.code_archive"
MODULE_TAG = "rayloop.module"
_ARTIFACT = "code"
_FILE = "project.zip"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def store_code(context: ProjectContext, *versions: ModelVersion) -> None:
    """Store the project's folder with each version that does not have the same already."""
    archive = zip_folder(context.location.folder)
    digest, module = hashlib.sha256(archive).hexdigest(), context.location.module
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _FILE
        path.write_bytes(archive)
        for version in versions:
            tags = context.registry.version(version.model, version.version).tags
            if (tags.get(ARCHIVE_TAG), tags.get(MODULE_TAG)) != (digest, module):
                context.registry.log_file(version, path, _ARTIFACT)
                context.registry.set_tag(version, MODULE_TAG, module)
                context.registry.set_tag(version, ARCHIVE_TAG, digest)


def fetch_code(registry: Registry, version: ModelVersion, folder: Path) -> str:
    """Unpack the code of a version into a folder.

    Returns:
        The project's module; empty when the version has no code, because an earlier release deployed it.
    """
    if ARCHIVE_TAG not in version.tags:
        return ""
    with zipfile.ZipFile(registry.fetch_run_file(version, f"{_ARTIFACT}/{_FILE}")) as archive:
        archive.extractall(folder)
    return version.tags[MODULE_TAG]


def zip_folder(folder: Path) -> bytes:
    """Return a folder as a zip archive, equal for equal files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in name.parts):
                archive.writestr(zipfile.ZipInfo(str(name), _EPOCH), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return content.getvalue()
