"""Metrics on held-out rows, over all workers."""

from __future__ import annotations

import numpy as np
import torch

from cluster.errors import DataError
from cluster.values import Task
from trainers import metrics
from trainers.config import SCORE_ROWS
from trainers.data.batches import HeldOut
from trainers.data.sharding import share_of
from trainers.loop.process_group import World
from trainers.models.registry import Scored


def validate(scored: Scored, task: Task, held_out: HeldOut, world: World) -> dict[str, float]:
    """Metrics over the held-out rows of all workers, exact, not averaged over shards. Raises DataError for scores that are not numbers."""
    scores, labels = gather(scored, task, held_out, world)
    if broken := int(np.isnan(scores).reshape(len(scores), -1).any(axis=1).sum()):
        raise DataError(
            f"the model's scores of {broken:,} of {len(scores):,} rows are not numbers",
            "lower lr, or look for infinite values, and for missing ones that the model does not expect",
        )
    return metrics.evaluate(task, scores, labels)


@torch.no_grad()
def gather(scored: Scored, task: Task, held_out: HeldOut, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of all held-out rows, in order, on every worker."""
    width = task.outputs
    table = torch.zeros(held_out.rows, width + task.label_width, device=world.device)
    calls = 0
    for first, batch in held_out.parts():
        at = slice(first, first + len(batch.labels))
        batch = batch.to(world.device)
        table[at, :width] = scored(batch.numbers, batch.codes).reshape(-1, width)
        table[at, width:] = batch.labels.reshape(-1, task.label_width)
        calls += 1
    for _ in range(calls, _most_calls(held_out, world)):
        scored(*scored.blank(world.device))
    table = world.total(table).cpu()
    return _shaped(table[:, :width], task.wide), _shaped(table[:, width:], task.label_width > 1)


def _most_calls(held_out: HeldOut, world: World) -> int:
    """Calls of the worker with most rows, where one cannot call its module without the others."""
    if not world.together:
        return 0
    bounds = [share_of(held_out.rows, rank, world.size) for rank in range(world.size)]
    return max(-(-(end - first) // SCORE_ROWS) for first, end in bounds)


def _shaped(table: torch.Tensor, wide: bool) -> np.ndarray:
    array: np.ndarray = (table if wide else table[:, 0]).numpy()
    return array
