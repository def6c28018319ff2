"""FT-Transformer: every column is a token, and tokens attend to one another (Gorishniy et al. 2021, arXiv:2106.11959)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cluster.errors import ProjectError
from cluster.values import Task
from trainers.input_spec import InputSpec
from trainers.models.tabular_input import Standardised, table


class Tokens(Standardised):
    """A token for each number, each category, and one more to read the answer from: [n, tokens, width].

    A number is its value times a vector, plus another; a missing one that of the mean plus a third.
    """

    def __init__(self, inputs: InputSpec, width: int, unknown: float) -> None:
        super().__init__(inputs, unknown)
        self.weight = nn.Parameter(_small(inputs.width, width))
        self.bias = nn.Parameter(_small(inputs.width, width))
        self.gap = nn.Parameter(torch.zeros(inputs.width, width))
        self.answer = nn.Parameter(_small(1, width))
        self.embeddings = nn.ModuleList(table(size, width) for size in inputs.cardinalities)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        codes = self.known(codes)
        scaled, absent = self.scaled(numbers)
        valued = scaled[:, :, None] * self.weight + self.bias + absent[:, :, None].to(scaled.dtype) * self.gap
        named = [one(codes[:, i])[:, None] for i, one in enumerate(self.embeddings)]
        answer = self.answer.expand(numbers.shape[0], 1, -1)
        return torch.cat([answer, valued, *named], dim=1)


class Block(nn.Module):
    """Attention between tokens, then a gated layer within each (ReGLU; Shazeer 2020), both normalised before and added after."""

    def __init__(self, width: int, heads: int, attention_dropout: float, dropout: float, first: bool) -> None:
        super().__init__()
        inner = width * 4 // 3
        self.heads, self.dropout = heads, attention_dropout
        # Tokens that come from columns need no norm (section 3.3).
        self.before = nn.Identity() if first else nn.LayerNorm(width)
        self.mixed = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * inner)
        self.narrow = nn.Sequential(nn.Dropout(dropout), nn.Linear(inner, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self._attended(self.before(tokens))
        value, gate = self.wide(self.between(tokens)).chunk(2, dim=-1)
        narrow: torch.Tensor = self.narrow(value * functional.relu(gate))
        return tokens + narrow

    def _attended(self, tokens: torch.Tensor) -> torch.Tensor:
        rows, count, width = tokens.shape
        mixed = self.mixed(tokens).reshape(rows, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        rate = self.dropout if self.training else 0.0
        found = functional.scaled_dot_product_attention(mixed[0], mixed[1], mixed[2], dropout_p=rate)
        attended: torch.Tensor = self.out(found.transpose(1, 2).reshape(rows, count, width))
        return attended


class FtTransformer(nn.Module):
    """``blocks`` of attention over tokens of ``width``; the answer's token gives the logits.

    The defaults are a third as wide as the paper's, for the sake of CPUs.
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
            raise ProjectError(f"width={width} is no multiple of heads={heads}")
        self.tokens = Tokens(inputs, width, unknown)
        self.blocks = nn.ModuleList(Block(width, heads, attention_dropout, dropout, not i) for i in range(blocks))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, task.outputs))

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens(numbers, codes)
        for block in self.blocks:
            tokens = block(tokens)
        logits: torch.Tensor = self.head(tokens[:, 0])
        return logits


def _small(rows: int, width: int) -> torch.Tensor:
    """Uniform within 1 / sqrt(width), as in the paper's code."""
    bound = float(width) ** -0.5
    return torch.empty(rows, width).uniform_(-bound, bound)
