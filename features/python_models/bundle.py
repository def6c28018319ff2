"""Files of a Python model in a version's bundle. Pure.

python/model.json   the class, its parameters and what it needs to run (PythonRecord)
python/code/        source of the package, or of the folder, that has the class
python/files/       files of the model, such as weights
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
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
        if digest(_bundled(bundle)) != record.sha256:
            raise DataError("data.python_changed", path=str(path.parent))
        return record


def is_python(bundle: Path) -> bool:
    """Whether a bundle holds a Python model."""
    return (bundle / FOLDER / RECORD_FILE).exists()


def read_files(bundle: Path) -> dict[str, bytes]:
    """Return the files of a bundle's Python model, by their path in the bundle."""
    paths = [path for path in sorted((bundle / FOLDER).rglob("*")) if path.is_file()]
    return {str(path.relative_to(bundle)): path.read_bytes() for path in paths}


def digest(files: Mapping[str, Path]) -> str:
    """Return the hash of a model's code and files, by their path in the bundle's folder ``python``."""
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        total.update(f"{name}\0".encode() + content)
    return total.hexdigest()


def find_sources(module: str, path: Path, files: Path | None) -> dict[str, Path]:
    """Find a model's code and files, by the path that they get in the bundle's folder ``python``.

    Args:
        module: Module of the class.
        path: Its file.
        files: Folder or file of the model's files; None: it has none.

    Raises:
        ProjectError: The code is too large, or ``files`` do not exist.
    """
    root = _root(module, path)
    found = {f"{CODE_FOLDER}/{source.relative_to(root)}": source for source in _sources(root, module)}
    if sum(source.stat().st_size for source in found.values()) > MAX_CODE_MIB * _MIB:
        raise ProjectError("project.python_code_too_large", folder=str(root), limit_mib=MAX_CODE_MIB)
    if files is None:
        return found
    if not files.exists():
        raise ProjectError("project.python_files_missing", path=str(files))
    if files.is_file():
        return found | {f"{FILES_FOLDER}/{files.name}": files}
    names = ((each.relative_to(files), each) for each in files.rglob("*") if each.is_file())
    return found | {f"{FILES_FOLDER}/{name}": each for name, each in names if not _is_hidden(name)}


def copy_sources(bundle: Path, sources: Mapping[str, Path]) -> None:
    """Copy what ``find_sources`` found into a bundle."""
    (bundle / FOLDER / FILES_FOLDER).mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        target = bundle / FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _bundled(bundle: Path) -> dict[str, Path]:
    """Code and files of a bundle, as ``find_sources`` names them."""
    folder = bundle / FOLDER
    paths = (path for part in (CODE_FOLDER, FILES_FOLDER) for path in (folder / part).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path for path in paths if "__pycache__" not in path.parts}


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in name.parts)


def _root(module: str, path: Path) -> Path:
    """The folder from which a module is imported."""
    depth = module.count(".") + (path.name == "__init__.py")
    return path.resolve().parents[depth]


def _sources(root: Path, module: str) -> Iterator[Path]:
    """Python files of the outermost package of a module; of a module outside packages, those of its folder."""
    package = root / module.partition(".")[0]
    folder = package if package.is_dir() else root
    for path in sorted(folder.rglob("*.py")):
        if not _is_hidden(path.relative_to(root)):
            yield path
