"""What MLflow receives: tags, parameters, metrics, and the names of artifacts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cluster
from cluster.errors import messages
from cluster.registry import BUNDLE_PATH, FINGERPRINT_TAG, GATE_TAG, KEY_TAG
from cluster.values import TaskKind
from rayloop.stages.mlflow_callback import CurveLogger
from rayloop.stages.model_cards import CARD_PATH
from rayloop.stages.tune import PAGE, TrialRunLogger
from tests.factories.golden.files import golden
from trainers.card.model_card import CARD_JSON, CARD_PAGE
from trainers.config import ModelSpec, TrainConfig
from trainers.loop.train_events import STAGES, EpochResult, StepProgress
from trainers.metrics import METRICS
from trainers.tuning.trial import Trial

ROOT = Path(cluster.__file__).parents[1]
PRODUCT = ("cluster", "features", "trainers", "deployments", "monitoring", "rayloop")


class _Run:
    """Records the names that it receives."""

    def __init__(self) -> None:
        self.id = "run"
        self.failed = False
        self.records: dict[str, Any] = {"parameters": {}, "metrics": set(), "tags": set()}

    def log_parameters(self, values: Mapping[str, object]) -> None:
        self.records["parameters"] |= {name: str(value) for name, value in values.items()}

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.records["metrics"] |= set(values)

    def log_metric_series(self, values: Mapping[str, Mapping[int, float]]) -> None:
        self.records["metrics"] |= set(values)

    def set_tags(self, values: Mapping[str, str]) -> None:
        self.records["tags"] |= set(values)

    @property
    def names(self) -> dict[str, Any]:
        return {kind: values if isinstance(values, dict) else sorted(values) for kind, values in self.records.items()}


class _Registry:
    def __init__(self) -> None:
        self.runs: list[_Run] = []

    @contextmanager
    def run(self, experiment: str, name: str, parent: str) -> Iterator[_Run]:
        self.runs.append(_Run())
        yield self.runs[-1]


def _tags() -> list[str]:
    """Every text of the product's code that reads like one of its tags and is no error code."""
    tags: set[str] = set()
    for package in PRODUCT:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    tags |= {node.value} if re.fullmatch(r"rayloop\.[a-z_]+", node.value) else set()
    # Modules of a package of that name are no tags.
    modules = {path.stem for path in (ROOT / "rayloop").glob("*")}
    return sorted(tag for tag in tags - set(messages()) if tag.partition(".")[2] not in modules)


def test_tags_of_versions_and_runs_are_unchanged() -> None:
    tags = _tags()
    assert {FINGERPRINT_TAG, GATE_TAG, KEY_TAG} <= set(tags)
    golden("mlflow_tags", tags)


def test_parameters_of_a_training_are_unchanged() -> None:
    golden("mlflow_parameters", {"model": ModelSpec().name, **TrainConfig().model_dump(mode="json")})


def test_metrics_of_tasks_are_unchanged() -> None:
    kinds: tuple[TaskKind, ...] = ("binary", "multiclass", "regression", "multilabel")
    golden("mlflow_metrics", {kind: sorted(METRICS[kind]) for kind in kinds})


def test_training_progress_is_unchanged() -> None:
    run = _Run()
    curves = CurveLogger(run)  # type: ignore[arg-type]
    seconds = dict.fromkeys(STAGES, 1.0)
    curves(
        StepProgress(
            epoch=1,
            epochs=2,
            step=1,
            steps=2,
            loss=0.5,
            lr=0.1,
            rows_per_second=9.0,
            left_seconds=1.0,
            workers=1,
            seconds=seconds,
        )
    )
    curves(
        EpochResult(
            number=1,
            of=2,
            loss=0.5,
            metrics={"auc": 0.5},
            lr=0.1,
            rows_per_second=9.0,
            train_seconds=1.0,
            validation_seconds=1.0,
            best=True,
            best_so_far=0.5,
            seconds=seconds,
        )
    )
    golden("mlflow_curves", run.names)


def test_trial_report_is_unchanged() -> None:
    registry = _Registry()
    nested = TrialRunLogger(registry, "trips", _Run(), "auc", set())  # type: ignore[arg-type]
    nested(Trial(number=1, parameters={"lr": 0.1}, metric=0.5, epochs=2, curve=(0.25, 0.5), status="finished"))
    nested(Trial(number=2, parameters={"lr": 0.1}, status="failed", error="why", parent=1))
    golden("mlflow_trials", [run.names for run in registry.runs])


def test_names_of_artifacts_are_unchanged() -> None:
    golden("mlflow_artifacts", {"bundle": BUNDLE_PATH, "card": [CARD_PATH, CARD_JSON, CARD_PAGE], "search": PAGE})
