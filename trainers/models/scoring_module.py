"""The module around a model that turns its logits into scores."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from cluster.values import Task
from features.encoder import Arrays
from trainers import losses
from trainers.input_spec import InputSpec


class ScoringModule(nn.Module):
    """Wraps a model so that it outputs scores as cluster.values.Task describes.

    Args:
        module: The model.
        task: The task.
        inputs: Description of the inputs.
        temperature: Divides the logits (temperature scaling).
    """

    def __init__(self, module: nn.Module, task: Task, inputs: InputSpec, temperature: float = 1.0) -> None:
        super().__init__()
        self.module = module
        self.task = task
        self.scale = inputs.label_std
        self.shift = inputs.label_mean
        self.temperature = temperature
        self.logit_shift = inputs.logit_shift
        self._shape = inputs.width, len(inputs.cardinalities)

    def zero_row(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of a single row of zeros."""
        width, codes = self._shape
        return torch.zeros(1, width, device=device), torch.zeros(1, codes, dtype=torch.int64, device=device)

    @torch.inference_mode()
    def score(self, arrays: Arrays) -> np.ndarray:
        """Scores of encoded rows, in this process and on the CPU."""
        return np.asarray(self(torch.from_numpy(arrays["numbers"]), torch.from_numpy(arrays["codes"])).numpy())

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        logits = self.module(numbers, codes)
        if self.logit_shift:
            logits = logits - logits.new_tensor(self.logit_shift)
        # The exported graph has no division without a temperature.
        scores = losses.activate(self.task, logits / self.temperature if self.temperature != 1.0 else logits)
        return scores * self.scale + self.shift if self.task.kind == "regression" else scores
