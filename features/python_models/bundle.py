"""Files of a Python model in a version's bundle. Pure.

python/model.json   the class, its parameters and what it needs to run (PythonRecord)
python/code/        source of the package, or of the folder, that has the class
python/files/       files of the model, such as weights
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError

from cluster.errors import DataError, ProjectError
from cluster.values import Frozen, ModelVersion, Stored, Task
from features.definitions import Column

PYTHON_TAG = "rayloop.python"
"""Tag of a version that is a Python model: its record, so that serving it needs no look into the bundle."""
FOLDER, RECORD_FILE, CODE_FOLDER, FILES_FOLDER = "python", "model.json", "code", "files"
MAX_CODE_MIB = 8
_MIB = 1 << 20


class PythonRuntime(Frozen):
    """What a Python model needs to run, in a deployment of its own."""

    pip: tuple[str, ...] = ()
    """Packages with versions, which Ray installs for this model only, beside those of the cluster."""
    env_vars: dict[str, str] = Field(default_factory=dict)
    """Environment variables. The registry stores them in plain text: no place for secrets."""
    cpus: float = Field(default=0.25, gt=0)
    """CPUs that each replica reserves."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs that each replica reserves."""
    replicas: int = Field(default=1, ge=1)
    """Replicas of its deployment; each scores one call at a time."""
    timeout_s: float = Field(default=2.0, gt=0)
    """Time limit of a call, in seconds; beyond it the request fails."""

    @property
    def environment(self) -> dict[str, Any]:
        """Ray's runtime environment, as far as the model declares it."""
        pip = {"pip": list(self.pip)} if self.pip else {}
        return pip | ({"env_vars": dict(self.env_vars)} if self.env_vars else {})


class PythonRecord(Stored, stored_as="record of a Python model"):
    """A Python model of a version."""

    class_name: str
    """Module and qualified name of the class, "package.module:Class"."""
    parameters: dict[str, Any]
    """Keyword arguments of the class."""
    task: Task
    columns: tuple[Column, ...]
    """Columns of the feature set; the model gets those of numbers, categories and tensors."""
    sha256: str
    """Hash of code and files."""
    runtime: PythonRuntime

    @classmethod
    def of(cls, version: ModelVersion) -> Self | None:
        """Return the record of a version; None if it is no Python model."""
        return cls.from_stored(version.tags[PYTHON_TAG]) if PYTHON_TAG in version.tags else None

    @classmethod
    def load(cls, bundle: Path) -> Self:
        """Read the record of a bundle, and compare its hash with the files.

        Raises:
            DataError: There is none, or code or files have changed.
        """
        path = bundle / FOLDER / RECORD_FILE
        try:
            record = cls.from_stored(path.read_bytes())
        except FileNotFoundError as error:
            raise DataError("data.bundle_missing", path=str(path)) from error
        except ValidationError as error:
            raise DataError("data.bundle_invalid", path=str(path), reason=error.errors()[0]["msg"]) from error
        if digest(bundle) != record.sha256:
            raise DataError("data.python_changed", path=str(path.parent))
        return record


def is_python(bundle: Path) -> bool:
    """Whether a bundle holds a Python model."""
    return (bundle / FOLDER / RECORD_FILE).exists()


def read_files(bundle: Path) -> dict[str, bytes]:
    """Return the files of a bundle's Python model, by their path in the bundle."""
    paths = [path for path in sorted((bundle / FOLDER).rglob("*")) if path.is_file()]
    return {str(path.relative_to(bundle)): path.read_bytes() for path in paths}


def digest(bundle: Path) -> str:
    """Return the hash of code and files in a bundle."""
    total = hashlib.sha256()
    for part in (CODE_FOLDER, FILES_FOLDER):
        root = bundle / FOLDER / part
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
                total.update(f"{part}/{path.relative_to(root)}\0".encode() + content)
    return total.hexdigest()


def copy_sources(bundle: Path, module: str, path: Path, files: Path | None) -> None:
    """Copy a model's code and files into a bundle.

    Args:
        bundle: The bundle's folder.
        module: Module of the class.
        path: Its file.
        files: Folder or file of the model's files; None: it has none.

    Raises:
        ProjectError: The code is too large, or ``files`` do not exist.
    """
    root, size = _root(module, path), 0
    for source in _sources(root, module):
        target = bundle / FOLDER / CODE_FOLDER / source.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        if (size := size + source.stat().st_size) > MAX_CODE_MIB * _MIB:
            raise ProjectError("project.python_code_too_large", folder=str(root), limit_mib=MAX_CODE_MIB)
    target = bundle / FOLDER / FILES_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    if files is None:
        return
    if not files.exists():
        raise ProjectError("project.python_files_missing", path=str(files))
    if files.is_dir():
        shutil.copytree(files, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    else:
        shutil.copyfile(files, target / files.name)


def _root(module: str, path: Path) -> Path:
    """The folder from which a module is imported."""
    depth = module.count(".") + (path.name == "__init__.py")
    return path.resolve().parents[depth]


def _sources(root: Path, module: str) -> Iterator[Path]:
    """Python files of the outermost package of a module; of a module outside packages, those of its folder."""
    package = root / module.partition(".")[0]
    folder = package if package.is_dir() else root
    for path in sorted(folder.rglob("*.py")):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            yield path
