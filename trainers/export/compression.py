"""Smaller models from a trained one: which settings, weights and teacher the next training has. Whether the result is good
enough is for the gate to say."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from pydantic import Field

from cluster.errors import ProjectError
from cluster.values import Frozen, Task
from trainers.config import ModelSpec, Parameter, TrainConfig
from trainers.input_spec import InputSpec
from trainers.loop.train_events import State
from trainers.loop.train_spec import Job, Teacher
from trainers.models import registry

FINE_TUNING = 0.1
"""The share of the learning rate that a pruned model is trained on with, unless it is set."""

Weights = dict[str, torch.Tensor]


class Prune(Frozen):
    """Take ``share`` of the hidden units out, those that contribute least, then train on for ``epochs``.

    Whole units go, so that the model is smaller and faster wherever it runs. ``lr`` is a tenth of the training's unless it is set.
    """

    share: float = Field(gt=0, lt=1)
    epochs: int = Field(default=2, ge=1)
    lr: float | None = Field(default=None, gt=0)

    @property
    def told(self) -> str:
        return f"pruned by {self.share:.0%}"

    @property
    def key(self) -> list[object]:
        """What determines the result, as JSON."""
        return ["prune", self.model_dump(mode="json")]


class Distill(Frozen):
    """Train ``student`` on the trained model's outputs (Hinton et al. 2015, arXiv:1503.02531).

    ``weight`` is their share of the loss, the labels have the rest; ``temperature`` softens both models' outputs. ``epochs`` and ``lr`` are
    those of the training unless they are set.
    """

    student: ModelSpec
    weight: float = Field(default=0.7, gt=0, le=1)
    temperature: float = Field(default=2.0, gt=0)
    epochs: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)

    @property
    def told(self) -> str:
        return f"distilled into {self.student.name}"

    @property
    def key(self) -> list[object]:
        """What determines the result, as JSON."""
        return ["distill", self.student.key, self.model_dump(mode="json", exclude={"student"})]


Compression = Prune | Distill


@runtime_checkable
class Prunable(Protocol):
    """What a module offers that can be pruned."""

    def narrowed(self, share: float) -> tuple[dict[str, Parameter], Weights]:
        """Parameters and state of the same module without ``share`` of its hidden units."""


def next_job(step: Compression, job: Job, module: torch.nn.Module) -> Job:
    """The training that makes ``module``, which ``job`` has trained, smaller. Raises ProjectError when it cannot be pruned."""
    if isinstance(step, Prune):
        parameters, state = _prunable(module, job).narrowed(step.share)
        spec = ModelSpec(build=job.spec.build, parameters={**job.spec.parameters, **parameters})
        config = _config(job.config, step.epochs, step.lr or FINE_TUNING * job.config.lr)
        return Job(spec, config, job.task, job.inputs, start=_arrays(state))
    config = _config(job.config, step.epochs or job.config.epochs, step.lr or job.config.lr)
    teacher = Teacher(job.spec, _arrays(module.state_dict()), step.weight, step.temperature)
    return Job(step.student, config, job.task, job.inputs, teacher=teacher)


def check(steps: tuple[Compression, ...], spec: ModelSpec, inputs: InputSpec, task: Task) -> None:
    """Raise ProjectError, before anything is trained, for steps that cannot be taken."""
    for step in steps:
        if isinstance(step, Distill):
            spec = step.student
        module = registry.build(spec, inputs, task)
        if isinstance(step, Prune) and not isinstance(module, Prunable):
            raise _cannot(spec)


def _prunable(module: torch.nn.Module, job: Job) -> Prunable:
    if not isinstance(module, Prunable):
        raise _cannot(job.spec)
    return module


def _cannot(spec: ModelSpec) -> ProjectError:
    return ProjectError(
        f"model {spec.name!r} cannot be pruned", "give it a method narrowed(share), or distil it into a smaller one"
    )


def _config(config: TrainConfig, epochs: int, lr: float) -> TrainConfig:
    # What changed in the course of the training belongs to that one.
    return config.model_copy(update={"epochs": epochs, "lr": lr, "changes": ()})


def _arrays(state: Weights) -> State:
    return {name: value.detach().cpu().numpy().copy() for name, value in state.items()}
