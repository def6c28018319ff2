"""Input layers for tabular data: standardization and embeddings."""

from __future__ import annotations

import torch
from torch import nn

from features.encoder import UNKNOWN_CODE
from trainers.input_spec import CLIP_STD, InputSpec

EMBEDDING_STD = 0.1


class StandardizedInput(nn.Module):
    """Base of input layers: standardizes numbers with statistics of the training rows; missing becomes the mean.

    In training, a share ``unknown`` of codes is replaced by the unknown code, so that unseen values get a trained
    embedding.
    """

    def __init__(self, inputs: InputSpec, unknown: float) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.tensor(inputs.mean, dtype=torch.float32))
        self.std = nn.Buffer(torch.tensor(inputs.std, dtype=torch.float32))
        self.missing = nn.Buffer(torch.tensor(inputs.missing, dtype=torch.int64))
        self.unknown = unknown

    def standardize(self, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Standardized numbers, and a mask of the missing ones: both [n, k]."""
        absent = torch.isnan(numbers)
        scaled = ((numbers - self.mean) / self.std).clamp(-CLIP_STD, CLIP_STD)
        return torch.where(absent, torch.zeros_like(scaled), scaled), absent

    def mask_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes, of which some are replaced by the unknown code in training."""
        if not (self.training and self.unknown):
            return codes
        return torch.where(torch.rand(codes.shape, device=codes.device) < self.unknown, UNKNOWN_CODE, codes)


class TabularInput(StandardizedInput):
    """Concatenates standardized numbers, missing-value indicators and embeddings: [n, width].

    Columns with missing values in training get an indicator. ``embedding`` caps the width of an embedding, which is
    otherwise half of the category's cardinality.
    """

    def __init__(self, inputs: InputSpec, embedding: int = 8, unknown: float = 0.02) -> None:
        super().__init__(inputs, unknown)
        widths = [min(embedding, (size + 1) // 2) for size in inputs.cardinalities]
        sizes = zip(inputs.cardinalities, widths, strict=True)
        self.embeddings = nn.ModuleList(make_embedding(size, width) for size, width in sizes)
        self.width = inputs.width + len(inputs.missing) + sum(widths)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        codes = self.mask_codes(codes)
        scaled, absent = self.standardize(numbers)
        parts = [scaled]
        if self.missing.numel():
            parts.append(absent[:, self.missing].to(scaled.dtype))
        return torch.cat([*parts, *(embed(codes[:, i]) for i, embed in enumerate(self.embeddings))], dim=1)


def make_embedding(size: int, width: int) -> nn.Embedding:
    """An embedding with small initial weights."""
    embedding = nn.Embedding(size, width)
    nn.init.normal_(embedding.weight, std=EMBEDDING_STD)
    return embedding
