"""Files of a model version: a folder of JSON, ONNX and safetensors; of a Python model, also code. Nothing is pickled.

manifest.json         task, feature set (as data) and its hash, encoder, lineage
model.onnx            inputs ``numbers`` and ``codes`` (features/encoder.py), output ``scores``
portable.onnx         the same model with the encoder included: one input per column
                      (trainers/export/portable_onnx.py)
weights.safetensors   parameters of the training module, or the model file of the library that trained it, as bytes
profile.json          reference profile (features/profiles/reference_profile.py)
python/               of a Python model, in place of ONNX, weights and explainer: features/python_models/bundle.py
explainer.safetensors how scores are explained (features/attributions/explainer_file.py); missing before 0.3
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from cluster.errors import DataError
from cluster.values import Snapshot, Stored, Task
from features.definitions import FeatureSet
from features.encoder import Encoder

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
PORTABLE_FILE = "portable.onnx"
WEIGHTS_FILE = "weights.safetensors"
PROFILE_FILE = "profile.json"

Precision = Literal["float32", "int8"]


class Manifest(Stored, stored_as="model manifest"):
    """Everything about a model version except its weights."""

    model: str
    task: Task
    features: FeatureSet
    feature_hash: str
    encoder: Encoder
    snapshot: Snapshot
    code_version: str
    recipe: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What is needed to train the version again, as JSON."""
    metrics: dict[str, float] = Field(default_factory=dict)
    class_shares: tuple[float, ...] = ()
    """Share of each class among the labels that the version was trained on; empty where that is not known."""
    precision: Precision = "float32"
    """Of the weights in model.onnx and portable.onnx."""

    def save(self, folder: Path) -> None:
        """Write manifest.json."""
        (folder / MANIFEST_FILE).write_text(self.model_dump_json(indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read manifest.json.

        Raises:
            DataError: The folder has no valid manifest, or its feature set was changed.
        """
        path = folder / MANIFEST_FILE
        try:
            manifest = cls.from_stored(path.read_bytes())
        except FileNotFoundError as error:
            raise DataError("data.bundle_missing", path=str(folder)) from error
        except ValidationError as error:
            raise DataError("data.bundle_invalid", path=str(path), reason=error.errors()[0]["msg"]) from error
        if manifest.features.content_hash != manifest.feature_hash:
            raise DataError("data.bundle_features_changed", path=str(path))
        return manifest
