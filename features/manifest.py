"""What a model version carries, as a folder of JSON, ONNX and safetensors. Nothing is pickled.

manifest.json         task, feature set (as data) and its hash, encoder, lineage
model.onnx            inputs ``numbers`` and ``codes`` (features/encoder.py), output ``scores``
portable.onnx         the same model with the encoders inside: an input for each column (trainers/export/portable_onnx.py)
weights.safetensors   the training module's parameters, to continue training from
profile.json          reference profile (features/profiles/profile.py), as its own bytes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

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


class Manifest(Stored):
    """Everything about a version but its weights. ``recipe`` is what it takes to train it again, as JSON.

    ``precision`` is that of the weights in model.onnx and portable.onnx.
    """

    stored_as: ClassVar[str] = "model manifest"

    model: str
    task: Task
    features: FeatureSet
    feature_hash: str
    encoder: Encoder
    snapshot: Snapshot
    code_version: str
    recipe: dict[str, dict[str, Any]] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    precision: Precision = "float32"

    def save(self, folder: Path) -> None:
        (folder / MANIFEST_FILE).write_text(self.model_dump_json(indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises DataError when the folder holds no usable manifest, or one whose features were altered."""
        path = folder / MANIFEST_FILE
        try:
            manifest = cls.from_stored(path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(f"no model bundle at {folder}", "was the artifact store moved or cleaned?") from error
        except ValidationError as error:
            raise DataError(f"{path} does not describe a model bundle: {error.errors()[0]['msg']}") from error
        if manifest.features.content_hash != manifest.feature_hash:
            raise DataError(f"{path}: the feature set is not the one the model was trained on (hash differs)")
        return manifest
