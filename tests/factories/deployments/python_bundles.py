"""Bundles of Python models: small classes in packages of their own, which may misbehave."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.values import ModelVersion, Snapshot, Task
from features.manifest import Manifest
from features.python_models import bundle
from features.python_models.bundle import PYTHON_TAG, PythonRecord, PythonRuntime
from features.python_models.model_batch import raw_encoder
from tests.factories.deployments.tasks import BINARY, FEATURES

PACKAGE = "trip_models"
SIGMOID = '''
import math
import time

from .slopes import scale


class Model:
    """Sigmoid of the distance times the slope in slope.txt."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def load(self, files):
        self.slope = scale(float((files / "slope.txt").read_text()), self.factor)

    def predict(self, rows):
        distances = rows.column("distance").to_pylist()
        if any(value == 666 for value in distances):
            raise KeyError("no such trip")
        if any(value == 777 for value in distances):
            return distances
        if any(value == 888 for value in distances):
            time.sleep(60)
        return [1 / (1 + math.exp(-self.slope * value)) for value in distances]
'''
"""Fails, returns no scores, or hangs for some distances."""
HELPER = "def scale(slope, factor):\n    return slope * factor\n"


def write_source(folder: Path, code: str = SIGMOID, slope: float = 1.0) -> Path:
    """Write the package, and the file that it loads; returns the module's file."""
    package = folder / PACKAGE
    package.mkdir(parents=True)
    for name, text in (("__init__.py", ""), ("model.py", code), ("slopes.py", HELPER)):
        (package / name).write_text(text)
    (folder / "slope.txt").write_text(str(slope))
    return package / "model.py"


def write_python_bundle(
    folder: Path,
    code: str = SIGMOID,
    *,
    slope: float = 1.0,
    task: Task = BINARY,
    parameters: dict[str, float] | None = None,
    timeout_s: float = 2.0,
) -> Path:
    """A bundle folder as a run would write it."""
    path, target = write_source(folder / "source", code, slope), folder / "bundle"
    target.mkdir()
    sources = bundle.find_sources(f"{PACKAGE}.model", path, folder / "source" / "slope.txt")
    bundle.copy_sources(target, sources)
    record = PythonRecord(
        class_name=f"{PACKAGE}.model:Model",
        parameters=parameters or {},
        task=task,
        columns=FEATURES.columns,
        sha256=bundle.digest(sources),
        runtime=PythonRuntime(timeout_s=timeout_s),
    )
    (target / bundle.FOLDER / bundle.RECORD_FILE).write_text(record.model_dump_json())
    Manifest(
        model="trips",
        task=task,
        features=FEATURES,
        feature_hash=FEATURES.content_hash,
        encoder=raw_encoder(FEATURES.columns),
        snapshot=Snapshot(table="trips.training", id=1, rows=100),
        code_version="test",
    ).save(target)
    return target


def python_version(folder: Path, number: str = "1") -> ModelVersion:
    """The version of such a bundle."""
    text = (folder / bundle.FOLDER / bundle.RECORD_FILE).read_text()
    return ModelVersion(model="trips", version=number, run_id="r", bundle_uri=folder.as_uri(), tags={PYTHON_TAG: text})


@contextmanager
def restored_imports() -> Iterator[None]:
    """The host has a process of its own, and does not give back what it changes: restore it after the block."""
    path, quiet = list(sys.path), sys.dont_write_bytecode
    yield
    sys.path[:], sys.dont_write_bytecode = path, quiet
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
