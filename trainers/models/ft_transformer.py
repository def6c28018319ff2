"""FT-Transformer: attention between columns as tokens (Gorishniy et al. 2021, arXiv:2106.11959)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cluster.errors import ProjectError
from cluster.values import Task
from trainers.input_spec import InputSpec
from trainers.models.tabular_input import StandardizedInput, make_embedding


class FeatureTokens(StandardizedInput):
    """A token for each number and each category, and a CLS token for the output: [n, tokens, width].

    A number's token is its value times a weight vector, plus a bias; a missing one is that of the mean, plus ``gap``.
    """

    def __init__(self, inputs: InputSpec, width: int, unknown: float) -> None:
        super().__init__(inputs, unknown)
        self.weight = nn.Parameter(_uniform(inputs.width, width))
        self.bias = nn.Parameter(_uniform(inputs.width, width))
        self.gap = nn.Parameter(torch.zeros(inputs.width, width))
        self.answer = nn.Parameter(_uniform(1, width))
        self.embeddings = nn.ModuleList(make_embedding(size, width) for size in inputs.cardinalities)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        codes = self.mask_codes(codes)
        scaled, absent = self.standardize(numbers)
        number_tokens = scaled[:, :, None] * self.weight + self.bias + absent[:, :, None].to(scaled.dtype) * self.gap
        category_tokens = [embed(codes[:, i])[:, None] for i, embed in enumerate(self.embeddings)]
        return torch.cat([self.answer.expand(numbers.shape[0], 1, -1), number_tokens, *category_tokens], dim=1)


class TransformerBlock(nn.Module):
    """Attention between tokens, then a gated layer within each (ReGLU; Shazeer 2020): pre-norm with residuals.

    Attribute names are part of the stored format of a model's weights.
    """

    def __init__(self, width: int, heads: int, attention_dropout: float, dropout: float, first: bool) -> None:
        super().__init__()
        inner = width * 4 // 3
        self.heads, self.dropout = heads, attention_dropout
        # The first block has no norm before attention (section 3.3).
        self.before = nn.Identity() if first else nn.LayerNorm(width)
        self.mixed = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * inner)
        self.narrow = nn.Sequential(nn.Dropout(dropout), nn.Linear(inner, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self._attend(self.before(tokens))
        value, gate = self.wide(self.between(tokens)).chunk(2, dim=-1)
        return tokens + self.narrow(value * functional.relu(gate))

    def _attend(self, tokens: torch.Tensor) -> torch.Tensor:
        rows, count, width = tokens.shape
        qkv = self.mixed(tokens).reshape(rows, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        heads = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], dropout_p=rate)
        return self.out(heads.transpose(1, 2).reshape(rows, count, width))


class FtTransformer(nn.Module):
    """FT-Transformer with ``blocks`` blocks over tokens of ``width``; a linear head on the CLS token gives the logits.

    The defaults are a third as wide as the paper's, to suit CPUs.
    """

    def __init__(
        self,
        inputs: InputSpec,
        task: Task,
        width: int = 64,
        blocks: int = 3,
        heads: int = 8,
        attention_dropout: float = 0.2,
        dropout: float = 0.1,
        unknown: float = 0.02,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ProjectError("project.width_not_divisible", width=width, heads=heads)
        self.tokens = FeatureTokens(inputs, width, unknown)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, attention_dropout, dropout, not i) for i in range(blocks)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, task.outputs))

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens(numbers, codes)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 0])


def _uniform(rows: int, width: int) -> torch.Tensor:
    """Uniform within 1 / sqrt(width), as in the paper's code."""
    bound = float(width) ** -0.5
    return torch.empty(rows, width).uniform_(-bound, bound)
