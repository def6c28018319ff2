"""A project whose model a race chooses, on Ray: raced, served and retrained by the commands that a user types."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from sklearn.datasets import load_digits

from cluster.names import CHAMPION
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.values import GateReport
from features.manifest import Manifest
from rayloop.stages.train_version import SELECTION
from tests.factories.rayloop.command import rayloop

FACTORIES = Path(__file__).parents[2] / "factories" / "rayloop"
SPEC = 'ModelSpec(build="auto", minutes=0.25, parameters={"families": ("lightgbm", "linear")})'


def _project() -> str:
    """The project of digits, under another name and with a race."""
    text = (FACTORIES / "digits.py").read_text()
    for old, new in (
        ("ModelSpec(build=build)", SPEC),
        ("TrainConfig(epochs=8, batch_size=128, lr=1e-2, workers=1)", "TrainConfig(workers=1)"),
        ('    name="digits",\n    task', '    name="raced",\n    task'),
    ):
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.cluster
def test_project_of_a_race_is_trained_served_and_retrained(cluster: Settings, tmp_path: Path) -> None:
    (tmp_path / "raced.py").write_text(_project())
    lines = rayloop(cluster, tmp_path, "run", "raced.py")
    assert "lightgbm 0, 1,0" in lines
    registry = Registry(cluster)
    champion = registry.version_by_alias("raced", CHAMPION)
    assert champion is not None
    assert champion.tags[SELECTION] in lines
    report = GateReport.from_stored(champion.tags["rayloop.gate"])
    parity = next(check for check in report.checks if "parity" in check.name)
    assert parity.value <= 1e-5
    chosen = Manifest.load(registry.fetch(champion)).recipe["chosen"]
    assert sum(member["weight"] for member in chosen.values()) == pytest.approx(1)
    digits = load_digits()
    inputs = [
        {"name": "image", "shape": [50, 8, 8], "datatype": "FP32", "data": digits.data[:50].ravel().tolist()},
        {"name": "taken_at", "shape": [50], "datatype": "BYTES", "data": ["2024-02-01T00:00:00Z"] * 50},
    ]
    answer = httpx.post(f"{cluster.endpoint}/v2/models/raced/infer", json={"inputs": inputs}, timeout=30)
    assert answer.status_code == 200, answer.text
    labels = next(o["data"] for o in answer.json()["outputs"] if o["name"] == "label")
    assert sum(label == str(digit) for label, digit in zip(labels, digits.target[:50], strict=True)) >= 43
    rayloop(cluster, tmp_path, "retrain", "raced.py", "--until", "2024-01-03", "--reason", "more rows")
    newest = registry.versions("raced")[-1]
    assert newest.version != champion.version
    assert SELECTION in newest.tags
