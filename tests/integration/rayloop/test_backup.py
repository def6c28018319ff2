"""A cluster is backed up while it serves, wiped and restored: it answers as before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sklearn.datasets import load_digits

from cluster import local_cluster
from cluster.settings import Settings
from cluster.storage.tables import Tables
from deployments.rollout.journal import RolloutJournal
from tests.factories.rayloop.command import rayloop

FACTORIES = Path(__file__).parents[2] / "factories" / "rayloop"


def answers(settings: Settings) -> list[Any]:
    """Outputs of the model for a hundred rows."""
    images = load_digits().data[:100]
    inputs = [
        {"name": "image", "shape": [100, 8, 8], "datatype": "FP32", "data": images.ravel().tolist()},
        {"name": "taken_at", "shape": [100], "datatype": "BYTES", "data": ["2024-02-01T00:00:00Z"] * 100},
    ]
    answer = httpx.post(f"{settings.endpoint}/v2/models/digits/infer", json={"inputs": inputs}, timeout=30)
    assert answer.status_code == 200, answer.text
    return [answer.json()["model_version"], *(output["data"] for output in answer.json()["outputs"])]


@pytest.fixture
def own_cluster(settings: Settings) -> Iterator[Settings]:
    """Settings of a cluster that this test starts, wipes and starts again."""
    yield settings
    local_cluster.stop(settings)
    shutil.rmtree(settings.scratch, ignore_errors=True)


@pytest.mark.slow
def test_restored_cluster_answers_as_before(own_cluster: Settings, tmp_path: Path) -> None:
    settings, folder, backup = own_cluster, tmp_path / "elsewhere", str(tmp_path / "backup")
    folder.mkdir()
    project = (FACTORIES / "digits.py").read_text()
    (folder / "digits.py").write_text(project)
    rayloop(settings, folder, "up")
    rayloop(settings, folder, "run", "digits.py")
    # Another version; with the same settings, training would return the one that is registered.
    (folder / "digits.py").write_text(project.replace("epochs=8", "epochs=9"))
    rayloop(settings, folder, "train", "digits.py")
    rayloop(settings, folder, "deploy", "digits.py")
    rayloop(settings, folder, "abort", "digits", "--reason", "for the journal")
    before, entries = answers(settings), RolloutJournal("digits", Tables(settings)).decisions()
    assert [entry.action for entry in entries][-1] == "abort"
    rayloop(settings, folder, "backup", backup)
    assert answers(settings) == before
    rayloop(settings, folder, "down")
    shutil.rmtree(settings.home)
    # The code comes from the backup too.
    shutil.rmtree(folder)
    folder.mkdir()
    rayloop(settings, folder, "restore", backup)
    assert answers(settings) == before
    assert RolloutJournal("digits", Tables(settings)).decisions() == entries
    status = rayloop(settings, folder, "status")
    assert f"champion v{before[0]}" in status
    assert "drift: quiet" in status
    assert json.loads(Path(backup, "backup.json").read_text())["locations"]["warehouse"]
