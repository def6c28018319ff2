"""Training losses on torch tensors, and the activation that turns logits into scores, for each kind of task."""

from __future__ import annotations

import torch
from torch.nn import functional

from cluster.errors import ProjectError
from cluster.values import Task
from trainers.config import TrainConfig
from trainers.input_spec import InputSpec


def batch_loss(
    task: Task,
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None = None,
    row_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean loss of one batch.

    Args:
        task: The task.
        logits: Outputs of the model, [n, outputs].
        labels: [n]; regression: standardized; multi-label: [n, outputs].
        weights: Class weights, [classes]. Each row's loss is multiplied by its class's weight (multi-label: the loss
            of rows with the label). The mean is over rows, not over weights, so it does not depend on batching.
        row_weights: Weights of the rows, [n], for tasks with one class for each row; None: all alike.

    Returns:
        A scalar: mean squared error for regression, cross-entropy otherwise.
    """
    if task.kind == "regression":
        return functional.mse_loss(logits[:, 0], labels)
    if task.kind == "multiclass":
        row_losses = functional.cross_entropy(logits, labels.long(), reduction="none")
        row_losses = row_losses if weights is None else row_losses * weights[labels.long()]
        return (row_losses if row_weights is None else row_losses * row_weights).mean()
    if task.kind == "multilabel":
        return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    if weights is not None:
        by_class = weights[labels.long()]
        row_weights = by_class if row_weights is None else by_class * row_weights
    return functional.binary_cross_entropy_with_logits(logits[:, 0], labels, weight=row_weights)


def distillation_loss(
    task: Task, logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Distance of a student's logits from its teacher's, as the mean over rows.

    Kullback-Leibler divergence of the distributions softened by ``temperature``, times its square, which keeps the
    size of gradients (Hinton et al. 2015, section 2.1); for regression the squared difference.

    Args:
        task: The task.
        logits: Outputs of the student, [n, outputs].
        teacher_logits: Outputs of the teacher for the same rows, [n, outputs].
        temperature: Divides the logits of both.
    """
    if task.kind == "regression":
        return functional.mse_loss(logits, teacher_logits)
    teacher, student, scale = teacher_logits / temperature, logits / temperature, temperature**2
    if task.kind == "multiclass":
        log_student, target = (torch.log_softmax(softened, dim=1) for softened in (student, teacher))
        return scale * functional.kl_div(log_student, target, reduction="batchmean", log_target=True)
    target = torch.sigmoid(teacher)
    entropy = functional.binary_cross_entropy_with_logits(teacher, target)
    return scale * (functional.binary_cross_entropy_with_logits(student, target) - entropy)


def class_weights(task: Task, config: TrainConfig, inputs: InputSpec) -> torch.Tensor | None:
    """Class weights of the loss.

    "balanced" is rows / (classes * rows of the class) (King & Zeng 2001, as in scikit-learn); multi-label: rows without
    the label / rows with it.

    Args:
        task: The task.
        config: Settings with ``class_weights``.
        inputs: Class shares of the training rows.

    Returns:
        Weights [classes], or None without weights.

    Raises:
        ProjectError: The weights do not fit the task.
    """
    setting = config.class_weights
    if setting == "none":
        return None
    if task.kind == "regression":
        raise ProjectError("project.class_weights_of_regression", setting=setting)
    if setting != "balanced":
        classes = len(inputs.class_shares)
        if len(setting) != classes or min(setting) < 0:
            raise ProjectError("project.invalid_class_weights", weights=setting, classes=classes)
        return torch.tensor(setting, dtype=torch.float32)
    shares = torch.tensor(inputs.class_shares, dtype=torch.float32)
    positive = shares.clamp(min=torch.finfo(torch.float32).tiny)
    balanced = (1 - shares) / positive if task.kind == "multilabel" else 1 / (len(shares) * positive)
    return torch.where(shares > 0, balanced, 1.0)


def activate(task: Task, logits: torch.Tensor) -> torch.Tensor:
    """Scores as cluster.values.Task describes, from logits [n, outputs]; regression stays standardized."""
    if task.kind == "multiclass":
        return torch.softmax(logits, dim=1)
    if task.kind == "multilabel":
        return torch.sigmoid(logits)
    return torch.sigmoid(logits[:, 0]) if task.kind == "binary" else logits[:, 0]
