"""The model as a careful user calls it, shared by all peers: dicts for categories, one ONNX session, one thread."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

_UNKNOWN = 1


class Mlp:
    """Scores rows given as columns, or one row given as a record. MODEL_FOLDER names the model's folder."""

    def __init__(self) -> None:
        folder = Path(os.environ["MODEL_FOLDER"])
        schema = json.loads((folder / "schema.json").read_text())
        self._numbers: list[str] = schema["numbers"]
        self._codes: dict[str, dict[str, int]] = schema["codes"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])

    def score(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Scores, float32 [rows]."""
        numbers = np.array([columns[name] for name in self._numbers], np.float32).T
        codes = [[known.get(value, _UNKNOWN) for value in columns[name]] for name, known in self._codes.items()]
        return self._run(np.ascontiguousarray(numbers), np.ascontiguousarray(np.array(codes, np.int64).T))

    def score_one(self, record: Mapping[str, Any]) -> float:
        """The score of one row."""
        numbers = np.array([[record[name] for name in self._numbers]], np.float32)
        codes = np.array([[known.get(record[name], _UNKNOWN) for name, known in self._codes.items()]], np.int64)
        return float(self._run(numbers, codes)[0])

    def _run(self, numbers: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return self._session.run(["scores"], {"numbers": numbers, "codes": codes})[0]
