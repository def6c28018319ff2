"""The state of a training run as a checkpoint stores it: capture and restore it.

The keys of the dictionaries here are the format of stored checkpoints.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from torch import nn

from cluster.errors import DataError
from cluster.values import readable_version
from trainers.loop import rng_state
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_events import EpochResult, Weights
from trainers.loop.train_spec import TrainSpec
from trainers.loop.train_state import BestWeights, TrainState
from trainers.loop.train_step import Stepper

SCHEMA_VERSION = 2
"""Version of the format; a checkpoint without one has version 1."""

CheckpointState = dict[str, Any]

# Settings that may differ between the run that wrote a checkpoint and the run that resumes from it.
_IGNORED_SETTINGS = {
    "workers", "min_workers", "resize_s", "restarts", "threads", "cpus_per_worker", "gpu", "cache_mib",
    "checkpoint_steps", "checkpoint_epochs", "quantize", "calibrate",
    # Members of a population share a checkpoint and then change settings in different ways.
    "changes",
}  # fmt: skip


def capture_state(
    spec: TrainSpec,
    group: ProcessGroup,
    module: nn.Module,
    step: Stepper,
    state: TrainState,
    seconds: dict[str, float],
) -> CheckpointState:
    """The state of a training run, in separate memory; complete on the first worker only.

    Args:
        spec: What is trained.
        group: The worker's process group.
        module: The module.
        step: Optimizer and step count.
        state: Epochs and position.
        seconds: Seconds of the current epoch by stage.
    """
    module_state, optimizer_state = group.state_dicts(module, step.optimizer)
    best = state.best
    return {
        "schema_version": SCHEMA_VERSION,
        "job": describe_training(spec),
        "module": module_state,
        "optimiser": optimizer_state,
        "step": step.state(),
        "chance": group.all_gather(rng_state.capture(group.device)),
        "losses": group.all_gather(float(state.loss)),
        "best": {"value": best.value, "weights": best.weights, "stale": best.stale},
        "epochs": [epoch.model_dump() for epoch in state.epochs],
        "at": state.at,
        "steps": state.steps,
        "spent": seconds if state.at else {},
    }


def restore_state(
    stored: CheckpointState, spec: TrainSpec, group: ProcessGroup, module: nn.Module, step: Stepper, state: TrainState
) -> None:
    """Restore a training run to the state that ``capture_state`` returned.

    With the same number of workers the training run continues bit for bit. With a different number, it continues at the
    last position before which no row of the epoch is left out.

    Args:
        stored: The stored state.
        spec: What is trained.
        group: The worker's process group.
        module: The module to restore.
        step: Optimizer and step count to restore.
        state: Epochs and position to restore.

    Raises:
        DataError: The state belongs to a different training, or was written by a newer version of rayloop.
    """
    readable_version(stored.get("schema_version", 1), SCHEMA_VERSION, "training checkpoint")
    _check_same_training(stored["job"], describe_training(spec))
    group.load_state_dicts(module, step.optimizer, (stored["module"], stored["optimiser"]))
    step.restore(stored["step"])
    state.best = BestWeights(**{name: stored["best"][name] for name in ("value", "weights", "stale")})
    state.epochs = [EpochResult.model_validate(epoch, extra="ignore") for epoch in stored["epochs"]]
    state.earlier_seconds = stored["spent"]
    if len(stored["chance"]) == group.size:
        state.at = stored["at"]
        state.loss.fill_(stored["losses"][group.rank])
        rng_state.restore(stored["chance"][group.rank], group.device)
        return
    state.at = stored["at"] * state.steps // stored["steps"]
    step.steps_done = len(state.epochs) * state.steps + state.at
    mean = sum(stored["losses"]) / len(stored["losses"])
    state.loss.fill_(mean * state.at / stored["at"] if stored["at"] else 0.0)
    rng_state.seed(group.worker_seed(spec.config.seed) + step.steps_done)


def describe_training(spec: TrainSpec) -> str:
    """JSON that is equal for two training runs if one may resume from the other's checkpoint."""
    return json.dumps(
        {
            **dict(zip(("model", "parameters"), spec.model.key, strict=True)),
            "settings": spec.config.model_dump(mode="json", exclude=_IGNORED_SETTINGS),
            "task": spec.task.model_dump(mode="json"),
            "inputs": spec.inputs.model_dump(mode="json"),
            "start": _digest(spec.start),
            "teacher": _digest(spec.teacher.state if spec.teacher else None),
        },
        sort_keys=True,
    )


def _digest(weights: Weights | None) -> str:
    """Hash of the weights; empty for None."""
    if weights is None:
        return ""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()


def _check_same_training(stored: str, current: str) -> None:
    if stored == current:
        return
    then, now = json.loads(stored), json.loads(current)
    parts = [name for name in now if then.get(name) != now[name]]
    raise DataError("data.checkpoint_of_other_training", parts=parts)
