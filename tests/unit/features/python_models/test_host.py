"""A Python model is loaded from its bundle, with its own code and files, and every failure has a code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import DataError
from features.python_models.bundle import read_files
from features.python_models.host import PythonHost
from features.python_models.model_batch import to_ipc_batch
from tests.factories.deployments.python_bundles import HELPER, PACKAGE, SIGMOID, restored_imports, write_python_bundle
from tests.factories.errors import raises


@pytest.fixture(autouse=True)
def imports() -> Iterator[None]:
    with restored_imports():
        yield


def rows(*distances: float) -> bytes:
    count = len(distances)
    columns = {"distance": pa.array(distances, pa.float32()), "carrier": ["AA"] * count, "hour": [1.0] * count}
    return to_ipc_batch(pa.RecordBatch.from_pydict(columns))


def test_model_is_loaded_with_its_own_package_files_and_parameters(tmp_path: Path) -> None:
    bundle = write_python_bundle(tmp_path, slope=2.0, parameters={"factor": 0.5})
    files = read_files(bundle)
    host = PythonHost(bundle)
    scores = host.predict(rows(0.0, 3.0))
    assert scores.dtype == np.float32
    assert scores == pytest.approx(1 / (1 + np.exp(-np.array([0.0, 3.0]))))
    assert read_files(bundle) == files


def test_code_of_the_bundle_comes_before_modules_of_the_process(tmp_path: Path) -> None:
    first = PythonHost(write_python_bundle(tmp_path / "first"))
    other = SIGMOID.replace("return [1 /", "return [0 * 1 /")
    second = PythonHost(write_python_bundle(tmp_path / "second", other))
    assert (first.predict(rows(3.0)) > 0.9, second.predict(rows(3.0)) == 0.0) == (True, True)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module_of_mine", "no_such_module_of_mine"),
        ("class Other: pass", "Model"),
        (SIGMOID.replace('"slope.txt"', '"none.txt"'), "FileNotFoundError"),
    ],
    ids=["import", "class", "files"],
)
def test_model_that_does_not_load_is_refused_with_the_reason(tmp_path: Path, code: str, reason: str) -> None:
    with raises(DataError, "data.python_load", name=f"{PACKAGE}.model:Model") as caught:
        PythonHost(write_python_bundle(tmp_path, code))
    assert reason in str(caught.value.fields["reason"])


def test_failing_predict_names_the_line_at_fault(tmp_path: Path) -> None:
    host = PythonHost(write_python_bundle(tmp_path))
    line = SIGMOID.splitlines().index('            raise KeyError("no such trip")') + 1
    with raises(DataError, "data.python_predict", reason=f"KeyError: 'no such trip' (model.py:{line})"):
        host.predict(rows(1.0, 666.0))
    with raises(DataError, "data.python_scores"):
        host.predict(rows(777.0))
    assert host.predict(rows(0.0)).tolist() == [0.5]


@pytest.mark.parametrize("changed", ["code/trip_models/slopes.py", "files/slope.txt"])
def test_changed_code_or_files_are_not_loaded(tmp_path: Path, changed: str) -> None:
    bundle = write_python_bundle(tmp_path)
    (bundle / "python" / changed).write_text(HELPER + "#")
    with raises(DataError, "data.python_changed", path=str(bundle / "python")):
        PythonHost(bundle)
