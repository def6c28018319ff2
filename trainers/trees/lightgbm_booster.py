"""LightGBM: categories by their codes as LightGBM splits them (Fisher 1958), missing numbers as its own NaN."""

from __future__ import annotations

from typing import Any

import numpy as np

from features.encoder import Arrays
from trainers.trees.booster import BoostingRows, join_arrays
from trainers.trees.parameters import LightgbmParameters

_LOSSES = {"binary": "binary_logloss", "multiclass": "multi_logloss", "regression": "l2"}


class LightgbmBooster:
    """A LightGBM model in training.

    Args:
        parameters: Parameters of the model.
        rows: Training rows.
        seed: Seed of row and column samples.
        threads: Threads; the trees do not depend on their number.
        start: A model that continues, as ``save`` returns it; it gets its first new round here.
    """

    def __init__(
        self, parameters: LightgbmParameters, rows: BoostingRows, seed: int, threads: int, start: bytes | None = None
    ) -> None:
        # LightGBM takes more than a second to import, and only processes that train or score need it.
        import lightgbm

        options = _options(parameters, rows, seed, threads)
        first = rows.arrays["numbers"].shape[1]
        categories = list(range(first, first + rows.arrays["codes"].shape[1]))
        # Copies: LightGBM warns of a view.
        columns, labels = join_arrays(rows.arrays), np.array(rows.labels)
        data = lightgbm.Dataset(columns, labels, weight=rows.weights, categorical_feature=categories, params=options)
        self._booster: Any = (
            lightgbm.Booster(options, data)
            if start is None
            else lightgbm.train(options, data, 1, init_model=load(start), keep_training_booster=True)
        )
        self._threads, self._classes = threads, rows.classes

    @property
    def rounds(self) -> int:
        return self._booster.current_iteration()

    def grow(self) -> bool:
        return not self._booster.update()

    def loss(self) -> float:
        return float(self._booster.eval_train()[0][2])

    def logits(self, arrays: Arrays, start: int, rounds: int) -> np.ndarray:
        if (rounds := min(rounds, self.rounds - start)) <= 0:
            return np.zeros((len(arrays["numbers"]), self._classes))
        return predict(self._booster, arrays, start_iteration=start, num_iteration=rounds, num_threads=self._threads)

    def save(self, rounds: int) -> bytes:
        return self._booster.model_to_string(num_iteration=rounds).encode()


def load(model: bytes) -> Any:
    """A LightGBM model from what ``save`` returned."""
    import lightgbm

    return lightgbm.Booster(model_str=model.decode())


def predict(booster: Any, arrays: Arrays, **options: Any) -> np.ndarray:
    """Logits of encoded rows, float64 [n, classes]."""
    logits = np.asarray(booster.predict(join_arrays(arrays), raw_score=True, **options))
    return logits.reshape(len(arrays["numbers"]), -1)


def _options(parameters: LightgbmParameters, rows: BoostingRows, seed: int, threads: int) -> dict[str, Any]:
    options = {
        **parameters.model_dump(exclude={"rounds"}),
        "objective": rows.kind,
        "metric": _LOSSES[rows.kind],
        "subsample_freq": 1,
        "seed": seed,
        "num_threads": threads,
        # The same bits in every run and with any number of threads.
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    return options | ({"num_class": rows.classes} if rows.kind == "multiclass" else {})
