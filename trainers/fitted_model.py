"""A fitted model: all that evaluation, calibration and export need of it, also of one that was not trained here."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from features.encoder import Arrays


class FittedModel(Protocol):
    """A model that scores encoded rows."""

    def score(self, arrays: Arrays) -> np.ndarray:
        """Scores of encoded rows (features/encoder.py), float32, shaped as cluster.values.Task describes."""


@runtime_checkable
class GraphModel(FittedModel, Protocol):
    """A fitted model that writes its own ONNX graph; a torch module is traced instead."""

    def to_onnx(self) -> bytes:
        """An ONNX model with the inputs "numbers" float32 [n, k] and "codes" int64 [n, c], each present when it has
        columns, and the output "scores", which equals ``score``. The batch size is dynamic.
        """
