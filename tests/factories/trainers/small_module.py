"""A user's own module, in a file of its own: what it imports, every worker that trains it imports."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from cluster.values import Task
from trainers.input_spec import InputSpec
from trainers.models.tabular_input import TabularInput


class Small(nn.Module):
    """A user's own module."""

    def __init__(self, inputs: InputSpec, task: Task, width: int = 8) -> None:
        super().__init__()
        self.inputs = TabularInput(inputs)
        self.body = nn.Sequential(nn.Linear(self.inputs.width, width), nn.ReLU(), nn.Linear(width, task.outputs))

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(self.inputs(numbers, codes))
        return logits


def build_present(inputs: InputSpec, task: Task, folder: str) -> Small:
    """Leaves the number of the process that builds the module in ``folder``."""
    (Path(folder) / str(os.getpid())).touch()
    return Small(inputs, task)
