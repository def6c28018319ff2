"""Files of a backup with their checksums."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import BackupError
from rayloop.backup.backup_folder import BackupFolder, BackupManifest
from tests.factories.errors import raises


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for name, content in (("a/b/c.bin", b"\0" * 3_000_000), ("empty", b""), ("a/ü %20.txt", b"x")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_backup(tree: Path, target: Path) -> BackupFolder:
    backup = BackupFolder(str(target))
    backup.add_tree(tree.as_uri(), "tree")
    backup.finish(BackupManifest(created_at=0.0, release="1", locations={}, files=backup.files))
    return BackupFolder(str(target))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_tree_comes_back(tree: Path, tmp_path: Path) -> None:
    backup = write_backup(tree, tmp_path / "backup")
    manifest = backup.manifest()
    assert manifest.size == 3_000_001
    backup.extract_tree(manifest, "tree", (tmp_path / "out").as_uri())
    assert contents(tmp_path / "out") == contents(tree)


def test_a_changed_or_missing_file_is_named(tree: Path, tmp_path: Path) -> None:
    backup = write_backup(tree, tmp_path / "backup")
    file = tmp_path / "backup" / "tree" / "empty"
    file.write_bytes(b"x")
    for _ in range(2):
        with raises(BackupError, "backup.damaged", file="tree/empty"):
            backup.extract_tree(backup.manifest(), "tree", str(tmp_path / "out"))
        file.unlink(missing_ok=True)


def test_an_interrupted_backup_is_none(tree: Path, tmp_path: Path) -> None:
    backup = BackupFolder(str(tmp_path / "backup"))
    assert backup.is_empty()
    backup.add_tree(str(tree), "tree")
    assert not backup.is_empty()
    with raises(BackupError, "backup.not_found"):
        backup.manifest()


def test_an_absent_tree_is_an_empty_one(tmp_path: Path) -> None:
    backup = BackupFolder(str(tmp_path / "backup"))
    backup.add_tree(str(tmp_path / "absent"), "tree")
    assert backup.files == {}


def test_an_address_without_a_file_system_is_refused() -> None:
    with raises(BackupError, "backup.invalid_address", address="gopher://x"):
        BackupFolder("gopher://x")
