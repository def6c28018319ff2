"""A training's state as a checkpoint holds it, and the way back."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from torch import nn

from cluster.errors import DataError
from cluster.values import readable_version
from trainers.loop import rng_state
from trainers.loop.process_group import World
from trainers.loop.train_events import Epoch, State
from trainers.loop.train_spec import Job
from trainers.loop.train_state import Best, Progress
from trainers.loop.train_step import Stepper

# What may differ between the run that wrote a checkpoint and the one that goes on from it.
_FREE = {
    "workers", "min_workers", "resize_s", "restarts", "threads", "cpus_per_worker", "gpu", "cache_mib",
    "checkpoint_steps", "checkpoint_epochs", "quantize", "calibrate",
    # Those to come may be others than foreseen then; a population's members part this way.
    "changes",
}  # fmt: skip

Saved = dict[str, Any]

SCHEMA_VERSION = 2
"""Of a checkpoint; one that does not say is of version 1."""


def take(
    job: Job, world: World, module: nn.Module, step: Stepper, progress: Progress, steps: int, seconds: dict[str, float]
) -> Saved:
    """Everything, in memory of its own; complete on the first worker. ``steps`` are those of an epoch."""
    whole, optimiser = world.saved(module, step.optimiser)
    best = progress.best
    return {
        "schema_version": SCHEMA_VERSION,
        "job": described(job),
        "module": whole,
        "optimiser": optimiser,
        "step": step.state(),
        "chance": world.gathered(rng_state.state(world.device)),
        "losses": world.gathered(float(progress.loss)),
        "best": {"value": best.value, "weights": best.weights, "stale": best.stale},
        "epochs": [epoch.model_dump() for epoch in progress.epochs],
        "at": progress.at,
        "steps": steps,
        "spent": seconds if progress.at else {},
    }


def restore(
    saved: Saved, job: Job, world: World, module: nn.Module, step: Stepper, progress: Progress, steps: int
) -> None:
    """Go on where ``saved`` was taken. Raises DataError when that was another training.

    With as many workers as then, exactly; with others the position is the last one before which no row of the epoch is left out.
    """
    readable_version(saved.get("schema_version", 1), SCHEMA_VERSION, "training checkpoint")
    _refuse_another(saved["job"], described(job))
    world.restore(module, step.optimiser, (saved["module"], saved["optimiser"]))
    step.restore(saved["step"])
    progress.best = Best(**{name: saved["best"][name] for name in ("value", "weights", "stale")})
    progress.epochs = [Epoch.model_validate(epoch, extra="ignore") for epoch in saved["epochs"]]
    progress.spent = saved["spent"]
    if len(saved["chance"]) == world.size:
        progress.at = saved["at"]
        progress.loss.fill_(saved["losses"][world.rank])
        rng_state.restore(saved["chance"][world.rank], world.device)
        return
    progress.at = saved["at"] * steps // saved["steps"]
    step.done = len(progress.epochs) * steps + progress.at
    mean = sum(saved["losses"]) / len(saved["losses"])
    progress.loss.fill_(mean * progress.at / saved["at"] if saved["at"] else 0.0)
    rng_state.seed(world.seed(job.config.seed) + step.done)


def described(job: Job) -> str:
    """What makes a training this one and no other."""
    return json.dumps(
        {
            **dict(zip(("model", "parameters"), job.spec.key, strict=True)),
            "settings": job.config.model_dump(mode="json", exclude=_FREE),
            "task": job.task.model_dump(mode="json"),
            "inputs": job.inputs.model_dump(mode="json"),
            "start": _digest(job.start),
            "teacher": _digest(job.teacher.state if job.teacher else None),
        },
        sort_keys=True,
    )


def _digest(state: State | None) -> str:
    """Tells weights from others; empty for none."""
    if state is None:
        return ""
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(name.encode())
        found.update(np.ascontiguousarray(state[name]).tobytes())
    return found.hexdigest()


def _refuse_another(theirs: str, ours: str) -> None:
    if theirs == ours:
        return
    then, now = json.loads(theirs), json.loads(ours)
    parts = [name for name in now if then.get(name) != now[name]]
    raise DataError(
        f"the checkpoint is of another training: its {' and '.join(parts)} differ", "remove it, or set another folder"
    )
