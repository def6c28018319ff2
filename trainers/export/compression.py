"""Compression by pruning or distillation: the initial weights and teacher of the next training.

The quality gate decides whether the result is good enough.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from cluster.errors import ProjectError
from cluster.values import Task
from trainers.config import Compression, Distill, ModelSpec, Parameter, Prune, TrainConfig
from trainers.input_spec import InputSpec
from trainers.loop.train_events import Weights
from trainers.loop.train_spec import Teacher, TrainSpec
from trainers.models import model_builder
from trainers.trees.parameters import require_module

FINE_TUNING = 0.1
"""Share of the learning rate with which a pruned model is trained, unless ``Prune.lr`` is set."""

Tensors = dict[str, torch.Tensor]


@runtime_checkable
class Prunable(Protocol):
    """A module that can be pruned."""

    def prune(self, share: float) -> tuple[dict[str, Parameter], Tensors]:
        """Parameters and state of the same module without ``share`` of its hidden units."""


def compression_job(step: Compression, job: TrainSpec, module: torch.nn.Module) -> TrainSpec:
    """The training that compresses a model.

    Args:
        step: The compression.
        job: The training that produced ``module``.
        module: The trained model.

    Raises:
        ProjectError: The module cannot be pruned.
    """
    if isinstance(step, Prune):
        parameters, state = _prunable(module, job.model).prune(step.share)
        spec = ModelSpec(build=job.model.build, parameters={**job.model.parameters, **parameters})
        config = _config(job.config, step.epochs, step.lr or FINE_TUNING * job.config.lr)
        return TrainSpec(spec, config, job.task, job.inputs, start=_arrays(state))
    config = _config(job.config, step.epochs or job.config.epochs, step.lr or job.config.lr)
    teacher = Teacher(job.model, _arrays(module.state_dict()), step.weight, step.temperature)
    return TrainSpec(step.student, config, job.task, job.inputs, teacher=teacher)


def check_steps(steps: tuple[Compression, ...], spec: ModelSpec, inputs: InputSpec, task: Task) -> None:
    """Check, before any training, that all steps are possible.

    Raises:
        ProjectError: A model that is to be pruned cannot be pruned, or one of the models is not a module.
    """
    for step in steps:
        require_module(spec, step)
        if isinstance(step, Distill):
            spec = step.student
            require_module(spec, step)
        module = model_builder.build(spec, inputs, task)
        if isinstance(step, Prune):
            _prunable(module, spec)


def _prunable(module: torch.nn.Module, spec: ModelSpec) -> Prunable:
    if not isinstance(module, Prunable):
        raise ProjectError("project.model_not_prunable", model=spec.name)
    return module


def _config(config: TrainConfig, epochs: int, lr: float) -> TrainConfig:
    # Changes during a training run belong to that run.
    return config.model_copy(update={"epochs": epochs, "lr": lr, "changes": ()})


def _arrays(state: Tensors) -> Weights:
    return {name: value.detach().cpu().numpy().copy() for name, value in state.items()}
