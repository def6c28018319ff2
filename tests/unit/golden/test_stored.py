"""Stored formats: current code reads the files of every format and writes the current one unchanged."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import safetensors.numpy
import torch
from pydantic import ValidationError

from cluster import webhooks
from cluster.door.moves import Moves
from cluster.errors import DataError
from cluster.names import journal_table
from cluster.node.session import processes
from cluster.settings import Settings
from cluster.storage.tables import Tables
from cluster.values import GateReport, ModelVersion, MoveMark, Stored, Task
from deployments.rollout.journal import RolloutJournal
from deployments.rollout.state_machine import begin
from deployments.rollout.webhook_client import post_step
from deployments.rollout_policy import RolloutPolicy, Webhook
from deployments.serve_schema import ChallengerConfig, PythonServerConfig, ServerConfig
from deployments.telemetry.unshipped_rows import UnshippedCounter, read_remainders
from features.attributions.additive_terms import AdditiveTerms
from features.attributions.explainer_file import (
    EXPLAINER_FILE,
    Background,
    ExplainerData,
    ExplainerRecord,
    load_explainer,
    save_explainer,
)
from features.attributions.explanation import Reason, RowExplanation
from features.attributions.tree_shap import LeafPaths
from features.definitions import Column
from features.manifest import MANIFEST_FILE, Manifest
from features.offline.purge import Purged
from features.profiles.profile import Profile
from features.profiles.reference_profile import ReferenceProfile
from features.python_models.bundle import PythonRecord, PythonRuntime
from monitoring.detection.notification_payloads import Notification, alertmanager_body, webhook_body
from monitoring.retraining.decision import RetrainEntry, RetrainState, TriggerState
from monitoring.retraining.retrain_gain import PairedLosses, WindowGain
from monitoring.retraining.triggers import Cron, OnRows, RetrainPolicy
from monitoring.runtime.monitor import DriftMonitor
from monitoring.runtime.state_store import STATE, MonitorStore
from rayloop.backup.backup_folder import BackupManifest, CopiedFile
from rayloop.context import ProjectContext
from rayloop.stages import baselines
from tests.factories.errors import raises
from tests.factories.golden import samples
from tests.factories.golden.files import columns, formats, golden, newest, stored, structure
from trainers.card.model_card import CardLineage, FeatureFacts, ModelCard, SplitFacts
from trainers.config import ConfigChange, ModelSpec, TrainConfig
from trainers.data.batches import EncodedRows, MemoryLoader, MemoryValidationLoader
from trainers.evaluation.assessment import Assessment
from trainers.evaluation.bootstrap import Interval
from trainers.evaluation.calibration import CalibrationResult
from trainers.evaluation.explanations import Attribution, Importance
from trainers.evaluation.fairness import GroupComparison
from trainers.evaluation.feature_effects import FeatureEffect
from trainers.evaluation.leakage import SingleFeatureSkill
from trainers.evaluation.robustness import PerturbationResult
from trainers.evaluation.slices import SliceResult
from trainers.input_spec import InputSpec
from trainers.loop import train_loop
from trainers.loop.checkpointer import Checkpointer, load_checkpoint
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_events import TrainResult
from trainers.loop.train_spec import TrainSpec
from trainers.selection.selection import Attempt, Ensemble, Selection
from trainers.tuning.trial import Trial
from trainers.tuning.trial_store import TrialStore

POLICY = RolloutPolicy(
    steps=(0.05, 0.25, 1.0),
    bake_s=10.0,
    gates=(0.25,),
    webhooks=(Webhook(url="https://hooks.example", moment="before", secret_env="SECRET"),),
    error_margin=None,
)


def _put(path: Path, folder: Path, name: str = "") -> Path:
    """A copy of a golden file where its reader looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / (name or path.name)).write_bytes(path.read_bytes())
    return folder


# Manifests.


def test_manifest_is_written_unchanged(tmp_path: Path) -> None:
    samples.MANIFEST.save(tmp_path)
    stored(MANIFEST_FILE, (tmp_path / MANIFEST_FILE).read_bytes())


@pytest.mark.parametrize("path", formats(MANIFEST_FILE))
def test_stored_manifest_is_read(path: Path, tmp_path: Path) -> None:
    assert Manifest.load(_put(path, tmp_path)) == samples.MANIFEST


# Explainers and explanations.

_EXPLAINERS: dict[str, ExplainerData] = {
    "treeshap": LeafPaths(
        split_column=np.array([0], np.int32),
        split_threshold=np.array([0.5], np.float32),
        split_missing_left=np.array([True]),
        member_split=np.empty(0, np.int32),
        member_code=np.empty(0, np.int64),
        edge_split=np.array([0, 0], np.int32),
        edge_left=np.array([True, False]),
        condition_edges=np.array([1, 1], np.int32),
        condition_column=np.array([0, 0], np.int32),
        condition_share=np.array([0.25, 0.75]),
        leaf_conditions=np.array([1, 1], np.int32),
        leaf_value=np.array([-1.0, 1.0]),
        leaf_output=np.array([0, 0], np.int32),
        base=np.array([0.5]),
    ),
    "linear": AdditiveTerms(
        mean=np.zeros(2),
        std=np.ones(2),
        clip=np.array([5.0]),
        weight=np.array([[2.0, 1.0]]),
        missing=np.zeros((1, 2)),
        tables=np.array([[0.0, 0.0, -0.5, 0.5]]),
        first_code=np.array([0]),
        bias=np.array([0.25]),
        center=np.array([[0.5, 0.0, 0.125]]),
    ),
    "sampled": Background(np.array([[0.0, 1.0], [0.5, 2.0]], np.float32), np.array([[2], [3]])),
}
_CONTRIBUTIONS = {"treeshap": [1.5 - 1.0, 0.0, 0.0], "linear": [1.5, 3.0, 0.375], "sampled": [0.75, 0.0, 0.0]}
_ROW = {"numbers": np.array([[1.0, 3.0]], np.float32), "codes": np.array([[3]])}
_EXPLANATION = RowExplanation(
    output="late",
    score=0.75,
    method="sampled",
    unit="probability",
    base=0.5,
    total=0.75,
    contributions={"distance": 0.25, "carrier": 0.0},
    errors={"distance": 0.125, "carrier": 0.0},
    reasons=(Reason(feature="distance", text="Far away", contribution=0.25),),
)


def _explainer_content(data: bytes) -> Any:
    tensors = {
        name: [str(v.dtype), list(v.shape), v.ravel().tolist()] for name, v in safetensors.numpy.load(data).items()
    }
    (length,) = struct.unpack("<Q", data[:8])
    return [json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["explainer"]), tensors]


@pytest.mark.parametrize("method", _EXPLAINERS)
def test_explainer_is_written_unchanged(method: Any, tmp_path: Path) -> None:
    save_explainer(ExplainerRecord(method=method, reasons={"distance": "Far away"}), _EXPLAINERS[method], tmp_path)
    stored(f"explainer-{method}.safetensors", (tmp_path / EXPLAINER_FILE).read_bytes(), _explainer_content)


@pytest.mark.parametrize(
    ("method", "path"),
    [pytest.param(method, *each.values, id=f"{method} {each.id}") for method in _EXPLAINERS
     for each in formats(f"explainer-{method}.safetensors")],
)  # fmt: skip
def test_stored_explainer_explains(method: str, path: Path, tmp_path: Path) -> None:
    folder = _put(path, tmp_path, EXPLAINER_FILE)
    explainer = load_explainer(folder, samples.ENCODER, samples.BINARY, lambda arrays: arrays["numbers"][:, 0])
    assert explainer is not None
    assert (explainer.record.method, explainer.record.reasons) == (method, {"distance": "Far away"})
    np.testing.assert_allclose(explainer.rows.explain(_ROW, 0).parts, _CONTRIBUTIONS[method])


def test_explanation_is_written_unchanged() -> None:
    stored("explanation.json", _EXPLANATION.model_dump_json().encode())


@pytest.mark.parametrize("path", formats("explanation.json"))
def test_stored_explanation_is_read(path: Path) -> None:
    assert RowExplanation.from_stored(path.read_bytes()) == _EXPLANATION


# Profiles.


def test_profiles_are_written_unchanged() -> None:
    stored("profile.json", samples.profile().to_bytes())
    stored("reference.json", samples.reference().to_bytes())


@pytest.mark.parametrize("path", formats("profile.json"))
def test_stored_profile_is_read(path: Path) -> None:
    read = Profile.from_bytes(path.read_bytes())
    assert (read.rows, read.columns) == (6, samples.profile().columns)
    assert read.to_bytes() == samples.profile().to_bytes()


@pytest.mark.parametrize("path", formats("reference.json"))
def test_stored_reference_profile_is_read(path: Path) -> None:
    assert ReferenceProfile.from_bytes(path.read_bytes()).to_bytes() == samples.reference().to_bytes()


# Drift monitors.


def test_monitor_state_is_written_unchanged(tmp_path: Path) -> None:
    MonitorStore(tmp_path).save(samples.STATE)
    stored(STATE, (tmp_path / STATE).read_bytes())


@pytest.mark.parametrize("path", formats(STATE))
def test_stored_monitor_state_is_read(path: Path, tmp_path: Path) -> None:
    state = MonitorStore(_put(path, tmp_path)).load()
    assert state is not None
    # The state holds profiles as text, in the format of their time.
    windows = {
        version: {start: Profile.from_bytes(text.encode()).to_bytes().decode() for start, text in profiles.items()}
        for version, profiles in state.windows.items()
    }
    assert state.model_copy(update={"windows": windows}) == samples.STATE


@pytest.mark.parametrize("path", formats(STATE))
def test_monitor_continues_from_stored_files(path: Path, tmp_path: Path) -> None:
    _put(path, tmp_path)
    reference = path.with_name("reference.json")
    _put(reference if reference.exists() else newest("reference.json"), tmp_path, "reference-7.json")
    status = DriftMonitor("trips", MonitorStore(tmp_path)).status()
    assert (status["version"], status["watched"], status["drifting"]) == ("7", ["distance"], True)
    assert status["counters"] == {"windows": 2, "alarms": 1}
    assert status["open_windows"] == {"7": {"10800.0": 6}}


RETRAIN_POLICY = RetrainPolicy(
    on=(Cron(expression="0 3 * * 1", timezone="Europe/Paris", missed="skip"), OnRows(rows=9, source="trips")),
    max_runs=2,
)
RETRAINING = RetrainState(
    triggers={"9 new rows of trips": TriggerState(since=10.0, count=5)},
    journal=(RetrainEntry(at=20.0, event="run", trigger="alarm", reason="drift", job="j", outcome="failed: x"),),
    paused=RetrainEntry(at=30.0, event="pause", by="anna", reason="audit"),
)
GAINS = (
    WindowGain(
        version="7", replaced="6", promoted=20.0, window=0.0,
        losses=PairedLosses(rows=2, loss=0.5, replaced=0.75, squares=0.0625),
    ),
)  # fmt: skip


def test_retraining_is_written_unchanged(tmp_path: Path) -> None:
    scheduler = samples.STATE.scheduler.model_copy(update={"gains": GAINS})
    changes = {"retrain_policy": RETRAIN_POLICY, "retraining": RETRAINING, "scheduler": scheduler}
    MonitorStore(tmp_path).save(samples.STATE.model_copy(update=changes))
    stored("retraining.json", (tmp_path / STATE).read_bytes())


@pytest.mark.parametrize("path", formats("retraining.json"))
def test_stored_retraining_is_read(path: Path, tmp_path: Path) -> None:
    state = MonitorStore(_put(path, tmp_path, STATE)).load()
    assert state is not None
    assert (state.retrain_policy, state.retraining, state.scheduler.gains) == (RETRAIN_POLICY, RETRAINING, GAINS)


# Rollout journals.


def _rows_of(path: Path) -> pa.Table:
    content = json.loads(path.read_text())
    kinds = {"string": pa.string(), "double": pa.float64(), "timestamp[us, tz=UTC]": pa.timestamp("us", "UTC")}
    kinds |= {"int64": pa.int64()}
    schema = pa.schema([(name, kinds[kind.removeprefix("large_")]) for name, kind in content["columns"].items()])
    return pa.Table.from_pylist(content["rows"], schema)


def test_rollout_journal_is_written_unchanged(tmp_path: Path) -> None:
    tables = Tables(Settings(home=tmp_path))
    journal = RolloutJournal("trips", tables)
    for decision in samples.decisions():
        journal.record(decision, POLICY)
    written = tables.read(journal_table("trips")).sort_by("at")
    at = written.column("at").cast(pa.int64())
    rows = written.set_column(written.column_names.index("at"), "at", at).to_pylist()
    stored("journal.json", json.dumps({"columns": columns(written.schema), "rows": rows}, indent=1).encode())


@pytest.mark.parametrize("path", formats("journal.json"))
def test_stored_rollout_journal_is_read(path: Path, tmp_path: Path) -> None:
    tables = Tables(Settings(home=tmp_path))
    tables.append(journal_table("trips"), _rows_of(path))
    journal = RolloutJournal("trips", tables)
    assert tuple(journal.decisions()) == samples.decisions()
    last = journal.last_state()
    assert last is not None
    # Releases up to 0.2 spent alpha in equal parts and made no copies; a rollout goes on as it began.
    before = {} if int(path.parent.name) >= 5 else {"alpha_parts": "equal", "copies": 0.0}
    assert (last.status, last.challengers) == ("promoted", ("2",))
    assert last.policy == POLICY.model_copy(update=before)
    # New decisions can be appended.
    journal.record(samples.decisions()[0].model_copy(update={"at": 1.8e9, "rollout": "r2"}), POLICY)
    assert [one.rollout for one in journal.decisions()] == ["r1"] * 6 + ["r2"]


# Searches and trainings.

TRIALS = (
    Trial(
        number=1,
        parameters={"lr": 0.1, "hidden": (16, 8), "norm": "batch", "skip": True},
        metric=0.75,
        epochs=3,
        seconds=1.5,
        status="finished",
        stage="finalist",
        seed=2,
        parent=1,
        curve=(0.5, 0.625, 0.75),
        at=9.0,
    ),
    Trial(number=2, parameters={"lr": 0.2}, status="failed", error="no memory"),
    Trial(number=3, parameters={"lr": 0.3}),
)


def test_search_is_written_unchanged(tmp_path: Path) -> None:
    journal = TrialStore(str(tmp_path))
    for trial in TRIALS:
        journal.put(trial)
    for path in tmp_path.iterdir():
        stored(f"trials/{path.name}", path.read_bytes())
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("folder", formats("trials"))
def test_stored_search_is_read(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        _put(path, tmp_path)
    journal = TrialStore(str(tmp_path))
    assert [trial.model_dump_json() for trial in (*journal.ended_trials(), *journal.interrupted_trials())] == [
        trial.model_dump_json() for trial in TRIALS
    ]


CONFIG = TrainConfig(epochs=3, batch_size=4, lr=0.01, workers=1, changes=(ConfigChange(after=2, lr=0.005),))


def _training(folder: Path, until: int = 0) -> TrainResult:
    """A linear model of eight rows; nothing in its rows is drawn."""
    numbers = np.arange(16, dtype=np.float32).reshape(8, 2) / 16
    data = EncodedRows(numbers, np.zeros((8, 0), np.int64), np.array([0, 1] * 4, np.float32))
    inputs = InputSpec(
        numbers=("a", "b"), tensors=(), categories=(), cardinalities=(), mean=(0.5, 0.5), std=(0.25, 0.25), missing=(),
        class_shares=(0.5, 0.5),
    )  # fmt: skip
    job = TrainSpec(ModelSpec(build="linear"), CONFIG, samples.BINARY, inputs)
    checkpoints = Checkpointer(str(folder))
    feed = MemoryLoader(data, CONFIG.batch_size, CONFIG.seed)
    try:
        return train_loop.train(
            job,
            feed,
            MemoryValidationLoader(data),
            ProcessGroup(),
            lambda epoch: None,
            checkpointer=checkpoints,
            pause_after=until,
        )
    finally:
        checkpoints.wait()


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
def test_checkpoint_is_written_unchanged(tmp_path: Path) -> None:
    _training(tmp_path, until=2)
    path = sorted(tmp_path.iterdir())[-1]
    body = load_checkpoint(path.read_bytes()[32:])
    golden("checkpoint", {"name": path.name, "structure": structure(body), "job": json.loads(body["job"])})
    stored("training.checkpoint", path.read_bytes(), lambda data: structure(load_checkpoint(data[32:])))


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("path", formats("training.checkpoint"))
def test_training_continues_from_stored_checkpoint(path: Path, tmp_path: Path) -> None:
    before = load_checkpoint(path.read_bytes()[32:])["epochs"]
    outcome = _training(_put(path, tmp_path, "000000000004.checkpoint"))
    assert [epoch.model_dump() for epoch in outcome.epochs[:2]] == before
    assert len(outcome.epochs) == 3


# Model cards and gates.

CARD = ModelCard(
    model="trips",
    name="winner",
    made_at=1.7e9,
    purpose="to be on time",
    task=samples.BINARY,
    parts=(SplitFacts(name="train", rows=9, start="2024-05-01 00:00", end="2024-05-02 00:00", label_mean=0.5),),
    features=(FeatureFacts(name="distance", kind="number", origin="request", missing=0.25),),
    recipe={"model": {"kind": "mlp", "hidden": [16]}, "train": {"epochs": 2}},
    precision="float32",
    latency={"p50": 12.0},
    size=1000,
    train_metrics={"auc": 0.9},
    validation_metrics={"auc": 0.8},
    checks=(samples.CHECK,),
    assessment=Assessment(
        metrics={"auc": Interval(value=0.8, low=0.7, high=0.9)},
        slices=(
            SliceResult(
                name="carrier = AA",
                column="carrier",
                rows=5,
                loss=0.5,
                ratio=1.5,
                low=1.25,
                regression=1.0,
                regression_low=0.5,
            ),
        ),
        discovered_slices=(),
        fairness=(
            GroupComparison(
                column="carrier",
                by_group={"AA": {"rate": 0.5}},
                parity_difference=0.25,
                odds_difference=None,
                error_difference=None,
                left_out=("ZZ",),
            ),
        ),
        calibration=CalibrationResult(
            temperature=1.5,
            applied=True,
            ece_before=0.25,
            ece_after=0.125,
            log_loss_before=0.5,
            log_loss_after=0.25,
        ),
        robustness=(PerturbationResult(perturbation="noise", before=0.8, after=0.7, loss=0.1),),
        single_feature_skills=(SingleFeatureSkill(feature="distance", skill=0.5),),
        importance=(Importance(feature="distance", loss=0.25, spread=0.125),),
        attributions=(
            Attribution(
                row="highest score",
                output="late",
                base=0.25,
                score=0.75,
                parts={"distance": 0.5},
                values={"distance": "2"},
            ),
        ),
        effects=(FeatureEffect(feature="distance", numbers=(0.5, 2.0), effects=(-0.25, 0.25)),),
    ),
    curve=((0.5, 0.25, 9),),
    limits=("of other times nothing was measured",),
    lineage=CardLineage(
        run_id="run",
        snapshot=samples.MANIFEST.snapshot,
        feature_hash="ab",
        code_version="cd",
        fingerprint="ef",
        champion="6",
    ),
    override="because",
    compression="pruned",
    selection=Selection(
        attempts=(
            Attempt(
                candidate=0,
                family="mlp",
                settings={"hidden": (16,), "dropout": 0.25},
                rung=1,
                rows=900,
                seconds=1.5,
                loss=0.5,
            ),
        ),
        members={0: {"hidden": (16,), "dropout": 0.25}},
        ensembles=(
            Ensemble(
                weights={0: 1.0},
                loss=0.5,
                corrected=Interval(value=0.625, low=0.5, high=0.75),
                metrics={"auc": 0.8},
            ),
        ),
        loss_name="log loss",
        minutes=2.0,
        seconds=90.0,
        validation_rows=300,
    ),
)


def test_model_card_is_written_unchanged() -> None:
    stored("card.json", CARD.model_dump_json(indent=1).encode())


@pytest.mark.parametrize("path", formats("card.json"))
def test_stored_model_card_is_read(path: Path) -> None:
    # Cards up to format 6 have no effects of features, and no race.
    if int(path.parent.name) >= 7:
        expected = CARD
    else:
        before = {"assessment": CARD.assessment.model_copy(update={"effects": ()}), "selection": None}
        expected = CARD.model_copy(update=before)
    assert ModelCard.from_stored(path.read_bytes()) == expected


def test_gate_report_is_written_unchanged() -> None:
    stored("gate.json", samples.REPORT.model_dump_json().encode())


@pytest.mark.parametrize("path", formats("gate.json"))
def test_stored_gate_report_is_read(path: Path) -> None:
    assert GateReport.from_stored(path.read_bytes()) == samples.REPORT


# Training frames.

PURGED = Purged(late={"train": 9, "validation": 4, "test": 0}, straddling={"train": 0, "validation": 1, "test": 2})


def test_counts_of_purged_rows_are_written_unchanged() -> None:
    stored("purged.json", PURGED.model_dump_json().encode())


@pytest.mark.parametrize("path", formats("purged.json"))
def test_stored_counts_of_purged_rows_are_read(path: Path) -> None:
    assert Purged.from_stored(path.read_bytes()) == PURGED


# Backups.

BACKUP = BackupManifest(
    created_at=1.5e9,
    release="0.2.0",
    locations={"warehouse": "file:///home/warehouse"},
    files={"catalog": CopiedFile(size=3, sha256="ab" * 32)},
)


def test_backup_manifest_is_written_unchanged() -> None:
    stored("backup.json", BACKUP.model_dump_json(indent=1).encode())


@pytest.mark.parametrize("path", formats("backup.json"))
def test_stored_backup_manifest_is_read(path: Path) -> None:
    assert BackupManifest.from_stored(path.read_bytes()) == BACKUP


# Moves to a second cluster.

MOVES: dict[str, Stored] = {
    "moves.json": Moves(address="http://10.0.0.9:8265", shares={"flights": 0.25}, writer=3),
    "move_tag.json": MoveMark(cluster="session_1", share=0.25),
}


@pytest.mark.parametrize("name", MOVES)
def test_move_is_written_unchanged_and_read(name: str) -> None:
    stored(name, MOVES[name].model_dump_json().encode())
    assert type(MOVES[name]).from_stored(newest(name).read_bytes()) == MOVES[name]


# Python models.

_PYTHON_RECORD = PythonRecord(
    class_name="reviews.scoring:Sentiment",
    parameters={"batch_size": 64, "sizes": [1, 2]},
    task=Task(kind="binary", label="positive"),
    columns=(Column(name="text", kind="category"), Column(name="image", kind="tensor", shape=(2, 3))),
    sha256="0" * 64,
    runtime=PythonRuntime(pip=("torch==2.9.0",), env_vars={"A": "1"}, gpus=0.5, replicas=2),
)
_PYTHON_VERSION = ModelVersion(model="reviews", version="3", run_id="r", bundle_uri="/bundle", tags={"a": "b"})
PYTHON_MODELS: dict[str, Stored] = {
    "python_model.json": _PYTHON_RECORD,
    "python_server.json": PythonServerConfig(version=_PYTHON_VERSION, rollout="r1", max_growth_mib=64.0),
}


@pytest.mark.parametrize("name", PYTHON_MODELS)
def test_python_model_is_written_unchanged_and_read(name: str) -> None:
    stored(name, PYTHON_MODELS[name].model_dump_json().encode())
    assert type(PYTHON_MODELS[name]).from_stored(newest(name).read_bytes()) == PYTHON_MODELS[name]


# Baselines.

BASELINES = {
    baselines.WITH: {"metrics": {"auc": 0.75, "log_loss": 0.5}, "months": {"2013-06": {"rows": 9, "auc": 0.75}}},
    baselines.WITHOUT: {"metrics": {"auc": 0.5, "log_loss": 0.625}, "months": {"2013-06": {"rows": 9, "auc": 0.5}}},
}


def _context(folder: Path) -> Any:
    context = SimpleNamespace(folder=str(folder))
    context.write, context.read = (partial(method, context) for method in (ProjectContext.write, ProjectContext.read))
    context.uri_of = partial(ProjectContext.uri_of, context)
    return context


def test_baselines_are_written_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda result: result)
    assert baselines.collect(_context(tmp_path), BASELINES) == BASELINES  # type: ignore[arg-type]
    stored("baselines.json", (tmp_path / "baselines.json").read_bytes())


@pytest.mark.parametrize("path", formats("baselines.json"))
def test_stored_baselines_are_read(path: Path, tmp_path: Path) -> None:
    assert baselines.load(_context(_put(path, tmp_path))) == BASELINES


# Replicas.


def test_serve_config_is_written_unchanged() -> None:
    for name, config in samples.USER_CONFIG.items():
        stored(f"user_config/{name}.json", json.dumps(config).encode())


@pytest.mark.parametrize("folder", formats("user_config"))
def test_stored_serve_config_is_read(folder: Path) -> None:
    for kind in (ServerConfig, ChallengerConfig):
        name = {ServerConfig: "ModelServer", ChallengerConfig: "Challenger"}[kind]
        if not (folder / f"{name}.json").exists():
            continue  # This format did not change it.
        read = kind.from_stored(json.loads((folder / f"{name}.json").read_text()))
        assert read.model_dump(mode="json") == samples.USER_CONFIG[name]


def test_unshipped_rows_are_written_unchanged(tmp_path: Path) -> None:
    tally = UnshippedCounter(tmp_path, "replica")
    tally.add("predictions", 7)
    tally.add("labels", 2)
    golden("unshipped_rows", [path.read_bytes().hex() for path in tmp_path.iterdir()])
    tally.close()


def test_unshipped_rows_of_the_first_format_are_read(tmp_path: Path) -> None:
    (tmp_path / "dead").write_bytes(np.array([7, 2], np.int64).tobytes())
    assert [(debt.replica, debt.rows) for debt in read_remainders(tmp_path)] == [
        ("dead", {"predictions": 7, "labels": 2})
    ]


# The session.


@pytest.mark.parametrize("path", formats("cluster.json"))
def test_stored_session_is_read(path: Path, tmp_path: Path) -> None:
    # Nothing runs under this session's id: what counts is that the file is understood.
    assert processes(Settings(home=_put(path, tmp_path))) == []


# Values of other versions.


def _read_journal(path: Path, folder: Path) -> object:
    tables = Tables(Settings(home=folder))
    tables.append(journal_table("trips"), _rows_of(path))
    return tuple(RolloutJournal("trips", tables).decisions())


def _read_trial(path: Path, folder: Path) -> object:
    return [trial.model_dump_json() for trial in TrialStore(str(_put(path, folder))).ended_trials()]


READERS: dict[str, Callable[[Path, Path], object]] = {
    MANIFEST_FILE: lambda path, folder: Manifest.load(_put(path, folder)),
    STATE: lambda path, folder: MonitorStore(_put(path, folder)).load(),
    "profile.json": lambda path, folder: Profile.from_bytes(path.read_bytes()).to_bytes(),
    "reference.json": lambda path, folder: ReferenceProfile.from_bytes(path.read_bytes()).to_bytes(),
    "card.json": lambda path, folder: ModelCard.from_stored(path.read_bytes()),
    "baselines.json": lambda path, folder: baselines.load(_context(_put(path, folder))),
    "purged.json": lambda path, folder: Purged.from_stored(path.read_bytes()),
    "gate.json": lambda path, folder: GateReport.from_stored(path.read_bytes()),
    "cluster.json": lambda path, folder: processes(Settings(home=_put(path, folder))),
    "trials/000001.json": _read_trial,
    "user_config/ModelServer.json": lambda path, folder: ServerConfig.from_stored(json.loads(path.read_text())),
    "user_config/Challenger.json": lambda path, folder: ChallengerConfig.from_stored(json.loads(path.read_text())),
    "journal.json": _read_journal,
}
NESTED = {
    MANIFEST_FILE: ("task", "encoder", "snapshot"),
    STATE: ("policy", "detector", "used"),
    "profile.json": ("columns.0", "numbers.distance", "categories.carrier"),
    "reference.json": ("bins.distance",),
    "card.json": ("lineage", "assessment.calibration"),
    "gate.json": ("checks.0",),
    "user_config/ModelServer.json": ("champion", "trial", "limits"),
    "user_config/Challenger.json": ("challenger",),
}


def _newest(name: str) -> Any:
    return json.loads(newest(name).read_text())


def _changed(value: Any, change: dict[str, Any], name: str, folder: Path) -> Path:
    """A file of the value with fields changed in it, a field of a field being named by its path."""
    for where, new in change.items():
        *outer, last = where.split(".")
        inner = value
        for part in outer:
            inner = inner[int(part)] if isinstance(inner, list) else inner[part]
        inner[last] = new
    folder.mkdir()
    path = folder / Path(name).name
    path.write_text(json.dumps(value))
    return path


def _journal_with(column: str, kind: str, cell: Any) -> Any:
    content = _newest("journal.json")
    return {"columns": {**content["columns"], column: kind}, "rows": [{**row, column: cell} for row in content["rows"]]}


@pytest.mark.parametrize("name", READERS)
def test_unknown_fields_at_any_depth_are_ignored(name: str, tmp_path: Path) -> None:
    if name == "journal.json":
        value, change = _journal_with("mood", "string", "good"), {}
    else:
        unknown = ["mood", *(f"{where}.mood" for where in NESTED.get(name, ()))]
        value, change = _newest(name), {field: {"good": 1} for field in unknown}
    read = READERS[name]
    path = _changed(value, change, name, tmp_path / "changed")
    assert read(path, tmp_path / "one") == read(newest(name), tmp_path / "other")


@pytest.mark.parametrize("name", READERS)
def test_newer_schema_version_is_refused(name: str, tmp_path: Path) -> None:
    if name == "journal.json":
        value, change = _journal_with("schema_version", "int64", 99), {}
    else:
        value, change = _newest(name), {"schema_version": 99}
        # A newer format may lack fields of this one: it is refused for its version all the same.
        value = dict(list(value.items())[:2])
    path = _changed(value, change, name, tmp_path / "changed")
    with raises(DataError, "data.stored_too_new", version=99, newest=3 if name in (STATE, "journal.json") else 2):
        READERS[name](path, tmp_path / "home")


def test_journal_policy_with_unknown_field_is_read(tmp_path: Path) -> None:
    content = _newest("journal.json")
    content["rows"][0]["policy"] = json.dumps(json.loads(content["rows"][0]["policy"]) | {"mood": "good"})
    path = _changed(content, {}, "journal.json", tmp_path / "changed")
    tables = Tables(Settings(home=tmp_path / "home"))
    tables.append(journal_table("trips"), _rows_of(path))
    last = RolloutJournal("trips", tables).last_state()
    assert last is not None
    assert last.policy == POLICY


def _checkpoint(change: dict[str, Any], folder: Path) -> Path:
    """A folder with the newest format's checkpoint, changed."""
    body = load_checkpoint(newest("training.checkpoint").read_bytes()[32:]) | change
    checkpoints = Checkpointer(str(folder))
    checkpoints.save(4, body)
    checkpoints.wait()
    return folder


@pytest.mark.usefixtures("_one_thread")
def test_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    body = load_checkpoint(newest("training.checkpoint").read_bytes()[32:])
    unknown = {
        "mood": "good",
        "best": body["best"] | {"mood": 1},
        "epochs": [epoch | {"mood": 1} for epoch in body["epochs"]],
    }
    assert len(_training(_checkpoint(unknown, tmp_path / "unknown")).epochs) == 3
    with raises(DataError, "data.stored_too_new", version=99, newest=2):
        _training(_checkpoint({"schema_version": 99}, tmp_path / "newer"))


def test_unshipped_rows_of_a_newer_version_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "newer").write_bytes(np.array([7, 2, 99, 5], np.int64).tobytes())
    (tmp_path / "same").write_bytes(np.array([7, 2, 2], np.int64).tobytes())
    assert [debt.replica for debt in read_remainders(tmp_path)] == ["same"]


def test_declarations_refuse_unknown_fields() -> None:
    with pytest.raises(ValidationError):
        RolloutPolicy.model_validate({"mood": "good"})
    with pytest.raises(ValidationError):
        TrainConfig.model_validate({"mood": "good"})


# What is sent to others.


def test_webhook_body_of_a_rollout_step_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[bytes] = []

    async def send(url: str, body: bytes, **options: object) -> str:
        bodies.append(body)
        return ""

    monkeypatch.setattr(webhooks, "send", send)
    state = begin("r1", "trips", "1", ("2", "3"), POLICY, 100.0).model_copy(update={"reason": "because"})
    assert asyncio.run(post_step(POLICY.webhooks, "before", state, samples.decisions()[1])) == []
    golden("webhook_step", json.loads(bodies[0]))


def test_webhook_body_is_unchanged() -> None:
    notice = Notification(moment="alarm", alarm=samples.ALARM, action="retrain", outcome="job-1", at=1.7e9)
    quiet = notice.model_copy(update={"moment": "quiet"})
    payloads: dict[str, Any] = {
        f"{name} {one.moment}": json.loads(make(one))
        for name, make in (("webhook", webhook_body), ("alertmanager", alertmanager_body))
        for one in (notice, quiet)
    }
    golden("notification_payloads", payloads)
