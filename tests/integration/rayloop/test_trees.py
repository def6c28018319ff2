"""Projects of trees on Ray: trained, served and retrained by the commands that a user types."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from sklearn.datasets import load_digits

from cluster.names import CHAMPION
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.values import GateReport, ModelVersion
from features.manifest import Manifest
from tests.factories.rayloop.command import rayloop

FACTORIES = Path(__file__).parents[2] / "factories" / "rayloop"
PARAMETERS = {"rounds": 20, "learning_rate": 0.2, "num_leaves": 15}
FOREST = {"estimator": "sklearn.ensemble.ExtraTreesClassifier", "n_estimators": 40, "min_samples_leaf": 2}


def _project(name: str, build: str, parameters: dict[str, object], tune: str = "None") -> str:
    """The project of digits, under another name and with trees."""
    text = (FACTORIES / "digits.py").read_text()
    for old, new in (
        ("ModelSpec(build=build)", f'ModelSpec(build="{build}", parameters={parameters})'),
        ("TrainConfig(epochs=8, batch_size=128, lr=1e-2, workers=1)", "TrainConfig(workers=1)"),
        ('    name="digits",\n    task', f'    name="{name}",\n    task'),
        ("    baseline=False,\n", f"    baseline=False,\n    tune={tune},\n"),
        ("    TrainConfig,\n", "    Choice,\n    TrainConfig,\n    TuneConfig,\n"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


def _parity(version: ModelVersion) -> float:
    report = GateReport.from_stored(version.tags["rayloop.gate"])
    value = next(check for check in report.checks if "parity" in check.name).value
    assert value is not None
    return value


@pytest.mark.slow  # the boosted test below takes the same way in each landing
@pytest.mark.cluster
def test_project_of_a_scikit_learn_forest_is_tuned_and_registered(cluster: Settings, tmp_path: Path) -> None:
    tune = 'TuneConfig(space={"max_features": Choice(options=("sqrt", "log2"))}, trials=2)'
    (tmp_path / "forest.py").write_text(_project("forest", "sklearn", FOREST, tune))
    assert "trial 2 finished after 1 epochs" in rayloop(cluster, tmp_path, "tune", "forest.py")
    rayloop(cluster, tmp_path, "train", "forest.py")
    registry = Registry(cluster)
    (version,) = registry.versions("forest")
    assert _parity(version) <= 1e-5
    manifest = Manifest.load(registry.fetch(version))
    assert manifest.recipe["model"] == FOREST
    assert manifest.metrics["accuracy"] > 0.9


@pytest.mark.cluster
def test_project_of_trees_is_trained_served_and_retrained(cluster: Settings, tmp_path: Path) -> None:
    (tmp_path / "boosted.py").write_text(_project("boosted", "lightgbm", PARAMETERS))
    lines = rayloop(cluster, tmp_path, "run", "boosted.py")
    assert "round 20" in lines
    registry = Registry(cluster)
    champion = registry.version_by_alias("boosted", CHAMPION)
    assert champion is not None
    assert _parity(champion) <= 1e-5
    assert Manifest.load(registry.fetch(champion)).recipe["model"] == PARAMETERS
    digits = load_digits()
    inputs = [
        {"name": "image", "shape": [50, 8, 8], "datatype": "FP32", "data": digits.data[:50].ravel().tolist()},
        {"name": "taken_at", "shape": [50], "datatype": "BYTES", "data": ["2024-02-01T00:00:00Z"] * 50},
    ]
    answer = httpx.post(f"{cluster.endpoint}/v2/models/boosted/infer", json={"inputs": inputs}, timeout=30)
    assert answer.status_code == 200, answer.text
    labels = next(o["data"] for o in answer.json()["outputs"] if o["name"] == "label")
    assert sum(label == str(digit) for label, digit in zip(labels, digits.target[:50], strict=True)) >= 45
    rayloop(cluster, tmp_path, "retrain", "boosted.py", "--until", "2024-01-03", "--reason", "more rows")
    newest = registry.versions("boosted")[-1]
    assert newest.version != champion.version
    assert newest.tags["rayloop.retrained_because"] == "more rows"
    assert Manifest.load(registry.fetch(newest)).recipe["model"] == PARAMETERS
    rayloop(cluster, tmp_path, "train", "boosted.py", "--from-version", champion.version)
    assert registry.versions("boosted")[-1].tags["rayloop.started_from"] == f"v{champion.version}"
