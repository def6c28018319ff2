"""The feature layer of a small project on the cluster: ingestion, serving, replay, backfill, catalog, pseudonyms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np
import polars as pl
import pytest
import ray.data

from cluster.actors import get_result
from cluster.errors import DataError, ProjectError, SettingsError
from cluster.names import CHAMPION, predictions_table
from cluster.settings import Settings
from cluster.values import Snapshot, Task
from deployments.rollout.serve_config import connect_config_writer
from deployments.telemetry.prediction_log import PredictionBatch, prediction_rows
from features.builders import category, derive, hashed, number, rolling, timestamp
from features.definitions import Entity, FeatureSet, FeatureView, Latest
from features.encoder import Encoder
from features.manifest import Manifest
from features.online.feature_reader import FeatureReader
from features.online.materialize import delete_view_state, materialize, watermark
from features.sources.pseudonyms import Pseudonymizer, load_pseudonym_key
from features.sources.source import Examples, Source
from features.split import HashSplit
from features.types import INSTANT
from rayloop.console import ProgressConsole
from rayloop.context import ProjectContext
from rayloop.project import Location, Project
from rayloop.report import catalog_data
from rayloop.report.report_data import write_catalog, write_skew
from rayloop.stages import delete_project, deploy, feature_data, skew_check
from tests.factories.errors import raises
from trainers.config import ModelSpec, TrainConfig
from trainers.evaluation.quality_gate import GatePolicy

START = datetime(2024, 1, 1, tzinfo=UTC)
HOURS = 24 * 14
MAILS = ["anna@home", "bert@home", "carl@home", None]
pytestmark = pytest.mark.cluster


def visits() -> pl.DataFrame:
    draw = np.random.default_rng(0)
    at = [START + timedelta(hours=i) for i in range(HOURS)]
    return pl.DataFrame({
        "id": [f"v{i}" for i in range(HOURS)],
        "mail": [MAILS[i] for i in draw.integers(0, 4, HOURS)],
        "shop": draw.choice(["n", "s"], HOURS),
        "spent": draw.normal(10, 3, HOURS),
        "at": at,
    }).with_columns(pl.col("at").cast(INSTANT))  # fmt: skip


def project(name: str) -> Project:
    mail = hashed(*category("mail"))
    source = Source(
        name="visits",
        key=("id",),
        columns=(*category("id", "shop"), *mail, *number("spent"), *timestamp("at")),
        event_time="at",
        known_at="at",
        read=lambda: ray.data.from_arrow(visits().to_arrow()),
        patterns={"mail": ".*@home"},
    )
    common = {"source": "visits", "event_time": "at", "known_at": "at"}
    features = FeatureSet(
        name=name,
        request=(*mail, *category("shop"), *timestamp("when")),
        derived=(
            derive("hour", pl.col("when").dt.hour()),
            derive("days_since_visit", (pl.col("as_of") - pl.col("last_visit")).dt.total_days(fractional=True)),
            derive("spent_by_day", pl.col("last_spent") / pl.col("days_since_visit")),
        ),
        as_of=derive("as_of", pl.col("when"), "timestamp"),
        views=(
            FeatureView(
                name="person", entity=Entity(name="mail", keys=("mail",)),
                aggregates=rolling("spent", timedelta(days=3), "spent_3d"), owner="till team", **common,
            ),
            FeatureView(
                name="shop", entity=Entity(name="shop", keys=("shop",)),
                latest=(
                    Latest(column="spent", name="last_spent"),
                    Latest(column="at", name="last_visit", kind="timestamp"),
                ),
                **common,
            ),
        ),
    )  # fmt: skip
    return Project(
        name=name,
        task=Task(kind="binary", label="much"),
        sources=(
            source,
            Source(
                "whens", (*category("shop"), *mail, *timestamp("when")), ("shop",), "when", "when", read=lambda: None
            ),
        ),
        features=features,
        examples=Examples(source="whens", id="shop", label=pl.col("shop") == "n", label_known_at="when"),
        split=HashSplit(),
        model=ModelSpec(build="linear"),
        train=TrainConfig(),
        gate=GatePolicy(),
    )  # fmt: skip


@pytest.fixture
def context(cluster: Settings, tmp_path: Path) -> Iterator[ProjectContext]:
    """An ingested and materialized project."""
    (tmp_path / "key").write_text("s" * 64)
    settings = cluster.model_copy(update={"personal_key_file": str(tmp_path / "key")})
    project_context = ProjectContext(
        project(f"visits{uuid4().hex[:6]}"), Location(tmp_path, "p"), settings, ProgressConsole()
    )
    landed = feature_data.ingest_sources(project_context, project_context.project.sources[:1])
    project_context.tables.append(
        f"{project_context.project.name}.whens",
        visits().select("shop", "mail", pl.col("at").alias("when")).head(1).to_arrow(),
    )
    feature_data.materialize_online(project_context, feature_data.snapshots_of(landed), START + timedelta(hours=HOURS))
    yield project_context
    delete_project.delete_project(project_context)


def requests(rows: int = 200) -> pl.DataFrame:
    draw = np.random.default_rng(1)
    when = [START + timedelta(hours=HOURS - 12, minutes=int(m)) for m in draw.integers(0, 700, rows)]
    cells = {"mail": [MAILS[i] for i in draw.integers(0, 4, rows)], "shop": draw.choice(["n", "s"], rows), "when": when}
    return pl.DataFrame(cells).with_columns(pl.col("when").cast(INSTANT))


def register(context: ProjectContext, folder: Path) -> str:
    """A version without a model, with its manifest only."""
    features, task = context.project.features, context.project.task
    bundle = folder / "bundle"
    bundle.mkdir()
    words = {c.name: ("n",) for c in features.columns if c.kind == "category"}
    Manifest(
        model=context.project.name, task=task, features=features, feature_hash=features.content_hash, code_version="1",
        encoder=Encoder(columns=features.columns, vocabularies=words),
        snapshot=Snapshot(table="none.none", id=1, rows=1),
    ).save(bundle)  # fmt: skip
    with context.registry.run(context.project.name, "r") as run:
        version = context.registry.register(context.project.name, run, bundle, {})
    context.registry.set_alias(version, CHAMPION)
    return version.version


def serve(context: ProjectContext, version: str, request: pl.DataFrame) -> None:
    """Answer requests as a replica does, and log them."""
    features = context.project.features
    rows = Pseudonymizer.for_columns(features.request, context.settings)(request.to_arrow())
    frame = FeatureReader(features, context.store).read(rows, 0)
    answer = PredictionBatch(
        requests=["r"], keys=["r"], forced=[False], sizes=[request.height], frame=frame, task=context.project.task,
        champion_version=version, version=version, assigned="champion", variant="champion", at_us=0,
        champion_latency_ms=1.0, champion=np.zeros(request.height),
    )  # fmt: skip
    context.tables.append(predictions_table(context.project.name), prediction_rows([answer], "b"), evolve=True)


def test_served_features_equal_offline_features(context: ProjectContext, tmp_path: Path) -> None:
    with raises(DataError, "data.log_empty"):
        skew_check.replay(context)
    serve(context, register(context, tmp_path), requests())
    comparison = skew_check.replay(context)
    assert (comparison.rows, comparison.mismatched_features, comparison.left_out) == (200, [], {})
    derived = {"days_since_visit", "spent_by_day"}
    viewed = {"spent_3d_mean", "spent_3d_count", "last_spent", "last_visit"}
    assert {one.feature for one in comparison.features} == {"hour", *viewed, *derived}


def test_skew_check_of_stale_state_finds_feature_and_row(context: ProjectContext, tmp_path: Path) -> None:
    version, request = register(context, tmp_path), requests()
    person, shop = context.project.features.views
    rows = pl.DataFrame(context.tables.read(f"{context.project.name}.visits"))
    stale = rows.filter(pl.col("at") < START + timedelta(hours=HOURS - 11))
    before = context.store.get_many(keys := list(context.store.keys(b"")))
    delete_view_state(context.store, person)
    materialize(context.store, person, stale, 10**18)
    serve(context, version, request)
    comparison = skew_check.replay(context)
    assert {one.feature for one in comparison.mismatched_features} == {"spent_3d_mean", "spent_3d_count"}
    count = next(one for one in comparison.mismatched_features if one.feature == "spent_3d_count")
    mails = load_pseudonym_key(context.settings).tokenize_series(request.get_column("mail"))
    late = rows.filter(pl.col("at") >= START + timedelta(hours=HOURS - 11))
    affected = sum(
        late.filter((pl.col("mail") == mail) & (pl.col("at") <= when)).height > 0
        for mail, when in zip(mails, request.get_column("when"), strict=True)
        if mail is not None
    )
    # Hours from the far end of the window leave both alike.
    assert 0 < count.mismatches <= affected
    assert count.example is not None
    write_skew(context)
    assert "spent_3d_count" in (context.read("skew.html") or "")
    feature_data.backfill_view(context, "person", START + timedelta(hours=HOURS))
    assert context.store.get_many(keys) == before
    assert shop.name == "shop"


def test_materialize_fills_views_of_an_earlier_champion(context: ProjectContext, tmp_path: Path) -> None:
    register(context, tmp_path)
    before = context.project.features
    person, shop = before.views
    wider = person.model_copy(update={"aggregates": rolling("spent", timedelta(days=9), "spent_9d")})
    after = dataclasses.replace(context.project, features=before.model_copy(update={"views": (wider, shop)}))
    changed = dataclasses.replace(context, project=after)
    for view in (person, shop):
        delete_view_state(context.store, view)
    feature_data.materialize_online(changed, feature_data.latest_snapshots(changed), START + timedelta(hours=HOURS))
    marks = {watermark(changed.store, view) for view in (person, wider)}
    assert len(marks) == 1
    assert None not in marks


def test_job_with_another_online_store_is_refused(cluster: Settings, tmp_path: Path) -> None:
    get_result(connect_config_writer(cluster).served_settings.remote())
    other_context = ProjectContext(project("elsewhere"), Location(tmp_path, "p"), cluster, ProgressConsole())
    deploy.require_same_settings(other_context)
    other = cluster.model_copy(update={"online_store": "redis://127.0.0.1:6390"})
    with raises(SettingsError, "settings.differ", variable="RAYLOOP_ONLINE_STORE"):
        deploy.require_same_settings(dataclasses.replace(other_context, settings=other))
    guarded = dataclasses.replace(other_context, settings=cluster.model_copy(update={"access": True}))
    with raises(SettingsError, "settings.differ", variable="RAYLOOP_ACCESS"):
        deploy.require_same_settings(guarded)
    deploy.require_same_settings(guarded, deploy.STORE_VARIABLES)


def test_personal_data_in_tables_log_and_store_is_hashed(context: ProjectContext, tmp_path: Path) -> None:
    serve(context, register(context, tmp_path), requests())
    name = context.project.name
    for table in (f"{name}.visits", predictions_table(name)):
        assert "@home" not in str(context.tables.read(table).to_pylist())
    assert not any(b"@home" in key for key in context.store.keys(b""))
    assert context.tables.read(f"{name}.visits").num_rows == HOURS


def test_catalog_lists_views_and_their_users(context: ProjectContext, tmp_path: Path) -> None:
    version = register(context, tmp_path)
    catalog = catalog_data.build_catalog(context, START + timedelta(hours=HOURS))
    person, _ = catalog.views
    assert (person.name, person.owner, person.keys) == ("person", "till team", ("mail",))
    assert person.users == (f"{context.project.name} v{version} (champion)",)
    assert person.ingested_until == visits().get_column("at").max()
    assert person.online_until == visits().drop_nulls("mail").get_column("at").max()
    write_catalog(context)
    assert "till team" in (context.read("features.html") or "")


def test_backfill_of_an_undeclared_view_is_refused(context: ProjectContext) -> None:
    with raises(ProjectError, "project.unknown_view", view="unlisted"):
        feature_data.backfill_view(context, "unlisted", START)
