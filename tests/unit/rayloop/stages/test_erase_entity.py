"""Erasure deletes an entity from tables, states and files, and keeps all other rows."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from cluster.errors import ProjectError
from cluster.names import labels_table, predictions_table
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.erasure import delete_rows
from cluster.values import Task
from features.builders import category, derive, hashed, number, rolling, timestamp
from features.definitions import Entity, FeatureSet, FeatureView, Latest
from features.derived_columns import request_features
from features.encoder import Encoder
from features.manifest import PROFILE_FILE, Manifest
from features.offline.point_in_time import join
from features.online.feature_reader import FeatureReader
from features.online.keys import state_prefix
from features.online.materialize import materialize, push
from features.profiles.reference_profile import ReferenceProfile, profile_windows
from features.sources.erasure_registry import ErasureRegistry
from features.sources.ingestion import QUARANTINE
from features.sources.pseudonyms import PseudonymKey
from features.sources.source import Examples, Source
from features.split import HashSplit
from features.types import INSTANT
from rayloop.console import ProgressConsole
from rayloop.context import ProjectContext
from rayloop.labeling.annotation_store import store_annotations
from rayloop.project import Location, Project
from rayloop.stages.erase_entity import erase_entity
from tests.factories.cluster import everything_below
from tests.factories.errors import raises
from trainers.config import ModelSpec, TrainConfig
from trainers.evaluation.quality_gate import GatePolicy

pytestmark = pytest.mark.long

NOW = datetime(2024, 2, 1, tzinfo=UTC)
END = round(NOW.timestamp() * 1e6)
MAILS = [f"{name}-subject@home" for name in ("anna", "bert", "carl")]
ANNA = {"mail": MAILS[0]}
KEY = "s" * 64
DAY_S = 86_400.0


def views() -> tuple[FeatureView, ...]:
    common = {"source": "visits", "event_time": "at", "known_at": "at"}
    aggregates = rolling("spent", timedelta(days=400), "spent")
    shop = rolling("spent", timedelta(days=400), "shop_spent")
    last = Latest(column="spent", name="last_spent")
    return (
        FeatureView(name="person", entity=Entity(name="mail", keys=("mail",)), aggregates=aggregates, **common),
        FeatureView(name="shops", entity=Entity(name="shop", keys=("shop",)), aggregates=shop, **common),
        FeatureView(name="pair", entity=Entity(name="pair", keys=("mail", "shop")), latest=(last,), **common),
    )


def project(*, private: bool) -> Project:
    mail = hashed(*category("mail")) if private else category("mail")
    visits = Source(
        name="visits",
        key=("id",),
        columns=(*category("id", "shop"), *mail, *number("spent"), *timestamp("at")),
        event_time="at",
        known_at="at",
        read=lambda: None,
    )
    stocks = Source("stocks", (*category("shop"), *timestamp("at")), ("shop",), "at", "at", read=lambda: None)
    features = FeatureSet(
        name="f",
        request=(*mail, *category("shop"), *timestamp("at")),
        as_of=derive("as_of", pl.col("at"), "timestamp"),
        views=views(),
    )
    return Project(
        name="p",
        task=Task(kind="regression", label="spent"),
        sources=(visits, stocks),
        features=features,
        examples=Examples(source="visits", id="id", label=pl.col("spent"), label_known_at="at"),
        split=HashSplit(),
        model=ModelSpec(build="linear"),
        train=TrainConfig(),
        gate=GatePolicy(),
    )


def visits(private: bool) -> pl.DataFrame:
    names = [PseudonymKey(KEY.encode()).token(mail) if private else mail for mail in MAILS]
    at = [NOW - timedelta(days=30) + timedelta(hours=i) for i in range(90)]
    return pl.DataFrame({
        "id": [f"v{i}" for i in range(90)],
        "shop": ["n" if i % 2 else "s" for i in range(90)],
        "mail": [names[i % 3] for i in range(90)],
        "spent": [float(i) for i in range(90)],
        "at": at,
    }).with_columns(pl.col("at").cast(INSTANT))  # fmt: skip


@pytest.fixture(scope="module")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store of MLflow's; to make one takes seconds."""
    home = tmp_path_factory.mktemp("mlflow")
    Registry(Settings(home=home)).check()
    return home / "mlflow.db"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, mlflow_store: Path) -> None:
    (tmp_path / "home").mkdir()
    shutil.copy(mlflow_store, tmp_path / "home")


def filled(tmp_path: Path, private: bool) -> ProjectContext:
    """A project that has landed, trained and answered, without a cluster."""
    (tmp_path / "key").write_text(KEY)
    settings = Settings(home=tmp_path / "home", personal_key_file=str(tmp_path / "key") if private else "")
    context = ProjectContext(project(private=private), Location(tmp_path, "p"), settings, ProgressConsole())
    tables, rows = context.tables, visits(private)
    for part in rows.iter_slices(30):
        tables.append("p.visits", part.to_arrow().cast(pa.schema([*part.to_arrow().schema])))
    tables.append("p.stocks", rows.select("shop", "at").to_arrow())
    aside = [json.dumps({"mail": mail, "spent": "x"}) for mail in rows.get_column("mail").unique()]
    tables.append(f"p.{QUARANTINE}", pa.table({"source": ["visits"] * 3, "reason": ["bad"] * 3, "row": aside}))
    frame = rows.select(pl.col("id"), "mail", "spent").to_arrow()
    tables.append(context.frame_table, frame)
    features = rows.select("mail", "shop").to_struct("features")
    log = pl.DataFrame([pl.Series("id", [f"r:{i}" for i in range(90)]), features])
    tables.append(predictions_table("p"), log.to_arrow())
    tables.append(labels_table("p"), log.select("id", pl.lit(1.0).alias("label")).to_arrow())
    store_annotations(tables, "p", "ann", log.select("id", pl.lit(1.0).alias("label")))
    for view in context.project.features.views:
        materialize(context.store, view, rows, END)
    return context


def register(context: ProjectContext, tmp_path: Path) -> None:
    snapshot = context.tables.latest(context.frame_table)
    assert snapshot is not None
    features = context.project.features
    words = {"mail": tuple(visits(False).get_column("mail").unique()), "shop": ("n", "s")}
    encoder = Encoder(columns=features.columns, vocabularies=words)
    folder = tmp_path / "bundle"
    folder.mkdir()
    task = context.project.task
    Manifest(
        model="p",
        task=task,
        features=features,
        feature_hash=features.content_hash,
        encoder=encoder,
        snapshot=snapshot,
        code_version="1",
    ).save(folder)
    windows = profile_windows(visits(False).to_arrow(), features.columns, DAY_S, "at")
    (folder / PROFILE_FILE).write_bytes(ReferenceProfile.build(windows, DAY_S).to_bytes())
    with context.registry.run("p", "r") as run:
        context.registry.register("p", run, folder, {})


@pytest.mark.parametrize("private", [False, True])
def test_erase_entity_deletes_its_rows_and_no_others(tmp_path: Path, private: bool) -> None:
    context = filled(tmp_path, private)
    name = visits(private).get_column("mail")[0]
    assert name.encode() in everything_below(tmp_path / "home" / "warehouse")
    account = erase_entity(context, ANNA, NOW)
    counts = {one.place: one.number for one in account.deleted}
    assert counts == {
        "p.visits": 30, "online view person": 1, "online view shops": 0, "online view pair": 2, "p.stocks": 0,
        "p.quarantine": 1, context.frame_table: 30, "p.predictions": 30, "p.labels": 30,
        "p.annotations": 30,
    }  # fmt: skip
    everything = everything_below(tmp_path / "home" / "warehouse")
    assert name.encode() not in everything
    assert b"anna" not in everything
    left = visits(private).filter(pl.col("mail") != name)
    assert pl.DataFrame(context.tables.read("p.visits")).sort("at").equals(left)
    assert context.tables.read("p.labels").num_rows == 60
    assert context.tables.read("p.annotations").num_rows == 60


@pytest.mark.parametrize("private", [False, True])
def test_online_state_after_erasure_equals_one_without_the_rows(tmp_path: Path, private: bool) -> None:
    context = filled(tmp_path, private)
    erase_entity(context, ANNA, NOW)
    name = visits(private).get_column("mail")[0]
    left = visits(private).filter(pl.col("mail") != name)
    features = context.project.features
    request = visits(private).with_columns(pl.lit(NOW).cast(INSTANT).alias("at"))
    rows = request_features(features, request)
    online = pl.DataFrame(FeatureReader(features, context.store).read(request.to_arrow(), 0))
    for view in features.views:
        offline = join(view, left, rows)
        assert online.select(offline.columns).equals(offline, null_equal=True)
        keys = b"".join(context.store.keys(state_prefix(view)))
        assert name.encode() not in keys


def test_ingestion_after_erasure_skips_the_entity(tmp_path: Path) -> None:
    context = filled(tmp_path, private=True)
    erase_entity(context, ANNA, NOW)
    names = PseudonymKey(KEY.encode())
    remainder = ErasureRegistry.read(context.tables, "p").drop_erased(visits(True), names)
    assert set(remainder.get_column("mail")) == {names.token(mail) for mail in MAILS[1:]}


def test_erasure_report_lists_what_remains_without_the_entity(tmp_path: Path) -> None:
    context = filled(tmp_path, private=False)
    register(context, tmp_path)
    account = erase_entity(context, ANNA, NOW)
    remains = "\n".join(account.remains)
    assert "p v1 has it in the vocabulary of mail" in remains
    assert "the reference profile of p v1, and the drift monitor's copy, count its value of mail" in remains
    assert "p v1 was trained on" in remains
    assert "which has expired" in remains
    (record,) = (Path(context.folder) / "forgotten").iterdir()
    assert "anna" not in record.read_text()
    assert json.loads(record.read_text())["deleted"][0]["number"] == 30


def test_erase_entity_twice_changes_nothing(tmp_path: Path) -> None:
    context = filled(tmp_path, private=False)
    erase_entity(context, ANNA, NOW)
    before = {name: context.tables.latest(name) for name in context.tables.table_names("p")}
    again = erase_entity(context, ANNA, NOW + timedelta(hours=1))
    assert sum(one.number for one in again.deleted) == 0
    assert {name: context.tables.latest(name) for name in context.tables.table_names("p")} == before


def test_erase_entity_after_an_interruption_expires_snapshots(tmp_path: Path) -> None:
    context = filled(tmp_path, private=False)
    delete_rows(context.tables, "p.visits", {"mail": [MAILS[0]]})
    assert b"anna" in everything_below(tmp_path / "home" / "warehouse" / "p" / "visits")
    erase_entity(context, ANNA, NOW)
    assert b"anna" not in everything_below(tmp_path / "home" / "warehouse")


def test_erase_entity_of_several_columns_deletes_rows_that_match_all(tmp_path: Path) -> None:
    context = filled(tmp_path, private=False)
    account = erase_entity(context, {"mail": MAILS[0], "shop": "n"}, NOW)
    counts = {one.place: one.number for one in account.deleted}
    assert (counts["p.visits"], counts["p.predictions"], counts[context.frame_table]) == (15, 15, 0)
    assert "no column shop" in next(one.note for one in account.deleted if one.place == context.frame_table)


def test_erase_entity_that_was_only_pushed_deletes_hashed_state(tmp_path: Path) -> None:
    context, pair = filled(tmp_path, private=True), views()[2]
    pushed = visits(True).head(1).with_columns(shop=pl.lit("west"))
    push(context.store, pair, pushed)
    assert any(key.endswith(b"west") for key in context.store.keys(state_prefix(pair)))
    erase_entity(context, {"mail": MAILS[0], "shop": "west"}, NOW)
    assert not any(key.endswith(b"west") for key in context.store.keys(state_prefix(pair)))


def test_erase_entity_also_deletes_what_release_0_1_stored_for_all_projects(tmp_path: Path) -> None:
    context = filled(tmp_path, private=False)
    for view in context.project.features.views:
        materialize(context.store.shared, view, visits(False), END)
    assert any(b"anna" in key for key in context.store.shared.keys(b""))
    erase_entity(context, ANNA, NOW)
    assert not any(b"anna" in key for key in context.store.shared.keys(b""))


def test_erasure_from_outside_the_cluster_reports_rows_that_are_not_logged_yet(tmp_path: Path) -> None:
    here = filled(tmp_path, private=False)
    remote = here.settings.model_copy(update={"address": "http://head:8265"})
    outside = ProjectContext(here.project, here.location, remote, ProgressConsole())
    remains = erase_entity(outside, ANNA, NOW).remains
    assert len(remains) == 1 + len(erase_entity(here, ANNA, NOW + timedelta(hours=1)).remains)


def test_erase_entity_by_a_number_column_is_refused(tmp_path: Path) -> None:
    with raises(ProjectError, "project.unknown_entity_column", columns=["spent"]):
        erase_entity(filled(tmp_path, private=False), {"spent": "1"}, NOW)
