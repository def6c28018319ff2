"""What a later training starts from: the trained weights or trees of a version, and the statistics they belong to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from safetensors import safe_open
from safetensors.numpy import save

from cluster.errors import ProjectError
from cluster.values import Task, readable_version
from trainers.config import ModelSpec
from trainers.input_spec import InputSpec
from trainers.loop.train_events import Weights

if TYPE_CHECKING:
    from trainers.loop.trainer import FitResult  # imports Ray

SCHEMA_VERSION = 1


class StartingPoint(NamedTuple):
    """A trained model as a later training continues it."""

    kind: str
    """Name of the model's kind, as ``ModelSpec.name``."""
    parameters: dict[str, str]
    """Parameters of the model, as texts."""
    task: Task
    inputs: InputSpec
    """Statistics of its training rows: the scale of its inputs and of a regression's label."""
    state: Weights

    @classmethod
    def of(cls, result: FitResult) -> StartingPoint:
        """The starting point that a trained model is."""
        parameters = {name: str(value) for name, value in result.spec.parameters.items()}
        return cls(result.spec.name, parameters, result.task, result.inputs, result.state)

    def to_bytes(self) -> bytes:
        """The model as a safetensors file."""
        about = {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "parameters": self.parameters,
            "task": self.task.model_dump(mode="json"),
            "inputs": self.inputs.model_dump(mode="json"),
        }
        return save(dict(self.state), {"rayloop": json.dumps(about)})

    @classmethod
    def from_file(cls, path: str) -> StartingPoint:
        """Read what ``to_bytes`` wrote.

        Raises:
            DataError: A newer release wrote it.
        """
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["rayloop"])
            readable_version(about["schema_version"], SCHEMA_VERSION, "starting point")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return cls(
            about["kind"],
            about["parameters"],
            Task.model_validate(about["task"]),
            InputSpec.model_validate(about["inputs"]),
            state,
        )

    def require_same_model(self, version: str, spec: ModelSpec, task: Task) -> None:
        """Refuse a model that cannot continue this one: another kind, another task, or other layers.

        Args:
            version: The version that this is, for the error.
            spec: The model that would continue. Parameters of trees may differ: they grow the further ones.
            task: Its task.

        Raises:
            ProjectError: They differ.
        """
        parameters = {name: str(value) for name, value in spec.parameters.items()}
        ours, theirs = [spec.name, task.model_dump_json()], [self.kind, self.task.model_dump_json()]
        if spec.is_module:
            ours.append(str(sorted(parameters.items())))
            theirs.append(str(sorted(self.parameters.items())))
        if ours != theirs:
            raise ProjectError("project.warm_start_model", version=version, theirs=theirs, ours=ours)
