"""A candidate: what it is trained from, and what it becomes once it is registered."""

from __future__ import annotations

from typing import Any, NamedTuple

from cluster.values import GateReport, ModelVersion
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from rayloop.retraining.warm_start import WarmStart
from trainers.config import IMPORTED, PYTHON, ModelSpec, TrainConfig


class Recipe(NamedTuple):
    """What to train and how."""

    spec: ModelSpec
    config: TrainConfig
    shuffle_labels: bool = False
    """Train on shuffled labels: the sabotaged challenger of a simulation."""
    start: WarmStart | None = None
    """The version whose training continues; None: from the beginning."""

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return what a manifest stores: what trains the version again; else where the model comes from."""
        if self.spec.is_imported:
            return {IMPORTED: dict(self.spec.parameters)}
        if self.spec.is_python:
            return {PYTHON: {"class": self.spec.name, **self.spec.parameters}}
        return {"model": dict(self.spec.parameters), "train": self.config.model_dump(mode="json")}


class CandidateBuild(NamedTuple):
    """The inputs of one candidate."""

    context: ProjectContext
    frame: FrameView
    recipe: Recipe
    name: str
    """Name of its MLflow run."""
    fingerprint: str
    """Hash of everything that determines the candidate."""
    override_gate: str = ""
    """Reason to register it although it fails its gate; empty to refuse it."""


class Candidate(NamedTuple):
    """A registered candidate."""

    version: ModelVersion
    report: GateReport
    quality: dict[str, float]
    """Metrics on the held-out rows."""
