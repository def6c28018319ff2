"""One training step, and what surrounds it: schedule, precision, accumulation, clipping, optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainers.config import Precision, TrainConfig
from trainers.data.batches import Batch
from trainers.loop.process_group import World
from trainers.loop.stage_timer import Clock

START_SHARE = 0.1
END_SHARE = 0.001

Loss = Callable[[torch.Tensor, Batch], torch.Tensor]
"""Of logits and the rows that they are of."""

_AUTOCAST: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def schedule_factor(config: TrainConfig, step: int, steps: int) -> float:
    """Share of ``config.lr`` at ``step`` of ``steps``.

    "onecycle" (Smith & Topin 2018) rises from 0.1 along a cosine during the warm-up and falls to 0.001 along another;
    "cosine" rises linearly and falls to 0 along a cosine (Loshchilov & Hutter 2017); "constant" is 1.
    """
    if config.schedule == "constant":
        return 1.0
    rising = config.warmup * steps
    start, end = (START_SHARE, END_SHARE) if config.schedule == "onecycle" else (0.0, 0.0)
    if step < rising:
        done = (step + 1) / math.ceil(rising)
        return done if config.schedule == "cosine" else 1.0 + (start - 1.0) * _half_cosine(done)
    return end + (1.0 - end) * _half_cosine((step - rising) / max(1.0, steps - rising))


def _half_cosine(done: float) -> float:
    """Falls from 1 to 0 as ``done`` goes from 0 to 1."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


class Stepper:
    """AdamW (Loshchilov & Hutter 2019) over a module, one step at a time. Biases, norms and other vectors are not decayed.

    ``done`` counts steps, of ``steps`` in all; the learning rate follows from it alone.
    """

    def __init__(
        self, module: nn.Module, config: TrainConfig, loss: Loss, steps: int, world: World, clock: Clock | None = None
    ) -> None:
        self._module = module
        self._config = config
        self._loss = loss
        self._steps = steps
        self._world = world
        self._clock = clock or Clock(world.device)
        self._cast = _AUTOCAST.get(config.precision)
        self._scaler = torch.amp.GradScaler(world.device.type, enabled=config.precision == "fp16")
        self.optimiser = _adamw(module, config)
        self.done = 0

    def use(self, config: TrainConfig) -> None:
        """Go on with the settings of ``config`` that may change while a model trains."""
        self._config = config
        for group in self.optimiser.param_groups:
            group["weight_decay"] = config.weight_decay if group["params"][0].ndim > 1 else 0.0

    @property
    def lr(self) -> float:
        return self._config.lr * schedule_factor(self._config, self.done, self._steps)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Take one step on ``batch``; returns its mean loss, detached."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr
        loss = self.gradients(batch)
        if self._config.clip_norm:
            self._scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(self._module.parameters(), self._config.clip_norm)
        self._scaler.step(self.optimiser)
        self._scaler.update()
        self.done += 1
        self._clock.mark("optimiser")
        return loss

    def gradients(self, batch: Batch) -> torch.Tensor:
        """Leave the gradient of the mean loss of ``batch`` over all workers, added up over its parts; returns this worker's loss."""
        self.optimiser.zero_grad(set_to_none=True)
        parts = batch.parts(self._config.accumulate)
        found = []
        for number, part in enumerate(parts, start=1):
            with self._world.averaging(self._module, now=number == len(parts)):
                loss = self._part(part)
                if len(parts) > 1:
                    loss = loss * (len(part.labels) / len(batch.labels))
                self._clock.mark("forward")
                self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            found.append(loss.detach())
            self._clock.mark("backward")
        return found[0] if len(found) == 1 else torch.stack(found).sum()

    def state(self) -> dict[str, Any]:
        """What the optimiser's own state leaves out."""
        return {"done": self.done, "scaler": self._scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.done = state["done"]
        self._scaler.load_state_dict(state["scaler"])

    def _part(self, part: Batch) -> torch.Tensor:
        if self._cast is None:
            return self._loss(self._module(part.numbers, part.codes), part)
        with torch.autocast(self._world.device.type, self._cast):
            logits = self._module(part.numbers, part.codes)
        return self._loss(logits.float(), part)


def _adamw(module: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, fused=True)
