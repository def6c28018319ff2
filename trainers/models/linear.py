"""A linear model."""

from __future__ import annotations

import torch
from torch import nn

from cluster.values import Task
from trainers.input_spec import InputSpec
from trainers.models.tabular_input import TabularInput


class Linear(nn.Module):
    """Logistic, softmax or linear regression on TabularInput."""

    def __init__(self, inputs: InputSpec, task: Task, embedding: int = 8, unknown: float = 0.02) -> None:
        super().__init__()
        self.inputs = TabularInput(inputs, embedding, unknown)
        self.head = nn.Linear(self.inputs.width, task.outputs)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        return self.head(self.inputs(numbers, codes))
