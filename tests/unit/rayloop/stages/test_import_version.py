"""From an imported model to a registered version, without a cluster: nothing is trained."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import lightgbm
import numpy as np
import polars as pl
import pytest
from mlflow import MlflowClient

from cluster.errors import ProjectError
from cluster.names import CHAMPION
from cluster.settings import Settings
from features.definitions import FeatureSet
from features.manifest import MODEL_FILE, Manifest
from rayloop.console import ProgressConsole
from rayloop.context import ProjectContext
from rayloop.project import Location
from rayloop.stages.candidate import Recipe
from rayloop.stages.retrain import retrain_champion
from rayloop.stages.train_version import build_version
from tests.factories.errors import raises
from tests.factories.rayloop.projects import InMemoryFrame, late_project
from trainers.config import ModelSpec, TrainConfig
from trainers.evaluation.quality_gate import GatePolicy
from trainers.imports.conversion import convert, match_columns
from trainers.imports.forest_source import read_lightgbm
from trainers.imports.imported_model import FACTS_FILE, FOLDER, ImportFacts, sha256_of
from trainers.scoring import onnx_scorer

IMPORTED = Recipe(ModelSpec(build="imported"), TrainConfig())


@pytest.fixture
def context(tmp_path: Path) -> ProjectContext:
    """A project of the frame's numbers and categories, with trees that another tool trained on its rows."""
    project = late_project(GatePolicy(max_alone=None))
    columns = tuple(column for column in project.features.request if column.kind != "tensor")
    features = FeatureSet(name="late", request=columns, as_of=project.features.as_of)
    project = dataclasses.replace(project, features=features, model=IMPORTED.spec, train=TrainConfig())
    frame = InMemoryFrame()
    rows = pl.DataFrame(frame.rows.select([column.name for column in features.columns]))
    numbers = [column.name for column in features.columns if column.kind == "number"]
    model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1).fit(
        rows.select(numbers).to_pandas(), frame.rows["label"].to_numpy()
    )
    content = model.booster_.model_to_string().encode()
    source, _ = match_columns(read_lightgbm(content), dict.fromkeys(numbers, "number"), numbers)
    taken = convert(source, features.columns, rows, project.task)
    facts = ImportFacts(
        format="lightgbm",
        source="/models/late.txt",
        sha256=sha256_of(content),
        graph_sha256=sha256_of(taken.graph),
        imported_at=datetime(2024, 5, 1, tzinfo=UTC).isoformat(),
        imported_by="ada",
        trusted=False,
        task=taken.task,
        encoder=taken.encoder,
        parity=4e-6,
        parity_rows=taken.rows,
    )
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / FACTS_FILE).write_text(facts.model_dump_json())
    (tmp_path / FOLDER / MODEL_FILE).write_bytes(taken.graph)
    return ProjectContext(project, Location(tmp_path, "late"), Settings(home=tmp_path / "home"), ProgressConsole())


@pytest.mark.long
def test_imported_model_is_gated_carded_and_registered_with_its_origin(context: ProjectContext) -> None:
    frame = InMemoryFrame()
    version, report, quality = build_version(context, frame, IMPORTED, "imported")
    parity = next(check for check in report.checks if "parity" in check.name)
    assert parity.value == 4e-6
    assert quality["auc"] > 0.6
    folder = context.registry.fetch(version)
    manifest = Manifest.load(folder)
    assert manifest.recipe == {"imported": {
        "format": "lightgbm", "source": "/models/late.txt", "sha256": manifest.recipe["imported"]["sha256"],
        "imported_at": "2024-05-01T00:00:00+00:00", "imported_by": "ada", "trusted": "False",
    }}  # fmt: skip
    served = onnx_scorer.score_table(folder, frame.rows)
    model = onnx_scorer.open_session(context.location.folder / FOLDER / MODEL_FILE)
    assert np.array_equal(served, onnx_scorer.score(model, manifest.encoder.encode(frame.rows)))
    client = MlflowClient(tracking_uri=context.settings.mlflow_uri)
    card = json.loads(Path(client.download_artifacts(version.run_id, "card/card.json")).read_text())
    assert card["recipe"] == manifest.recipe
    assert client.get_run(version.run_id).data.params["source"] == "/models/late.txt"
    assert build_version(context, frame, IMPORTED, "again").version.version == version.version


@pytest.mark.long
def test_retraining_is_refused_unless_the_project_has_a_model_to_train(context: ProjectContext) -> None:
    version = build_version(context, InMemoryFrame(), IMPORTED, "imported").version
    context.registry.set_alias(version, CHAMPION)
    with raises(ProjectError, "project.retrain_imported", model="late"):
        retrain_champion(context, datetime.now(UTC))


@pytest.mark.long
def test_import_for_other_features_is_refused(context: ProjectContext) -> None:
    features = context.project.features
    fewer = FeatureSet(name="late", request=features.request[1:], as_of=features.as_of)
    changed = dataclasses.replace(context, project=dataclasses.replace(context.project, features=fewer))
    with raises(ProjectError, "project.import_outdated", project="late"):
        build_version(changed, InMemoryFrame(), IMPORTED, "imported")
    (context.location.folder / FOLDER / MODEL_FILE).write_bytes(b"another")
    with raises(ProjectError, "project.nothing_imported"):
        build_version(context, InMemoryFrame(), IMPORTED, "imported")
