"""What a model minimises, and how its outputs become scores, for each kind of task."""

from __future__ import annotations

import torch
from torch.nn import functional

from cluster.contracts import Task


def loss(task: Task, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean loss of one batch: logits [n, outputs], labels [n] (regression: standardised)."""
    if task.kind == "binary":
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels)
    if task.kind == "multiclass":
        return functional.cross_entropy(logits, labels.long())
    return functional.mse_loss(logits[:, 0], labels)


def activate(task: Task, logits: torch.Tensor) -> torch.Tensor:
    """Scores of contracts.Task from logits [n, outputs] (regression: still standardised)."""
    if task.kind == "multiclass":
        return torch.softmax(logits, dim=1)
    return torch.sigmoid(logits[:, 0]) if task.kind == "binary" else logits[:, 0]
