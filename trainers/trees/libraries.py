"""The libraries that train trees, by the kind of model that names them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cluster.errors import ProjectError
from features.encoder import Arrays
from trainers.config import ModelSpec
from trainers.trees import lightgbm_booster, lightgbm_text, xgboost_booster, xgboost_json
from trainers.trees.booster import Booster, BoostingRows
from trainers.trees.forest import Forest


class Library(NamedTuple):
    """How a library trains, scores, and describes its trees."""

    package: str
    """The package to import."""
    booster: Callable[[Any, BoostingRows, int, int, bytes | None], Booster]
    """Starts a training: parameters, rows, seed, threads, and a model that continues."""
    load: Callable[[bytes], Any]
    """The library's model from what ``Booster.save`` returned."""
    rounds: Callable[[bytes], int]
    """Rounds of what ``Booster.save`` returned."""
    predict: Callable[[Any, Arrays], np.ndarray]
    """Logits of encoded rows by the library's model, float64 [n, classes]."""
    forest: Callable[[bytes], Forest]
    """The trees of what ``Booster.save`` returned."""


_LIBRARIES = {
    "lightgbm": Library(
        "lightgbm",
        lightgbm_booster.LightgbmBooster,
        lightgbm_booster.load,
        lambda model: lightgbm_booster.load(model).current_iteration(),
        lambda model, arrays: lightgbm_booster.predict(model, arrays, num_threads=1),
        lambda model: lightgbm_text.read_forest(model.decode()),
    ),
    "xgboost": Library(
        "xgboost",
        xgboost_booster.XgboostBooster,
        xgboost_booster.load,
        lambda model: xgboost_booster.load(model).num_boosted_rounds(),
        xgboost_booster.predict,
        xgboost_json.read_forest,
    ),
}


def library_of(spec: ModelSpec) -> Library:
    """The library that trains a model.

    Raises:
        ProjectError: It is not installed.
    """
    library = _LIBRARIES[str(spec.build)]
    if importlib.util.find_spec(library.package) is None:
        raise ProjectError("project.library_missing", model=spec.name, package=library.package)
    return library
