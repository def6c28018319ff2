"""XGBoost: histograms, categories by their codes, missing numbers by each split's default direction."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logit

from features.encoder import Arrays
from trainers.trees.booster import BoostingRows, join_arrays
from trainers.trees.parameters import XgboostParameters

_OBJECTIVES = {
    "binary": ("binary:logistic", "logloss"),
    "multiclass": ("multi:softprob", "mlogloss"),
    "regression": ("reg:squarederror", "rmse"),
}
_FORMAT = "json"
_LARGEST = np.finfo(np.float32).max


class XgboostBooster:
    """An XGBoost model in training.

    Args:
        parameters: Parameters of the model.
        rows: Training rows.
        seed: Seed of row and column samples.
        threads: Threads.
        start: A model that continues, as ``save`` returns it.
    """

    def __init__(
        self, parameters: XgboostParameters, rows: BoostingRows, seed: int, threads: int, start: bytes | None = None
    ) -> None:
        import xgboost

        base = _base(rows)
        self._continues = start is not None
        self._base = logit(base) if rows.kind == "binary" else base
        self._data = _matrix(rows.arrays, threads, label=np.array(rows.labels), weight=rows.weights)
        options = _options(parameters, rows, seed, threads)
        self._booster: Any = (
            xgboost.Booster(options | {"base_score": base}, [self._data])
            if start is None
            else xgboost.Booster(options, [self._data], bytearray(start))
        )
        self._threads, self._classes = threads, rows.classes

    @property
    def rounds(self) -> int:
        return self._booster.num_boosted_rounds()

    def grow(self) -> bool:
        self._booster.update(self._data, self.rounds)
        return True

    def loss(self) -> float:
        return float(self._booster.eval(self._data).rpartition(":")[2])

    def logits(self, arrays: Arrays, start: int, rounds: int) -> np.ndarray:
        if (end := min(start + rounds, self.rounds)) <= start:
            return np.zeros((len(arrays["numbers"]), self._classes))
        margins = _margins(self._booster, arrays, self._threads, (start, end))
        if start and self._continues:
            # The model has the base of its first training: it cancels out.
            whole = _margins(self._booster, arrays, self._threads, (0, end))
            return whole - _margins(self._booster, arrays, self._threads, (0, start))
        return margins - self._base if start else margins

    def save(self, rounds: int) -> bytes:
        return bytes(self._booster[:rounds].save_raw(_FORMAT))


def load(model: bytes) -> Any:
    """An XGBoost model from what ``save`` returned."""
    import xgboost

    return xgboost.Booster({"nthread": 1}, model_file=bytearray(model))


def predict(booster: Any, arrays: Arrays) -> np.ndarray:
    """Logits of encoded rows on one thread, float64 [n, classes]."""
    return _margins(booster, arrays, 1, (0, 0))


def _margins(booster: Any, arrays: Arrays, threads: int, iterations: tuple[int, int]) -> np.ndarray:
    margins = booster.predict(_matrix(arrays, threads), output_margin=True, iteration_range=iterations)
    return np.asarray(margins, np.float64).reshape(len(arrays["numbers"]), -1)


def _matrix(arrays: Arrays, threads: int, **labels: Any) -> Any:
    import xgboost

    kinds = ["q"] * arrays["numbers"].shape[1] + ["c"] * arrays["codes"].shape[1]
    # XGBoost refuses infinite numbers; no split tells the largest float32 from infinity.
    columns = np.clip(join_arrays(arrays), -_LARGEST, _LARGEST)
    return xgboost.DMatrix(columns, feature_types=kinds, enable_categorical=True, nthread=threads, **labels)


def _base(rows: BoostingRows) -> float:
    """What the model starts from, as XGBoost's ``base_score``: of a binary task, the mean label."""
    if rows.kind != "binary":
        return 0.0
    return float(np.clip(np.average(rows.labels, weights=rows.weights), 1e-6, 1 - 1e-6))


def _options(parameters: XgboostParameters, rows: BoostingRows, seed: int, threads: int) -> dict[str, Any]:
    objective, metric = _OBJECTIVES[rows.kind]
    options = {
        **parameters.model_dump(exclude={"rounds"}),
        "objective": objective,
        "eval_metric": metric,
        "tree_method": "hist",
        "seed": seed,
        "nthread": threads,
        "verbosity": 0,
    }
    return options | ({"num_class": rows.classes} if rows.kind == "multiclass" else {})
