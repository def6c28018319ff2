"""Which format a model file has, and the model in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cluster.errors import DataError
from trainers.imports.source_model import SourceModel

Format = Literal["onnx", "lightgbm", "xgboost", "skops", "pickle"]
ENDINGS: dict[str, Format] = {
    ".onnx": "onnx",
    ".txt": "lightgbm",
    ".lgb": "lightgbm",
    ".json": "xgboost",
    ".ubj": "xgboost",
    ".xgb": "xgboost",
    ".skops": "skops",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".joblib": "pickle",
}
"""Formats by the ending of a file's name."""
MLMODEL_FILE = "MLmodel"


class ModelFile(NamedTuple):
    """A file that holds a model."""

    path: Path
    format: Format
    names: tuple[str, ...] = ()
    """Names of the input columns, where what surrounds the file says them."""

    @property
    def sha256(self) -> str:
        """Hash of its content."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def find_model(path: Path) -> ModelFile:
    """The model file at a path: the path itself, or that of an MLflow model's folder.

    Raises:
        DataError: There is none that can be imported.
    """
    if path.is_dir() and (path / MLMODEL_FILE).is_file():
        return _find_in_mlflow(path)
    if not path.is_file():
        raise DataError("data.file_not_found", path=str(path))
    if path.suffix.lower() not in ENDINGS:
        raise DataError("data.import_format", path=str(path), endings=list(ENDINGS))
    return ModelFile(path, ENDINGS[path.suffix.lower()])


def _find_in_mlflow(folder: Path) -> ModelFile:
    """The file of the first flavor that can be imported (https://mlflow.org/docs/latest/ml/model/)."""
    import yaml

    description = yaml.safe_load((folder / MLMODEL_FILE).read_text())
    flavors: dict[str, dict[str, Any]] = description.get("flavors", {})
    for flavor, key in (("onnx", "data"), ("lightgbm", "data"), ("xgboost", "data"), ("sklearn", "pickled_model")):
        if name := flavors.get(flavor, {}).get(key):
            path = folder / str(name)
            ending = path.suffix.lower()
            # Each flavor also stores estimators of its library, pickled.
            form = ENDINGS.get(ending) if ENDINGS.get(ending) in ("skops", "pickle") or flavor == "sklearn" else flavor
            if form is not None and path.is_file():
                return ModelFile(path, form, _signature_names(description))  # type: ignore[arg-type]
    raise DataError("data.import_format", path=str(folder), endings=["onnx", "lightgbm", "xgboost", "sklearn"])


def _signature_names(description: dict[str, Any]) -> tuple[str, ...]:
    inputs = json.loads((description.get("signature") or {}).get("inputs") or "[]")
    names = [each.get("name") for each in inputs]
    return tuple(map(str, names)) if names and all(names) and inputs[0].get("type") != "tensor" else ()


def read_model(file: ModelFile, output: str = "", trust: bool = False) -> SourceModel:
    """Read a model file.

    Args:
        file: The file.
        output: Of an ONNX graph with several outputs, the one with the scores.
        trust: Whether code in the file may run.

    Raises:
        DataError: It cannot be read, or would run code that is not trusted.
    """
    if file.format == "pickle" and not trust:
        raise DataError("data.import_pickle", path=str(file.path))
    content = b"" if file.format == "onnx" else file.path.read_bytes()
    if file.format == "onnx":
        from trainers.imports.onnx_source import OnnxSource, read_graph

        source: SourceModel = OnnxSource(read_graph(file.path), output)
    elif file.format in ("lightgbm", "xgboost"):
        from trainers.imports.forest_source import read_lightgbm, read_xgboost

        source = (read_lightgbm if file.format == "lightgbm" else read_xgboost)(content)
    else:
        from trainers.imports.sklearn_source import load_pickle, load_skops, read_estimator

        source = read_estimator(load_skops(content, trust) if file.format == "skops" else load_pickle(content))
    return source if source.signature.names or not file.names else source.with_names(file.names)
