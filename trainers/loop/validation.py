"""Scores and metrics of held-out rows, over all workers."""

from __future__ import annotations

import numpy as np
import torch

from cluster.errors import DataError
from cluster.values import Task
from trainers import metrics
from trainers.config import SCORE_BATCH_ROWS
from trainers.data.batches import EncodedRows, MemoryValidationLoader, ValidationLoader
from trainers.data.sharding import shard_bounds
from trainers.fitted_model import FittedModel
from trainers.loop.process_group import ProcessGroup
from trainers.models.scoring_module import ScoringModule


def validate(scorer: ScoringModule, task: Task, held_out: ValidationLoader, group: ProcessGroup) -> dict[str, float]:
    """Exact metrics over the held-out rows of all workers, not averages over shards.

    Args:
        scorer: The model with scores as its output.
        task: The task.
        held_out: This worker's share of the held-out rows.
        group: The worker's process group.

    Returns:
        Metrics by name.

    Raises:
        DataError: A score is NaN.
    """
    return _checked_metrics(task, *gather_scores(scorer, task, held_out, group))


def measure(model: FittedModel, task: Task, rows: EncodedRows) -> dict[str, float]:
    """Metrics of a fitted model on rows in memory, by name.

    Raises:
        DataError: A score is NaN.
    """
    return _checked_metrics(task, score_rows(model, rows), rows.labels)


def score_rows(model: FittedModel, rows: EncodedRows) -> np.ndarray:
    """Scores of rows in memory, in order, as many rows at a time as ``validate`` passes to a module."""
    batches = (batch for _, batch in MemoryValidationLoader(rows).batches())
    return np.concatenate([model.score({"numbers": b.numbers.numpy(), "codes": b.codes.numpy()}) for b in batches])


def _checked_metrics(task: Task, scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    if invalid := int(np.isnan(scores).reshape(len(scores), -1).any(axis=1).sum()):
        raise DataError("data.score_not_a_number", rows=invalid, total=len(scores))
    return metrics.evaluate(task, scores, labels)


@torch.no_grad()
def gather_scores(
    scorer: ScoringModule, task: Task, held_out: ValidationLoader, group: ProcessGroup
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of the held-out rows of all workers, in order, on every worker.

    Args:
        scorer: The model with scores as its output.
        task: The task.
        held_out: This worker's share of the held-out rows.
        group: The worker's process group.
    """
    width = task.outputs
    table = torch.zeros(held_out.rows, width + task.label_width, device=group.device)
    calls = 0
    for first, batch in held_out.batches():
        at = slice(first, first + len(batch.labels))
        batch = batch.to(group.device)
        table[at, :width] = scorer(batch.numbers, batch.codes).reshape(-1, width)
        table[at, width:] = batch.labels.reshape(-1, task.label_width)
        calls += 1
    for _ in range(calls, _max_calls(held_out, group)):
        scorer(*scorer.zero_row(group.device))
    table = group.all_reduce(table).cpu()
    return _to_array(table[:, :width], task.wide), _to_array(table[:, width:], task.label_width > 1)


def _max_calls(held_out: ValidationLoader, group: ProcessGroup) -> int:
    """Calls of the worker with the most rows if all must call the module together, else 0."""
    if not group.collective_forward:
        return 0
    bounds = [shard_bounds(held_out.rows, rank, group.size) for rank in range(group.size)]
    return max(-(-(end - first) // SCORE_BATCH_ROWS) for first, end in bounds)


def _to_array(table: torch.Tensor, wide: bool) -> np.ndarray:
    return np.asarray((table if wide else table[:, 0]).numpy())
