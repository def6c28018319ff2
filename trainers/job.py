"""What to train, without the data."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.contracts import Task
from trainers.config import ModelSpec, TrainConfig
from trainers.inputs import InputSpec


@dataclass(frozen=True)
class Job:
    """A model, how to train it, for what, and what it is told about its inputs."""

    spec: ModelSpec
    config: TrainConfig
    task: Task
    inputs: InputSpec
