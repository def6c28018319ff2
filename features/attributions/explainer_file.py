"""The file of a bundle from which its scores are explained: explainer.safetensors.

Its metadata has the record; its tensors are those of the method: LeafPaths, AdditiveTerms, or the encoded background
rows. Only the background consists of training rows. Bundles from before 0.3 have no such file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cluster.errors import DataError
from cluster.values import Stored, Task
from features.attributions.additive_terms import AdditiveTerms, LinearExplainer
from features.attributions.contributions import Method, RowExplainer, Unit, feature_locations, feature_of_columns
from features.attributions.sampled_shapley import SampledExplainer
from features.attributions.tree_shap import LeafPaths, TreeShap
from features.encoder import Arrays, Encoder

EXPLAINER_FILE = "explainer.safetensors"
_RECORD = "explainer"


class ExplainerRecord(Stored, stored_as="explainer"):
    """How a version's scores are explained."""

    method: Method
    reasons: dict[str, str] = Field(default_factory=dict)
    """Words of a reason, by feature."""
    unit: Unit | None = Field(default=None, exclude_if=lambda unit: unit is None)
    """Unit of exact contributions; None: that of logits, or of a regression's label."""


class Background(NamedTuple):
    """Encoded training rows, in random order."""

    numbers: np.ndarray
    codes: np.ndarray


ExplainerData = LeafPaths | AdditiveTerms | Background
_DATA: dict[Method, type[LeafPaths] | type[AdditiveTerms] | type[Background]] = {
    "treeshap": LeafPaths,
    "linear": AdditiveTerms,
    "sampled": Background,
}


class Explainer(NamedTuple):
    """A version's explainer."""

    record: ExplainerRecord
    unit: Unit
    features: tuple[str, ...]
    """Names of the features, in the order of contributions."""
    rows: RowExplainer

    @classmethod
    def build(
        cls,
        record: ExplainerRecord,
        data: ExplainerData,
        encoder: Encoder,
        task: Task,
        score: Callable[[Arrays], np.ndarray],
    ) -> Explainer:
        """Build an explainer.

        Args:
            record: Its method.
            data: What the method needs.
            encoder: The model's encoder.
            task: The model's task.
            score: The model as it is served, for samples.
        """
        locations = feature_locations(encoder)
        rows: RowExplainer
        if isinstance(data, LeafPaths):
            rows = TreeShap(data, feature_of_columns(locations))
        elif isinstance(data, AdditiveTerms):
            rows = LinearExplainer(data, feature_of_columns(locations))
        else:
            rows = SampledExplainer(score, data._asdict(), locations)
        return cls(record, record.unit or _unit(record.method, task), tuple(locations), rows)


def save_explainer(record: ExplainerRecord, data: ExplainerData, folder: Path) -> None:
    """Write explainer.safetensors into a bundle."""
    tensors = {name: np.ascontiguousarray(values) for name, values in data._asdict().items()}
    save_file(tensors, folder / EXPLAINER_FILE, {_RECORD: record.model_dump_json()})


def load_explainer(
    folder: Path, encoder: Encoder, task: Task, score: Callable[[Arrays], np.ndarray]
) -> Explainer | None:
    """Read a bundle's explainer; None if it has none.

    Args:
        folder: The bundle.
        encoder: The model's encoder.
        task: The model's task.
        score: The model as it is served.

    Raises:
        DataError: The file is damaged, or a newer version wrote it.
    """
    path = folder / EXPLAINER_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            record = ExplainerRecord.from_stored(file.metadata()[_RECORD])
            data = _DATA[record.method](**{name: file.get_tensor(name) for name in _DATA[record.method]._fields})
    except (SafetensorError, ValidationError, KeyError, TypeError) as error:
        raise DataError("data.invalid_explainer", path=str(path), reason=str(error).splitlines()[0]) from error
    return Explainer.build(record, data, encoder, task, score)


def _unit(method: Method, task: Task) -> Unit:
    if task.kind == "regression":
        return "value"
    if method == "sampled":
        return "probability"
    return "logit" if task.kind == "multiclass" else "log-odds"
