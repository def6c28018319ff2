"""A training that can be stopped at any step, of a model that uses every random number generator."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from cluster.values import Task
from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.training import rows
from trainers.data.batches import Batch, EncodedRows, MemoryLoader
from trainers.input_spec import InputSpec


class Stopped(Exception):
    """Stands for the end of the process."""


class StoppingLoader(MemoryLoader):
    """Ends the training before step ``stop``, counted from where it started or resumed."""

    stop = -1

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(number, first):
            if self.stop == 0:
                raise Stopped
            self.stop -= 1
            yield batch


class NoisyModel(nn.Module):
    """Draws from every generator that a module may use."""

    def __init__(self, inputs: InputSpec, task: Task) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs.width, 4), nn.BatchNorm1d(4), nn.Dropout(0.3))
        self.head = nn.Linear(4, task.outputs)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        noise = 1 + 0.1 * (random.random() + np.random.random()) if self.training else 1.0
        logits: torch.Tensor = self.head(self.body(torch.nan_to_num(numbers).clamp(-5, 5) * noise))
        return logits


@lru_cache
def encoded_parts() -> tuple[EncodedRows, EncodedRows, InputSpec]:
    """Training rows, validation rows, and the description of the inputs."""
    table = frame(rows=200)
    encoder = Encoder.fit(COLUMNS, part(table, "train"))
    train, validation = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    arrays = {"numbers": train.numbers, "codes": train.codes}
    return train, validation, InputSpec.fit(encoder, TASKS["binary"], arrays, train.labels)
