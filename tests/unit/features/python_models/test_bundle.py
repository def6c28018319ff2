"""A Python model's bundle takes the class's package along, or the folder of its module, and its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import DataError, ProjectError
from cluster.values import ModelVersion
from features.python_models import bundle
from features.python_models.bundle import PythonRecord, PythonRuntime
from tests.factories.deployments.python_bundles import python_version, write_python_bundle, write_source
from tests.factories.errors import raises


def names(folder: Path) -> set[str]:
    return {name.removeprefix("python/") for name in bundle.read_files(folder)}


def test_bundle_has_the_whole_package_and_nothing_beside_it(tmp_path: Path) -> None:
    folder = write_python_bundle(tmp_path)
    package = {f"code/trip_models/{name}" for name in ("__init__.py", "model.py", "slopes.py")}
    assert names(folder) == {"model.json", "files/slope.txt"} | package
    assert bundle.is_python(folder)
    assert not bundle.is_python(tmp_path)


def test_module_outside_packages_takes_its_folder_along(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("model.py", "helper.py", "deep/more.py", ".venv/hidden.py", "notes.txt"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    bundle.copy_sources(tmp_path / "bundle", bundle.find_sources("model", source / "model.py", source / "deep"))
    code = {"code/model.py", "code/helper.py", "code/deep/more.py"}
    assert names(tmp_path / "bundle") == code | {"files/more.py"}


def test_class_in_the_init_file_of_a_package_takes_the_package_along(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source").with_name("__init__.py")
    bundle.copy_sources(tmp_path / "bundle", bundle.find_sources("trip_models", path, None))
    assert "code/trip_models/model.py" in names(tmp_path / "bundle")


def test_missing_files_and_too_much_code_are_refused(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source")
    with raises(ProjectError, "project.python_files_missing", path=str(tmp_path / "none")):
        bundle.find_sources("trip_models.model", path, tmp_path / "none")
    path.with_name("large.py").write_bytes(b"#" * (bundle.MAX_CODE_MIB * 2**20))
    with raises(ProjectError, "project.python_code_too_large", limit_mib=bundle.MAX_CODE_MIB):
        bundle.find_sources("trip_models.model", path, None)


def test_hash_is_of_contents_and_of_names(tmp_path: Path) -> None:
    first, second = write_source(tmp_path / "a"), write_source(tmp_path / "b")
    sources = [
        bundle.find_sources("trip_models.model", path, path.parents[1] / "slope.txt") for path in (first, second)
    ]
    assert bundle.digest(sources[0]) == bundle.digest(sources[1])
    sources[1]["files/other.txt"] = sources[1].pop("files/slope.txt")
    assert bundle.digest(sources[0]) != bundle.digest(sources[1])


@pytest.mark.parametrize("change", ["rename", "add", "write"])
def test_bundle_that_changed_is_refused(tmp_path: Path, change: str) -> None:
    folder = write_python_bundle(tmp_path)
    slope = folder / "python" / "files" / "slope.txt"
    if change == "rename":
        slope.rename(slope.with_name("other.txt"))
    else:
        (slope if change == "write" else slope.with_name("more.txt")).write_text("9")
    with raises(DataError, "data.python_changed"):
        PythonRecord.load(folder)


def test_record_of_a_version_is_that_of_its_bundle(tmp_path: Path) -> None:
    folder = write_python_bundle(tmp_path, timeout_s=3.0)
    version = python_version(folder)
    assert PythonRecord.of(version) == PythonRecord.load(folder)
    assert PythonRecord.of(ModelVersion(model="m", version="1", run_id="r", bundle_uri="/nowhere")) is None
    with raises(DataError, "data.bundle_missing"):
        PythonRecord.load(tmp_path)


@pytest.mark.parametrize(
    ("runtime", "environment"),
    [
        (PythonRuntime(), {}),
        (PythonRuntime(pip=("torch==2.9.0",)), {"pip": ["torch==2.9.0"]}),
        (PythonRuntime(env_vars={"A": "1"}), {"env_vars": {"A": "1"}}),
    ],
)
def test_environment_has_what_is_declared_only(runtime: PythonRuntime, environment: dict) -> None:
    assert runtime.environment == environment
