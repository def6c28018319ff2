"""An imported model in a project: its graph, and where it comes from."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime as ort
from pydantic import ValidationError

from cluster.errors import DataError, ProjectError
from cluster.fingerprint import json_fingerprint
from cluster.values import Stored, Task
from features.encoder import Arrays, Encoder
from features.manifest import MODEL_FILE
from trainers.scoring import onnx_scorer

FOLDER = "imported"
"""Folder of the imported model, beside the project's module."""
FACTS_FILE = "import.json"


class ImportFacts(Stored, stored_as="import of a model"):
    """Where an imported model comes from, and how it was converted."""

    format: str
    """onnx, lightgbm, xgboost or scikit-learn."""
    source: str
    """The path or URI that was imported."""
    sha256: str
    """Hash of the file."""
    graph_sha256: str
    """Hash of the graph."""
    imported_at: str
    """Time, ISO 8601."""
    imported_by: str
    """User who imported it."""
    trusted: bool
    """Whether the user let code in the file run."""
    task: Task
    encoder: Encoder
    """The model's columns, and the values of categories that it tells apart."""
    parity: float
    """Largest difference between the graph's scores and the model's own."""
    parity_rows: int
    """Reference rows on which they were compared."""

    @property
    def lineage(self) -> dict[str, str]:
        """Where the model comes from, by name."""
        named = {
            name: str(getattr(self, name)) for name in ("format", "source", "sha256", "imported_at", "imported_by")
        }
        return named | {"trusted": str(self.trusted)}

    @property
    def key(self) -> str:
        """What distinguishes the model from another one, regardless of who imported it and from where."""
        names = {"format", "sha256", "graph_sha256", "task", "encoder"}
        return json_fingerprint(self.model_dump(mode="json", include=names))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the facts of the model in a project's folder.

        Raises:
            ProjectError: The project has no imported model.
        """
        path = folder / FOLDER / FACTS_FILE
        try:
            return cls.from_stored(path.read_bytes())
        except FileNotFoundError as error:
            raise ProjectError("project.nothing_imported", folder=str(folder)) from error
        except ValidationError as error:
            raise DataError("data.bundle_invalid", path=str(path), reason=error.errors()[0]["msg"]) from error


def load_graph(folder: Path, facts: ImportFacts) -> bytes:
    """The graph of the imported model in a project's folder.

    Raises:
        ProjectError: It is not the one that the facts are of.
    """
    path = folder / FOLDER / MODEL_FILE
    graph = path.read_bytes() if path.is_file() else b""
    if sha256_of(graph) != facts.graph_sha256:
        raise ProjectError("project.nothing_imported", folder=str(folder))
    return graph


def sha256_of(content: bytes) -> str:
    """Hash of a file's content."""
    return hashlib.sha256(content).hexdigest()


class ImportedModel:
    """An imported model (trainers.fitted_model.GraphModel).

    Args:
        graph: Its ONNX graph.
    """

    STATE = "imported.onnx"
    """Name of the graph, as bytes, in the state of a FitResult."""

    def __init__(self, graph: bytes) -> None:
        self._graph = graph

    def score(self, arrays: Arrays) -> np.ndarray:
        """Scores of encoded rows."""
        return onnx_scorer.score(self._session, arrays)

    def to_onnx(self) -> bytes:
        """The graph."""
        return self._graph

    @cached_property
    def _session(self) -> ort.InferenceSession:
        return onnx_scorer.open_session(self._graph)
