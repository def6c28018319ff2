"""A folder of files with their checksums, on any file system that pyarrow.fs supports."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from pyarrow import fs

from cluster.errors import BackupError
from cluster.files import atomic_write, open_filesystem
from cluster.values import Frozen, Stored

MANIFEST = "backup.json"
_THREADS = 8
_CHUNK_BYTES = 1 << 20


class CopiedFile(Frozen):
    """Size and checksum of a file of a backup."""

    size: int
    """Bytes."""
    sha256: str


class BackupManifest(Stored, stored_as="backup"):
    """What a backup contains. It is written last: a folder without it is no backup."""

    created_at: float
    """Seconds since the epoch."""
    release: str
    """Version of rayloop that wrote it."""
    locations: dict[str, str]
    """By store, where its files are; tables and versions contain these addresses."""
    files: dict[str, CopiedFile]
    """By path within the backup."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


class BackupFolder:
    """A backup that is written or read.

    Args:
        uri: Local folder, or a URI such as ``s3://bucket/folder``.

    Raises:
        BackupError: The address is not one of a file system.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._filesystem, self._root = open_folder(uri)
        self.files: dict[str, CopiedFile] = {}

    def is_empty(self) -> bool:
        """Whether the folder holds no file, or does not exist."""
        return not list_files(self._filesystem, self._root)

    def add(self, source: Path, name: str) -> None:
        """Copy a local file into the backup."""
        self.files[name] = _copy(fs.LocalFileSystem(), str(source), self._filesystem, self._path(name))

    def add_tree(self, uri: str, name: str) -> None:
        """Copy all files below an address; a file that is deleted meanwhile belongs to nothing that was saved."""
        filesystem, root = open_folder(uri)

        def copy(path: str) -> None:
            with suppress(FileNotFoundError):
                copied = _copy(filesystem, f"{root}/{path}", self._filesystem, self._path(f"{name}/{path}"))
                self.files[f"{name}/{path}"] = copied

        _in_threads(copy, list_files(filesystem, root))

    def finish(self, manifest: BackupManifest) -> None:
        """Write the manifest."""
        atomic_write(self._filesystem, self._root, MANIFEST, [manifest.model_dump_json().encode()])

    def manifest(self) -> BackupManifest:
        """Read the manifest. Raises BackupError when the folder has none."""
        try:
            with self._filesystem.open_input_stream(self._path(MANIFEST)) as file:
                return BackupManifest.from_stored(file.read())
        except FileNotFoundError as error:
            raise BackupError("backup.not_found", folder=self.uri) from error

    def extract(self, manifest: BackupManifest, name: str, target: Path) -> None:
        """Copy a file of the backup to a local path. Raises BackupError when it is damaged."""
        self._extract(manifest, name, fs.LocalFileSystem(), str(target))

    def extract_tree(self, manifest: BackupManifest, name: str, uri: str) -> None:
        """Copy all files of a tree to an address. Raises BackupError when one is damaged."""
        filesystem, root = open_folder(uri)
        names = [file for file in manifest.files if file.startswith(f"{name}/")]
        _in_threads(lambda file: self._extract(manifest, file, filesystem, root + file.removeprefix(name)), names)

    def _extract(self, manifest: BackupManifest, name: str, filesystem: fs.FileSystem, target: str) -> None:
        try:
            copied = _copy(self._filesystem, self._path(name), filesystem, target)
        except FileNotFoundError as error:
            raise BackupError("backup.damaged", folder=self.uri, file=name) from error
        if copied != manifest.files[name]:
            raise BackupError("backup.damaged", folder=self.uri, file=name)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def open_folder(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        BackupError: No file system has such addresses.
    """
    try:
        filesystem, path = open_filesystem(uri if "://" in uri else str(Path(uri).absolute()))
    except (ValueError, OSError) as error:
        raise BackupError("backup.invalid_address", address=uri, reason=str(error)) from error
    return filesystem, path.rstrip("/")


def list_files(filesystem: fs.FileSystem, root: str) -> list[str]:
    """Paths, relative to ``root``, of all files below it."""
    found = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
    return sorted(posixpath.relpath(info.path, root) for info in found if info.is_file)


def _in_threads(work: Callable[[str], None], paths: list[str]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        # Raises what a thread raised.
        for _ in pool.map(work, paths):
            pass


def _copy(source: fs.FileSystem, path: str, target: fs.FileSystem, to: str) -> CopiedFile:
    digest, size = hashlib.sha256(), 0
    with source.open_input_stream(path) as file:
        target.create_dir(posixpath.dirname(to), recursive=True)
        with target.open_output_stream(to) as out:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                out.write(chunk)
    return CopiedFile(size=size, sha256=digest.hexdigest())
