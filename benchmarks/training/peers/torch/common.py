"""Shared by the peers: rows from Parquet, the model, the optimizer, and the report of an epoch's rate.

The model is rayloop's MLP, layer by layer; the optimizer is fused AdamW with a one-cycle schedule and gradient
clipping.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

UNKNOWN = 1
PLAN = json.loads(Path(sys.argv[1]).read_text())


def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers float32 [n, k], codes int64 [n, c], labels float32 [n]."""
    table = pq.read_table(PLAN["parquet"])
    numbers = np.column_stack([table[name].to_numpy() for name in PLAN["numbers"]]).astype(np.float32)
    codes = np.column_stack([table[name].to_numpy() for name in PLAN["codes"]]).astype(np.int64)
    return (
        torch.from_numpy(numbers),
        torch.from_numpy(codes),
        torch.from_numpy(table["label"].to_numpy().astype(np.float32)),
    )


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(PLAN["mean"]))
        self.register_buffer("std", torch.tensor(PLAN["std"]))
        self.register_buffer("missing", torch.tensor(PLAN["missing"], dtype=torch.int64))
        widths = [min(8, (size + 1) // 2) for size in PLAN["cardinalities"]]
        self.embeddings = nn.ModuleList(nn.Embedding(s, w) for s, w in zip(PLAN["cardinalities"], widths, strict=True))
        layers, width = [], len(PLAN["mean"]) + len(PLAN["missing"]) + sum(widths)
        for size in PLAN["hidden"]:
            layers += [nn.Linear(width, size), nn.BatchNorm1d(size), nn.SiLU(), nn.Dropout(PLAN["dropout"])]
            width = size
        self.body = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        if self.training:
            codes = torch.where(torch.rand(codes.shape) < 0.02, UNKNOWN, codes)
        absent = torch.isnan(numbers)
        scaled = ((numbers - self.mean) / self.std).clamp(-5, 5)
        parts = [torch.where(absent, torch.zeros_like(scaled), scaled), absent[:, self.missing].to(scaled.dtype)]
        return self.body(torch.cat([*parts, *(t(codes[:, i]) for i, t in enumerate(self.embeddings))], dim=1))[:, 0]


def optimizer(module: nn.Module) -> torch.optim.Optimizer:
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": PLAN["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PLAN["lr"], fused=True)


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=PLAN["lr"], total_steps=steps + 1)


def write_result(seconds: list[float], count: int) -> None:
    """Write the rates of epochs that took ``seconds`` over ``count`` rows."""
    Path(sys.argv[2]).write_text(json.dumps({"rates": [count / s for s in seconds], "seconds": sum(seconds)}))
