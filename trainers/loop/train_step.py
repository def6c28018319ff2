"""One training step: schedule, precision, gradient accumulation, clipping, optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainers.config import Precision, TrainConfig
from trainers.data.batches import Batch
from trainers.loop.process_group import ProcessGroup
from trainers.loop.stage_timer import StageTimer

START_SHARE = 0.1
"""Share of the peak learning rate at which "onecycle" starts."""
END_SHARE = 0.001
"""Share of the peak learning rate at which "onecycle" ends."""

Loss = Callable[[torch.Tensor, Batch], torch.Tensor]
"""Loss of the logits of a batch."""

_AUTOCAST: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def schedule_factor(config: TrainConfig, step: int, steps: int) -> float:
    """Learning rate at ``step`` of ``steps``, as a share of ``config.lr``.

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


def _half_cosine(share: float) -> float:
    """Falls from 1 to 0 as ``share`` goes from 0 to 1."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


class Stepper:
    """Trains a module with AdamW (Loshchilov & Hutter 2019), one step at a time. Only matrices have weight decay.

    Args:
        module: The module, wrapped by ``group``.
        config: Settings of the training.
        loss: Loss of a batch's logits.
        steps: Steps of the whole training, for the schedule.
        group: The worker's process group.
        timer: Receives the time of each stage.

    Attributes:
        optimizer: The optimizer.
        steps_done: Steps done so far; the learning rate depends on it alone.
    """

    def __init__(
        self,
        module: nn.Module,
        config: TrainConfig,
        loss: Loss,
        steps: int,
        group: ProcessGroup,
        timer: StageTimer | None = None,
    ) -> None:
        self._module = module
        self._config = config
        self._loss = loss
        self._steps = steps
        self._group = group
        self._timer = timer or StageTimer(group.device)
        self._cast = _AUTOCAST.get(config.precision)
        self._scaler = torch.amp.GradScaler(group.device.type, enabled=config.precision == "fp16")
        self.optimizer = _adamw(module, config)
        self.steps_done = 0

    def use(self, config: TrainConfig) -> None:
        """Apply those settings of ``config`` that may change during training."""
        self._config = config
        for group in self.optimizer.param_groups:
            group["weight_decay"] = config.weight_decay if group["params"][0].ndim > 1 else 0.0

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self._config.lr * schedule_factor(self._config, self.steps_done, self._steps)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Take one step on ``batch``; returns its mean loss, detached from the graph."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        loss = self.gradients(batch)
        if self._config.clip_norm:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._module.parameters(), self._config.clip_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.steps_done += 1
        self._timer.mark("optimiser")
        return loss

    def gradients(self, batch: Batch) -> torch.Tensor:
        """Set gradients to those of the mean loss over all workers, accumulated over micro-batches.

        Returns:
            The mean loss of this worker's ``batch``, detached from the graph.
        """
        self.optimizer.zero_grad(set_to_none=True)
        parts = batch.split(self._config.accumulate)
        part_losses = []
        for number, part in enumerate(parts, start=1):
            with self._group.gradient_sync(self._module, enabled=number == len(parts)):
                loss = self._part_loss(part)
                if len(parts) > 1:
                    loss = loss * (len(part.labels) / len(batch.labels))
                self._timer.mark("forward")
                self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            part_losses.append(loss.detach())
            self._timer.mark("backward")
        return part_losses[0] if len(part_losses) == 1 else torch.stack(part_losses).sum()

    def state(self) -> dict[str, Any]:
        """State in addition to that of the optimizer."""
        return {"done": self.steps_done, "scaler": self._scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.steps_done = state["done"]
        self._scaler.load_state_dict(state["scaler"])

    def _part_loss(self, part: Batch) -> torch.Tensor:
        if self._cast is None:
            return self._loss(self._module(part.numbers, part.codes), part)
        with torch.autocast(self._group.device.type, self._cast):
            logits = self._module(part.numbers, part.codes)
        return self._loss(logits.float(), part)


def _adamw(module: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, fused=True)
