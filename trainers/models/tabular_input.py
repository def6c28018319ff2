"""Columns as a network takes them."""

from __future__ import annotations

import torch
from torch import nn

from features.encoder import UNKNOWN_CODE
from trainers.input_spec import InputSpec

CLIP_STD = 5.0
EMBEDDING_STD = 0.1


class Standardised(nn.Module):
    """Numbers by the statistics of the training rows, clipped at 5 standard deviations; missing is the mean.

    In training, a share ``unknown`` of codes is replaced by the unknown one, so that unseen values meet a trained embedding.
    """

    def __init__(self, inputs: InputSpec, unknown: float) -> None:
        super().__init__()
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.missing: torch.Tensor
        self.register_buffer("mean", torch.tensor(inputs.mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(inputs.std, dtype=torch.float32))
        self.register_buffer("missing", torch.tensor(inputs.missing, dtype=torch.int64))
        self.unknown = unknown

    def scaled(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers, and which of them are missing: both [n, k]."""
        absent = torch.isnan(numbers)
        scaled = ((numbers - self.mean) / self.std).clamp(-CLIP_STD, CLIP_STD)
        return torch.where(absent, torch.zeros_like(scaled), scaled), absent

    def known(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes, some of them unknown while training."""
        if not (self.training and self.unknown):
            return codes
        return torch.where(torch.rand(codes.shape, device=codes.device) < self.unknown, UNKNOWN_CODE, codes)


class TabularInput(Standardised):
    """Standardised numbers, missing-value indicators, embeddings: [n, width].

    There is an indicator where the training rows had missing values. ``embedding`` caps the width of an embedding, which is
    otherwise half the category's cardinality.
    """

    def __init__(self, inputs: InputSpec, embedding: int = 8, unknown: float = 0.02) -> None:
        super().__init__(inputs, unknown)
        widths = [min(embedding, (size + 1) // 2) for size in inputs.cardinalities]
        sizes = zip(inputs.cardinalities, widths, strict=True)
        self.embeddings = nn.ModuleList(table(size, width) for size, width in sizes)
        self.width = inputs.width + len(inputs.missing) + sum(widths)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        codes = self.known(codes)
        scaled, absent = self.scaled(numbers)
        parts = [scaled]
        if self.missing.numel():
            parts.append(absent[:, self.missing].to(scaled.dtype))
        return torch.cat([*parts, *(one(codes[:, i]) for i, one in enumerate(self.embeddings))], dim=1)


def table(size: int, width: int) -> nn.Embedding:
    """An embedding of small values."""
    made = nn.Embedding(size, width)
    nn.init.normal_(made.weight, std=EMBEDDING_STD)
    return made
