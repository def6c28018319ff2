"""Small real bundles: torch modules exported to ONNX, with the manifest a training run would write."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cluster.registry import Registry
from cluster.values import ModelVersion, Snapshot, Task
from features.attributions.explainer_file import Background, ExplainerRecord, save_explainer
from features.definitions import FeatureSet
from features.encoder import Encoder
from features.manifest import MODEL_FILE, Manifest
from tests.factories.deployments.tasks import BINARY, ENCODER, FEATURES


class Slope(torch.nn.Module):
    """score = sigmoid(slope * distance), with a term for the carrier that is too small to matter."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(4, 2)
        self.linear = torch.nn.Linear(2, 1)
        self.slope = torch.nn.Parameter(torch.tensor(slope))
        torch.nn.init.constant_(self.linear.weight, 1e-6)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        distance = torch.nan_to_num(numbers[:, 0])
        small = self.linear(self.embedding(codes[:, 0]))[:, 0]
        return torch.sigmoid(self.slope * distance + small)


class Pixels(torch.nn.Module):
    """Softmax of the sums of each column of a 2 x 3 image."""

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        return torch.softmax(numbers[:, :3] + numbers[:, 3:], dim=1)


def write_bundle(
    folder: Path,
    module: torch.nn.Module,
    *,
    task: Task = BINARY,
    features: FeatureSet = FEATURES,
    encoder: Encoder = ENCODER,
) -> Path:
    """A bundle folder for ``module``; inputs without columns are left out of the graph."""
    folder.mkdir(parents=True)
    inputs = {
        "numbers": torch.zeros(2, encoder.width),
        "codes": torch.zeros(2, len(encoder.categories), dtype=torch.long),
    }
    inputs = {name: value for name, value in inputs.items() if value.shape[1]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(folder / MODEL_FILE),
            input_names=list(inputs),
            output_names=["scores"],
            dynamic_axes={name: {0: "rows"} for name in (*inputs, "scores")},
            dynamo=False,
        )
    Manifest(
        model="trips",
        task=task,
        features=features,
        feature_hash=features.content_hash,
        encoder=encoder,
        snapshot=Snapshot(table="trips.training", id=1, rows=100),
        code_version="test",
    ).save(folder)
    return folder


def add_explainer(folder: Path, rows: int = 16, seed: int = 0) -> Path:
    """Give a bundle of ``write_bundle`` an explainer that samples, with random background rows."""
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(rows, ENCODER.width)).astype(np.float32)
    codes = random.integers(4, size=(rows, len(ENCODER.categories)))
    record = ExplainerRecord(method="sampled", reasons={"distance": "Distance unlike that of most trips"})
    save_explainer(record, Background(numbers, codes), folder)
    return folder


def register(registry: Registry, model: str, folder: Path, spoil: Callable[[Path], None] | None = None) -> ModelVersion:
    """Register a bundle as the model's next version; ``spoil`` damages it once it is stored."""
    with registry.run("tests", "test") as run:
        version = registry.register(model, run, folder, {})
    if spoil is not None:
        spoil(registry.fetch(version))
    return version
