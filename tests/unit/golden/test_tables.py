"""Tables of the catalog and of API keys: the columns and types that the code writes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from cluster.names import annotations_table, journal_table, lost_rows_table
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import Task
from deployments.auth.key_store import KeyStore
from deployments.protocol.feedback import parse_feedback
from deployments.rollout.journal import RolloutJournal
from deployments.rollout_policy import RolloutPolicy
from deployments.telemetry.lost_rows import LostRows
from deployments.telemetry.prediction_log import PredictionBatch, from_ipc, label_rows, prediction_rows, to_ipc
from features.offline.training_frame import frame_schema
from features.sources.erasure_registry import ERASURE_TABLE, record_erasure
from features.sources.ingestion import columns_schema
from features.sources.source import Source
from features.sources.validation import quarantine_rows
from rayloop.labeling.annotation_store import store_annotations
from rayloop.stages.log_analysis_task import LABEL_CANDIDATES_SCHEMA
from tests.factories.golden import samples
from tests.factories.golden.files import columns, golden


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Settings(home=tmp_path))


def _answer(task: Task, scores: np.ndarray) -> PredictionBatch:
    frame = samples.rows().select(["distance", "carrier", "hour", "as_of"]).slice(0, 2)
    return PredictionBatch(
        requests=["r"], keys=["k"], forced=[False], sizes=[2], frame=frame, task=task,
        champion_version="1", version="2", assigned="challenger", variant="challenger", at_us=1_700_000_000_000_000,
        champion_latency_ms=1.0, challenger_latency_ms=2.0, rollout="r1", share=0.25, champion_share=0.75,
        challenger_version="2", champion=scores, challenger=scores, error=None, champion_error=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("task", "scores"),
    [
        (samples.BINARY, np.array([0.5, 0.25])),
        (samples.REGRESSION, np.array([12.0, -3.0])),
        (samples.MULTICLASS, np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]])),
    ],
)
def test_prediction_log_is_unchanged(tables: Tables, task: Task, scores: np.ndarray) -> None:
    rows = from_ipc(to_ipc(prediction_rows([_answer(task, scores)], "replica:1")))
    tables.append("trips.predictions", rows)
    written = tables.read("trips.predictions")
    assert written.num_rows == 2
    golden(f"table_predictions_{task.kind}", {"columns": columns(written.schema), "rows": _texts(written)})


def test_labels_are_unchanged(tables: Tables) -> None:
    body = {"labels": [{"id": "a", "label": 1, "time": "2024-05-01T12:00:00Z"}, {"id": "b", "label": 0}]}
    tables.append(
        "trips.labels", label_rows(parse_feedback(body, samples.BINARY, 10), 1_700_000_000_000_000, "replica:1")
    )
    written = tables.read("trips.labels")
    golden("table_labels", {"columns": columns(written.schema), "rows": _texts(written)})


def test_lost_rows_are_unchanged(tables: Tables) -> None:
    lost = LostRows("trips", tables)
    lost.record_lost_rows("dead", {"predictions": 7, "labels": 2})
    written = tables.read(lost_rows_table("trips"))
    golden("table_lost", {"columns": columns(written.schema), "rows": _texts(written.drop_columns(["at"]))})
    assert LostRows("trips", tables).counts() == {"replicas": 1, "predictions": 7, "labels": 2}


def test_journal_is_unchanged(tables: Tables) -> None:
    journal = RolloutJournal("trips", tables)
    for decision in samples.decisions()[:2]:
        journal.record(decision, RolloutPolicy())
    written = tables.read(journal_table("trips"))
    golden("table_journal", {"columns": columns(written.schema), "rows": _texts(written.sort_by("at"))})


def test_erasure_registry_is_unchanged(tables: Tables) -> None:
    record_erasure(tables, "trips", {"carrier": "AA"}, None, datetime(2024, 5, 1, tzinfo=UTC))
    written = tables.read(f"trips.{ERASURE_TABLE}")
    golden("table_forgotten", {"columns": columns(written.schema), "rows": _texts(written)})


def test_label_candidates_are_unchanged() -> None:
    # An analysis that appends them needs a registered model, so only its schema is compared.
    golden("table_to_label", columns(LABEL_CANDIDATES_SCHEMA))


def test_annotations_are_unchanged(tables: Tables) -> None:
    store_annotations(tables, "trips", "ann", pl.DataFrame({"id": ["a", "b/0"], "label": [1.0, 0.0]}))
    written = tables.read(annotations_table("trips"))
    golden("table_annotations", {"columns": columns(written.schema), "rows": _texts(written.drop_columns(["at"]))})


def test_frames_and_landed_sources_are_unchanged() -> None:
    golden(
        "table_frame",
        {
            "frame": columns(frame_schema(samples.FLIGHTS)),
            "images": columns(frame_schema(samples.IMAGES)),
            "landed": columns(columns_schema((*samples.REQUEST, *samples.IMAGES.request))),
        },
    )


def test_quarantine_is_unchanged() -> None:
    source = Source(
        name="flights", read=lambda: None, key=("carrier",), event_time="departs", known_at="departs",
        columns=samples.REQUEST[:3],
    )  # fmt: skip
    bad = quarantine_rows(source, pl.DataFrame({"__reason": ["why"], "__raw": ['{"carrier": "AA"}']}))
    golden("table_quarantine", {"columns": columns(bad.to_arrow().schema), "rows": bad.to_dicts()})


def test_api_keys_are_unchanged(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'keys.db'}"
    store = KeyStore(uri)
    key, _ = store.issue("shop", ("trips", "*"), ("infer", "read"), 1.0, rate="3/minute", expires_at=9.0)
    store.revoke(key.id, 2.0)
    engine = sa.create_engine(uri)
    tables = {
        name: {
            column["name"]: [str(column["type"]), "null" if column["nullable"] else "not null", column["primary_key"]]
            for column in sa.inspect(engine).get_columns(name)
        }
        for name in sa.inspect(engine).get_table_names()
    }
    with engine.connect() as connection:
        row = dict(connection.execute(sa.text("SELECT * FROM rayloop_keys")).mappings().one())
    assert (row.pop("id"), row.pop("digest")) == (key.id, key.digest)
    golden("table_api_keys", {"tables": tables, "row": row})


def _texts(table: pa.Table) -> list[dict[str, str]]:
    return [{name: str(value) for name, value in row.items()} for row in table.to_pylist()]
