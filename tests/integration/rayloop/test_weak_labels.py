"""Weak labels by the commands that a user types: judged first, then trained on, and named by card and version."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from tests.factories.rayloop.command import rayloop
from trainers.card.model_card import CARD_JSON, ModelCard

FACTORY = Path(__file__).parents[2] / "factories" / "rayloop" / "weak_orders.py"
FUNCTIONS = ("amount", "returns", "night", "backwards")


@pytest.mark.cluster
def test_weak_labels_are_judged_and_trained_on_but_never_evaluated(cluster: Settings, tmp_path: Path) -> None:
    shutil.copy(FACTORY, tmp_path / "weak_orders.py")
    shown = rayloop(cluster, tmp_path, "label", "weak_orders.py", "--weak")
    for name in FUNCTIONS:
        assert f"{name} " in shown
    assert "backwards is worse than chance" in shown
    registry = Registry(cluster)
    assert registry.versions("weak_orders") == []
    rayloop(cluster, tmp_path, "train", "weak_orders.py")
    (version,) = registry.versions("weak_orders")
    card = ModelCard.from_stored(registry.fetch_run_file(version, f"card/{CARD_JSON}").read_bytes())
    weak = card.weak_labels
    assert weak is not None
    assert tuple(function.name for function in weak.functions) == FUNCTIONS
    assert version.tags["rayloop.weak_labels"] == str(weak)
    assert weak.content_hash[:8] in version.tags["rayloop.weak_labels"]
    tables = Tables(cluster)
    frame = pl.DataFrame(tables.read(card.lineage.snapshot.table, card.lineage.snapshot.id))
    rows = pl.DataFrame(tables.read(f"{card.lineage.snapshot.table}_weak"))
    assert [part.rows for part in card.parts] == [
        frame.filter(split=name).height for name in ("train", "validation", "test")
    ]
    assert weak.true_rows == card.parts[0].rows
    assert weak.rows == rows["id"].n_unique() > 4 * weak.true_rows * 0.5
    assert set(rows["split"]) == {"train"}
    assert frame["id"].is_in(rows["id"].implode()).sum() == 0
    for function in weak.functions:
        assert function.accuracy == pytest.approx(function.true_accuracy, abs=0.12), function.name
