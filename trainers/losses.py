"""What a model minimises, and how its outputs become scores, for each kind of task."""

from __future__ import annotations

import torch
from torch.nn import functional

from cluster.errors import ProjectError
from cluster.values import Task
from trainers.config import TrainConfig
from trainers.input_spec import InputSpec


def loss(task: Task, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean loss of one batch: logits [n, outputs], labels [n] (regression: standardised; multi-label: [n, outputs]).

    ``weights`` [classes] multiply the loss of each row by its class's (multi-label: of the rows that have the label). The mean is
    over rows, not over weights, so that it is the same however rows are cut into batches.
    """
    if task.kind == "regression":
        return functional.mse_loss(logits[:, 0], labels)
    if task.kind == "multiclass":
        each = functional.cross_entropy(logits, labels.long(), reduction="none")
        return (each if weights is None else each * weights[labels.long()]).mean()
    if task.kind == "multilabel":
        return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    chosen = None if weights is None else weights[labels.long()]
    return functional.binary_cross_entropy_with_logits(logits[:, 0], labels, weight=chosen)


def distilled(task: Task, logits: torch.Tensor, taught: torch.Tensor, temperature: float) -> torch.Tensor:
    """How far a student's logits [n, outputs] are from its teacher's: the mean over rows.

    Cross-entropy of both softened by ``temperature``, times its square, so that gradients keep their size (Hinton et al. 2015,
    section 2.1), less the teacher's own entropy, which is nobody's to lower; of a regression the squared difference.
    """
    if task.kind == "regression":
        return functional.mse_loss(logits, taught)
    soft, ours, scale = taught / temperature, logits / temperature, temperature**2
    if task.kind == "multiclass":
        known = torch.log_softmax(soft, dim=1)
        return scale * functional.kl_div(torch.log_softmax(ours, dim=1), known, reduction="batchmean", log_target=True)
    wanted = torch.sigmoid(soft)
    own = functional.binary_cross_entropy_with_logits(soft, wanted)
    return scale * (functional.binary_cross_entropy_with_logits(ours, wanted) - own)


def class_weights(task: Task, config: TrainConfig, inputs: InputSpec) -> torch.Tensor | None:
    """The weights that ``config`` asks for, [classes]; None for none. Raises ProjectError when they do not suit the task.

    "balanced" is rows / (classes * rows of the class) (King & Zeng 2001, as in scikit-learn); multi-label: rows without the
    label / rows with it.
    """
    asked = config.class_weights
    if asked == "none":
        return None
    if task.kind == "regression":
        raise ProjectError(f"class_weights={asked!r}: a regression has no classes", "leave class_weights out")
    if asked != "balanced":
        return torch.tensor(_fitting(asked, len(inputs.class_shares)), dtype=torch.float32)
    shares = torch.tensor(inputs.class_shares, dtype=torch.float32)
    known = shares.clamp(min=torch.finfo(torch.float32).tiny)
    balanced = (1 - shares) / known if task.kind == "multilabel" else 1 / (len(shares) * known)
    return torch.where(shares > 0, balanced, 1.0)


def activate(task: Task, logits: torch.Tensor) -> torch.Tensor:
    """Scores of contracts.Task from logits [n, outputs] (regression: still standardised)."""
    if task.kind == "multiclass":
        return torch.softmax(logits, dim=1)
    if task.kind == "multilabel":
        return torch.sigmoid(logits)
    return torch.sigmoid(logits[:, 0]) if task.kind == "binary" else logits[:, 0]


def _fitting(weights: tuple[float, ...], classes: int) -> tuple[float, ...]:
    if len(weights) != classes or min(weights) < 0:
        raise ProjectError(
            f"class_weights={weights} does not give each of {classes} classes a weight", "one each, none below 0"
        )
    return weights
