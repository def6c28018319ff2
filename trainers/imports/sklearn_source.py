"""A fitted estimator of scikit-learn: its own scores, and its ONNX graph by skl2onnx."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from cluster.errors import DataError, ProjectError
from cluster.values import Task
from features.definitions import Column
from features.encoder import Encoder
from trainers.imports.forest_source import read_lightgbm, read_xgboost
from trainers.imports.onnx_source import OnnxSource
from trainers.imports.source_model import MISSING_TEXT, Signature, SourceModel

OPSETS = {"": 18, "ai.onnx.ml": 3}
"""Versions of operators in the graph: of those that onnxruntime has, without converters' newest."""
_EXTRA = "sklearn"
_SAFE_TYPES = {"numpy.dtype"}
"""Types that skops does not know, and that run no code: each imputer has one."""
_BLOCK = "columns"


@dataclass(frozen=True)
class EstimatorSource:
    """An estimator (trainers.imports.source_model.SourceModel)."""

    estimator: Any
    signature: Signature
    format: str = "scikit-learn"
    _graphs: dict[tuple[Column, ...], OnnxSource] = field(default_factory=dict)

    def with_names(self, names: tuple[str, ...]) -> EstimatorSource:
        """The same estimator with names for its input columns."""
        if self.signature.width and len(names) != self.signature.width:
            raise DataError("data.import_width", inputs=self.signature.width, columns=len(names), names=list(names))
        return replace(self, signature=self.signature._replace(names=names))

    def with_classes(self, classes: tuple[str, ...]) -> EstimatorSource:
        """The same model with names for its classes, in the order of its outputs."""
        return replace(self, signature=self.signature._replace(classes=classes))

    def vocabularies(self, columns: tuple[Column, ...]) -> dict[str, tuple[str, ...]]:
        """All texts of the graph, for each category."""
        return self._graph(columns).vocabularies(columns)

    def outputs(self, rows: pl.DataFrame) -> np.ndarray:
        """What the estimator returns for rows: probabilities, or values."""
        call = self.estimator.predict_proba if self.signature.is_classifier else self.estimator.predict
        try:
            with warnings.catch_warnings(action="ignore"):
                values = call(self._table(rows.select(self.signature.names)))
        # An estimator may fail in any way on rows that it was not fitted for.
        except Exception as error:
            raise DataError("data.import_fails", reason=" ".join(str(error).split())[:300]) from error
        return np.asarray(values, np.float64).reshape(rows.height, -1)

    def to_onnx(self, encoder: Encoder, task: Task) -> bytes:
        """The estimator as a graph."""
        return self._graph(encoder.columns).to_onnx(encoder, task)

    def _table(self, rows: pl.DataFrame) -> Any:
        texts = [name for name, kind in rows.schema.items() if kind == pl.String]
        table = rows.to_pandas()
        for name in texts:
            table[name] = table[name].astype(object).where(table[name].notna(), np.nan)
        return table if hasattr(self.estimator, "feature_names_in_") else table.to_numpy()

    def _graph(self, columns: tuple[Column, ...]) -> OnnxSource:
        if columns not in self._graphs:
            kinds = {column.name: column.kind for column in columns}
            self._graphs[columns] = _convert(self.estimator, self.signature, kinds)
        return self._graphs[columns]


def read_estimator(estimator: Any) -> SourceModel:
    """Describe an unpickled model; LightGBM's and XGBoost's estimators by their own model files.

    Raises:
        DataError: It returns no scores.
    """
    classes = tuple(map(class_text, getattr(estimator, "classes_", ())))
    if hasattr(estimator, "booster_"):
        return read_lightgbm(estimator.booster_.model_to_string().encode()).with_classes(classes)
    if hasattr(estimator, "get_booster"):
        return read_xgboost(bytes(estimator.get_booster().save_raw("json"))).with_classes(classes)
    kind = type(estimator).__name__
    if not hasattr(estimator, "predict"):
        raise DataError("data.import_no_scores", outputs=[f"{kind} has no predict"])
    if classes and not hasattr(estimator, "predict_proba"):
        raise DataError("data.import_no_scores", outputs=[f"{kind} has no predict_proba"])
    names = tuple(map(str, getattr(estimator, "feature_names_in_", ())))
    width = int(getattr(estimator, "n_features_in_", len(names)))
    return EstimatorSource(estimator, Signature(names, width, {}, classes, bool(classes)))


def load_skops(content: bytes, trust: bool) -> Any:
    """Load a skops file.

    Args:
        content: The file.
        trust: Whether types that skops does not know to be safe are loaded, too.

    Raises:
        DataError: It has such types, or is no skops file.
    """
    _require("skops")
    from skops import io as skops

    try:
        unknown = skops.get_untrusted_types(data=content)
        untrusted = sorted(set(unknown) - _SAFE_TYPES)
        if untrusted and not trust:
            raise DataError("data.import_untrusted", types=untrusted)
        return skops.loads(content, trusted=unknown)
    except DataError:
        raise
    # A damaged file fails in zip, JSON or the constructor of a type.
    except Exception as error:
        raise DataError("data.import_unreadable", format="skops", reason=str(error).splitlines()[0]) from error


def load_pickle(content: bytes) -> Any:
    """Load a file of pickle or joblib, which runs the code in it: only where the user trusts it.

    Raises:
        DataError: It cannot be loaded.
    """
    import joblib

    try:
        return joblib.load(io.BytesIO(content))
    # Whatever the file's code raises.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError("data.import_unreadable", format="pickle", reason=reason) from error


def class_text(value: Any) -> str:
    """A class as the text that a label column has for it."""
    value = value.item() if isinstance(value, np.generic) else value
    is_whole = isinstance(value, bool) or (isinstance(value, float) and value.is_integer())
    return str(int(value)) if is_whole else str(value)


def _converters() -> dict[type, Callable[..., None]]:
    """Converters in place of those of skl2onnx 1.20 that write truth values, which ONNX 1.23 refuses as numbers."""
    from skl2onnx.common._registration import get_converter
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    def wrap(name: str) -> Callable[..., None]:
        def convert(scope: Any, operator: Any, container: Any) -> None:
            get_converter(name)(scope, operator, _NumberContainer(container))

        return convert

    kinds = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
    return {kind: wrap(f"Sklearn{kind.__name__}") for kind in kinds}


class _NumberContainer:
    """A container of skl2onnx that takes truth values as numbers."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, kind: str, inputs: Any, outputs: Any, **attributes: Any) -> None:
        numbers = {name: [int(v) for v in values] for name, values in attributes.items() if _has_truth_value(values)}
        self._container.add_node(kind, inputs, outputs, **{**attributes, **numbers})


def _has_truth_value(values: Any) -> bool:
    return isinstance(values, list) and any(isinstance(value, bool | np.bool_) for value in values)


def _with_empty_texts(estimator: Any) -> Any:
    """The estimator with an empty text for each missing one that it knows: ONNX has no missing text."""
    inner = [step for _, step in getattr(estimator, "steps", ())]
    inner += [step for _, step, _ in getattr(estimator, "transformers_", ())]
    inner += [step for _, step in getattr(estimator, "transformer_list", ())]
    for step in inner:
        _with_empty_texts(step)
    if getattr(getattr(estimator, "statistics_", None), "dtype", np.dtype(float)).hasobject:
        estimator.missing_values = MISSING_TEXT
    if hasattr(estimator, "categories_"):
        estimator.categories_ = [_replace_missing(values) for values in estimator.categories_]
    return estimator


def _replace_missing(values: np.ndarray) -> np.ndarray:
    if values.dtype != object:
        return values
    # NaN is not equal to itself.
    return np.array([MISSING_TEXT if value is None or value != value else value for value in values], object)


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ProjectError("project.library_missing", model=_EXTRA, package=package)


def _convert(estimator: Any, signature: Signature, kinds: Mapping[str, str]) -> OnnxSource:
    _require("skl2onnx")
    with warnings.catch_warnings(action="ignore"):
        import skl2onnx
        from skl2onnx.common.data_types import FloatTensorType, StringTensorType

        if hasattr(estimator, "feature_names_in_"):
            types = [
                (name, (StringTensorType if kinds[name] == "category" else FloatTensorType)([None, 1]))
                for name in signature.names
            ]
        else:
            texts = any(kinds[name] == "category" for name in signature.names)
            block = StringTensorType if texts else FloatTensorType
            types = [(_BLOCK, block([None, len(signature.names)]))]
        try:
            estimator = _with_empty_texts(deepcopy(estimator))
            options = {id(estimator): {"zipmap": False}} if signature.is_classifier else {}
            graph = skl2onnx.convert_sklearn(
                estimator,
                custom_conversion_functions=_converters(),
                initial_types=types,
                options=options,
                target_opset=OPSETS,
            )
        # skl2onnx fails in many ways on what it has no converter for.
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise DataError("data.import_conversion", model=type(estimator).__name__, reason=reason) from error
    taken = {each.name for each in graph.graph.input}
    # Columns that no step uses are no inputs of the graph.
    names = tuple(name for name in signature.names if name in taken) if len(types) > 1 else signature.names
    return OnnxSource(graph.SerializeToString(), names=names).with_classes(signature.classes)
