"""One training step, and what surrounds it: schedule, optimiser, gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from trainers.config import TrainConfig
from trainers.feed import Batch

START_SHARE = 0.1
END_SHARE = 0.001

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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
    """AdamW over a module, one step at a time. Biases, norms and other vectors are not decayed."""

    def __init__(self, module: nn.Module, config: TrainConfig, loss: Loss, steps: int) -> None:
        self._module = module
        self._loss = loss
        self._clip = config.clip_norm
        matrices = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
        vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
        self._optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=config.lr,
        )
        self._schedule = LambdaLR(self._optimiser, lambda step: schedule_factor(config, step, steps))

    @property
    def lr(self) -> float:
        return float(self._schedule.get_last_lr()[0])

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Take one step on ``batch``; returns its mean loss, detached."""
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._loss(self._module(batch.numbers, batch.codes), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clip:
            nn.utils.clip_grad_norm_(self._module.parameters(), self._clip)
        self._optimiser.step()
        self._schedule.step()
        return loss.detach()
