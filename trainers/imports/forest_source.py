"""Model files of LightGBM and XGBoost: their own scores, and their trees behind the inputs of rayloop.

A category of these libraries is a code: the place of a value in the list that a data frame had, which both store, or
the whole number that a row has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from cluster.errors import DataError
from cluster.values import Task
from features.definitions import Column
from features.encoder import FIRST_CODE, MISSING_CODE, Encoder
from trainers.config import ModelSpec
from trainers.imports.source_model import InputKind, Signature
from trainers.input_spec import InputSpec
from trainers.trees import xgboost_json
from trainers.trees.forest import Forest, Tree
from trainers.trees.forest_onnx import forest_to_onnx
from trainers.trees.libraries import library_of

_LIGHTGBM = {
    "binary": True, "multiclass": True, "regression": False, "regression_l1": False, "huber": False, "fair": False,
    "quantile": False, "mape": False,
}  # fmt: skip
"""Objectives whose scores are logits through a sigmoid or softmax, or sums; whether they are classifiers."""
_XGBOOST = {
    "binary:logistic": True, "multi:softprob": True, "multi:softmax": True, "reg:squarederror": False,
    "reg:absoluteerror": False, "reg:pseudohubererror": False, "reg:quantileerror": False,
}  # fmt: skip


@dataclass(frozen=True)
class Categories:
    """The values of a category column."""

    values: tuple[str, ...]
    """In the order of their codes; of a column without a stored list the whole numbers that splits test."""
    is_list: bool
    """Whether a code is a place in the list; otherwise it is the number itself."""

    def code(self, value: str | None) -> float:
        """The library's code of a value; NaN where it has none."""
        if value is None:
            return np.nan
        if self.is_list:
            return float(self.values.index(value)) if value in self.values else np.nan
        return float(value)

    def place(self, code: int) -> int | None:
        """The place of a code in ``values``."""
        if self.is_list:
            return code if code < len(self.values) else None
        return self.values.index(str(code)) if str(code) in self.values else None


@dataclass(frozen=True)
class ForestSource:
    """A model file of trees (trainers.imports.source_model.SourceModel)."""

    format: str
    signature: Signature
    forest: Forest
    categories: Mapping[int, Categories]
    """By position of the column."""
    divisor: float
    """Divides the sum of the trees."""
    predict: Callable[[np.ndarray], np.ndarray]
    """The library's own predictions of its columns, float64 [n] or [n, classes]."""

    def with_names(self, names: tuple[str, ...]) -> ForestSource:
        """The same model with names for its input columns."""
        if len(names) != self.signature.width:
            raise DataError("data.import_width", inputs=self.signature.width, columns=len(names), names=list(names))
        kinds: dict[str, InputKind] = {
            name: "category" if i in self.categories else "number" for i, name in enumerate(names)
        }
        return replace(self, signature=self.signature._replace(names=names, kinds=kinds))

    def with_classes(self, classes: tuple[str, ...]) -> ForestSource:
        """The same model with names for its classes, in the order of its outputs."""
        return replace(self, signature=self.signature._replace(classes=classes))

    def vocabularies(self, columns: tuple[Column, ...]) -> dict[str, tuple[str, ...]]:
        """The values that the library has codes for."""
        names = self.signature.names
        taken = [c.name for c in columns if c.kind == "category" and c.name in names]
        return {name: self.categories[names.index(name)].values for name in taken}

    def outputs(self, rows: pl.DataFrame) -> np.ndarray:
        """What the library returns for rows."""
        columns = [self._column(rows.get_column(name), i) for i, name in enumerate(self.signature.names)]
        return np.asarray(self.predict(np.column_stack(columns)), np.float64).reshape(rows.height, -1)

    def to_onnx(self, encoder: Encoder, task: Task) -> bytes:
        """The trees as a graph."""
        inputs = InputSpec(
            numbers=encoder.numbers,
            tensors=encoder.tensors,
            categories=encoder.categories,
            cardinalities=encoder.cardinalities,
            mean=(0.0,) * encoder.width,
            std=(1.0,) * encoder.width,
            missing=(),
        )
        trees = tuple(self._tree(tree, encoder) for tree in self.forest.trees)
        return forest_to_onnx(Forest(trees, self.forest.base), task, inputs, self.divisor)

    def _column(self, values: pl.Series, position: int) -> np.ndarray:
        if position not in self.categories:
            return values.cast(pl.Float64).to_numpy()
        codes = self.categories[position]
        try:
            return np.array([codes.code(value) for value in values], np.float64)
        except ValueError as error:
            raise DataError(
                "data.import_input", name=values.name, reason="it takes whole numbers, and the rows have texts"
            ) from error

    def _tree(self, tree: Tree, encoder: Encoder) -> Tree:
        """A tree over the columns and codes of the encoder."""
        names = self.signature.names
        places = [
            encoder.width + encoder.categories.index(name) if i in self.categories else encoder.numbers.index(name)
            for i, name in enumerate(names)
        ]
        categories = {
            split: self._codes(int(tree.features[split]), codes, bool(tree.missing_left[split]))
            for split, codes in tree.categories.items()
        }
        return tree._replace(features=np.array(places, int)[tree.features.astype(int)], categories=categories)

    def _codes(self, feature: int, codes: frozenset[int], missing: bool) -> frozenset[int]:
        places = (self.categories[feature].place(code) for code in codes)
        return frozenset(
            {FIRST_CODE + place for place in places if place is not None} | ({MISSING_CODE} if missing else set())
        )


def read_lightgbm(content: bytes) -> ForestSource:
    """Read a model file of LightGBM (text).

    Raises:
        DataError: It is no such file, or has what no graph can have.
    """
    library = library_of(ModelSpec(build="lightgbm"))
    try:
        booster = library.load(content)
        text = content.decode()
    # LightGBM's own class of error needs its import.
    except Exception as error:
        raise DataError("data.import_unreadable", format="LightGBM", reason=str(error).splitlines()[0]) from error
    header = dict(line.partition("=")[::2] for line in text.partition("\nTree=")[0].splitlines())
    objective, *options = header.get("objective", "none").split()
    sigmoid = float(dict(option.partition(":")[::2] for option in options).get("sigmoid", 1))
    if objective not in _LIGHTGBM or "sqrt" in options:
        raise DataError("data.tree_unsupported", what=f"the objective {header.get('objective', 'none')!r}")
    if "\naverage_output" in text.partition("\nTree=")[0]:
        raise DataError("data.tree_unsupported", what="the boosting of a random forest")
    names = tuple(header["feature_names"].split(" "))
    infos = header["feature_infos"].split(" ")
    stored = json.loads(text.rpartition("pandas_categorical:")[2].strip() or "null") or []
    positions = [i for i, info in enumerate(infos) if not info.startswith("[") and info != "none"]
    if stored and len(stored) != len(positions):
        raise DataError("data.tree_unsupported", what="categories that no split may use")
    lists = dict(zip(positions, stored, strict=False))
    categories = {i: _categories(lists.get(i), infos[i].split(":")) for i in positions}
    return _source(
        "lightgbm", names, library.forest(content), categories, _LIGHTGBM[objective], booster.predict, 1 / sigmoid
    )


def _categories(stored: list[Any] | None, codes: list[str]) -> Categories:
    if stored is not None:
        return Categories(tuple(map(str, stored)), is_list=True)
    return Categories(tuple(sorted((code for code in codes if int(code) >= 0), key=int)), is_list=False)


def read_xgboost(content: bytes) -> ForestSource:
    """Read a model file of XGBoost (JSON or UBJSON). Of an early stopped model the trees up to the best round.

    Raises:
        DataError: It is no such file, or has what no graph can have.
    """
    library = library_of(ModelSpec(build="xgboost"))
    try:
        booster = library.load(content)
        # A slice of a model has no lists of categories.
        whole = json.loads(bytes(booster.save_raw("json")))
        if best := booster.attr("best_iteration"):
            booster = booster[: int(best) + 1]
        text = bytes(booster.save_raw("json"))
    # XGBoost's own class of error needs its import.
    except Exception as error:
        raise DataError("data.import_unreadable", format="XGBoost", reason=str(error).splitlines()[0]) from error
    learner = json.loads(text)["learner"]
    objective = learner["objective"]["name"]
    if objective not in _XGBOOST:
        raise DataError("data.tree_unsupported", what=f"the objective {objective!r}")
    forest = xgboost_json.read_forest(text)
    width = int(learner["learner_model_param"]["num_feature"])
    types = learner.get("feature_types") or ["float"] * width
    names = tuple(learner.get("feature_names") or (f"f{i}" for i in range(width)))
    lists = whole["learner"]["gradient_booster"]["model"].get("cats", {}).get("enc", [])
    categories = {
        i: _xgboost_categories(lists[i] if i < len(lists) else {}, _tested_codes(forest, i))
        for i, kind in enumerate(types)
        if kind == "c"
    }

    def predict(columns: np.ndarray) -> np.ndarray:
        import xgboost

        rows = xgboost.DMatrix(
            columns, feature_names=booster.feature_names, feature_types=booster.feature_types, enable_categorical=True
        )
        if objective != "multi:softmax":
            return np.asarray(booster.predict(rows))
        margins = np.asarray(booster.predict(rows, output_margin=True), np.float64)
        powers = np.exp(margins - margins.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    return _source("xgboost", names, forest, categories, _XGBOOST[objective], predict, 1.0)


def _xgboost_categories(stored: Mapping[str, Any], codes: list[str]) -> Categories:
    """The values of a column: texts are stored joined, with their bounds."""
    values, bounds = stored.get("values", []), stored.get("offsets", [])
    if bounds:
        joined = bytes(values)
        texts = [joined[start:end].decode() for start, end in pairwise(bounds)]
        return Categories(tuple(texts), is_list=True)
    if values:
        return Categories(tuple(map(str, values)), is_list=True)
    return Categories(tuple(codes), is_list=False)


def _tested_codes(forest: Forest, feature: int) -> list[str]:
    codes = {
        code
        for tree in forest.trees
        for split, tested in tree.categories.items()
        if int(tree.features[split]) == feature
        for code in tested
    }
    return [str(code) for code in sorted(codes)]


def _source(
    format: str,
    names: tuple[str, ...],
    forest: Forest,
    categories: Mapping[int, Categories],
    is_classifier: bool,
    predict: Callable[[np.ndarray], np.ndarray],
    divisor: float,
) -> ForestSource:
    signature = Signature(names, len(names), {}, (), is_classifier)
    source = ForestSource(format, signature, forest, categories, divisor, predict)
    # Names that the libraries give to columns without a name say nothing.
    unnamed = names in (tuple(f"Column_{i}" for i in range(len(names))), tuple(f"f{i}" for i in range(len(names))))
    return replace(source, signature=signature._replace(names=())) if unnamed else source.with_names(names)
