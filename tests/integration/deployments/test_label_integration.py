"""`rayloop label` on a served model: by file, by key press, by several labelers, and what becomes of their labels."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import polars as pl
import pyarrow as pa
import pytest
import ray.data

from cluster.names import annotations_table, label_candidates_table, labels_table, predictions_table
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import ModelVersion
from features.builders import category, number, timestamp
from features.sources.feedback import feedback, with_feedback
from features.sources.source import Source
from rayloop.stages.log_analysis_task import LABEL_CANDIDATES_SCHEMA
from tests.factories.deployments.request_load import infer_body
from tests.factories.deployments.tasks import FEATURES
from tests.factories.deployments.versions import MODEL
from tests.factories.until import until

pytestmark = pytest.mark.cluster

LIMIT_S = 120
IDS = [f"hand/{i}" for i in range(4)]
HISTORY = Source(
    name="past", key=("trip",), event_time="departs", known_at="landed",
    columns=(*category("trip", "carrier"), *number("distance", "late"), *timestamp("departs", "landed")),
    read=lambda: ray.data.from_items(
        [{"trip": "past", "carrier": "UA", "distance": 1, "late": 1, "departs": WINDOW, "landed": WINDOW}]
    ),
)  # fmt: skip
WINDOW = datetime(2024, 5, 1, tzinfo=UTC)


def label(
    settings: Settings, folder: Path, *words: str, keys: str = "", code: int = 0
) -> subprocess.CompletedProcess[str]:
    """The command as a user types it; ``keys`` are pressed on its terminal."""
    master, slave = pty.openpty()
    try:
        os.write(master, keys.encode())
        process = subprocess.run(
            [sys.executable, "-m", "rayloop", "label", MODEL, *words], env={**os.environ, **settings.environment()},
            stdin=slave, capture_output=True, text=True, cwd=folder, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    finally:
        os.close(slave)
        os.close(master)
    assert process.returncode == code, process.stdout + process.stderr
    return process


@pytest.fixture
def tables(cluster: Settings, http: httpx.Client, served: ModelVersion) -> Iterator[Tables]:
    """Four answered rows are in the queue, the last one on top."""
    tables = Tables(cluster)
    http.post("/infer", json=infer_body([0.5, -0.25, 0.1, 2.0], "hand")).raise_for_status()
    until(lambda: set(IDS) <= logged(tables, predictions_table(MODEL)).keys(), "the answers are in the log")
    rows = [{"id": id, "version": served.version, "window": WINDOW, "worth": 0.1 + i / 10} for i, id in enumerate(IDS)]
    tables.append(label_candidates_table(MODEL), pa.Table.from_pylist(rows, LABEL_CANDIDATES_SCHEMA), key="test")
    yield tables
    tables.drop(label_candidates_table(MODEL))


def logged(tables: Tables, name: str) -> dict[str, float | None]:
    """Newest value by id, of this module's rows."""
    if not tables.exists(name):
        return {}
    rows = pl.DataFrame(tables.read(name))
    value = "label" if "label" in rows.columns else "score"
    order = "received" if "received" in rows.columns else "at"
    return {id: newest for id, newest in rows.sort(order).select("id", value).iter_rows() if id in IDS}


def fill(folder: Path, **labels: str) -> Path:
    """Fill the column of labels, by position of the row."""
    path = folder / "rows.csv"
    rows = pl.read_csv(path, infer_schema=False)
    given = [labels.get(f"r{id[-1]}") for id in rows.get_column("id")]
    rows.with_columns(label=pl.Series(given, dtype=pl.String)).write_csv(path)
    return path


def test_labels_by_file_and_by_key_reach_log_source_and_agreement(
    cluster: Settings, tables: Tables, tmp_path: Path
) -> None:
    label(cluster, tmp_path, "--out", "rows.csv", "--rows", "3")
    assert pl.read_csv(tmp_path / "rows.csv").get_column("id").to_list() == [IDS[3], IDS[2], IDS[1]]
    # All or nothing: a wrong label, then an id that was never answered.
    wrong = label(cluster, tmp_path, "--in", str(fill(tmp_path, r3="1", r2="2")), "--by", "ann", code=2)
    assert "[data.label_value]" in wrong.stderr
    fill(tmp_path, r3="1", r2="1").write_text((tmp_path / "rows.csv").read_text().replace(IDS[2], "hand/9"))
    unknown = label(cluster, tmp_path, "--in", "rows.csv", "--by", "ann", code=2)
    assert "[data.label_unknown_id]" in unknown.stderr
    assert not tables.exists(annotations_table(MODEL))
    assert logged(tables, labels_table(MODEL)) == {}
    # A part of the rows.
    label(cluster, tmp_path, "--out", "rows.csv", "--rows", "3")
    label(cluster, tmp_path, "--in", str(fill(tmp_path, r3="1", r2="0")), "--by", "ann")
    assert logged(tables, labels_table(MODEL)) == {IDS[3]: 1.0, IDS[2]: 0.0}
    # The same rows and one more, by key: 1, 1 taken back, 0, skip, 1. A tie leaves the first label.
    label(cluster, tmp_path, "--by", "bo", "--labelers", "2", keys="01u1s1")
    assert logged(tables, annotations_table(MODEL)) == {IDS[3]: 0.0, IDS[2]: 1.0, IDS[0]: 1.0}
    assert logged(tables, labels_table(MODEL)) == {IDS[3]: 1.0, IDS[2]: 0.0, IDS[0]: 1.0}
    assert "2 by several: 0.0% agreement, Cohen's kappa -1.000" in label(cluster, tmp_path, "--agreement").stdout
    # A third labeler decides, which corrects a logged label.
    label(cluster, tmp_path, "--by", "cy", "--labelers", "3", "--rows", "1", keys="0")
    assert logged(tables, labels_table(MODEL))[IDS[3]] == 0.0
    source = feedback(MODEL, FEATURES)
    trained = pl.DataFrame(source.reader.open(source.columns).to_pandas()).filter(pl.col("id").is_in(IDS))
    assert trained.select("id", "label").rows() == [
        (IDS[3], 1.0), (IDS[2], 0.0), (IDS[0], 1.0), (IDS[3], 0.0),
    ]  # fmt: skip
    assert trained.get_column("distance").to_list() == pytest.approx([2.0, 0.1, 0.5, 2.0])
    examples = with_feedback(
        HISTORY, MODEL, FEATURES, {"trip": "id", "late": "label", "departs": "as_of", "landed": "received"}
    )
    both = pl.DataFrame(examples.reader.open(examples.columns).to_pandas())
    assert set(trained.select("id", "label").rows()) | {("past", 1.0)} <= set(both.select("trip", "late").rows())
    assert both.filter(trip="past").get_column("carrier").to_list() == ["UA"]


def test_source_without_labels_has_its_own_rows(cluster: Settings) -> None:
    columns = {"trip": "id", "late": "label", "departs": "as_of", "landed": "received"}
    examples = with_feedback(HISTORY, "unserved", FEATURES, columns)
    assert examples.reader.open(examples.columns).to_pandas()["trip"].to_list() == ["past"]


def test_wrong_call_is_one_error_with_a_code(cluster: Settings, tmp_path: Path) -> None:
    for words, code in (
        (("--in", "rows.csv"), "rayloop.labeler_missing"),
        ((), "rayloop.labeler_missing"),
        (("--out", "a.csv", "--agreement"), "rayloop.label_options"),
    ):
        assert label(cluster, tmp_path, *words, code=2).stderr.strip().endswith(f"[{code}]")
