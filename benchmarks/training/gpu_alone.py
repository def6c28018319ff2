"""Plain torch on a GPU: one process, all rows in the GPU's memory, shuffled there by a permutation.

``python -m benchmarks.training.gpu_alone PLAN RESULT`` prints a line at the end of each epoch. The module is rayloop's,
so that only the code around it is compared.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

from cluster.values import Task
from trainers.config import ModelSpec, TrainConfig
from trainers.input_spec import InputSpec
from trainers.models import model_builder


def main() -> None:
    plan: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    config, device = TrainConfig.model_validate(plan["config"]), torch.device("cuda")
    numbers, codes, labels = (part.to(device) for part in _rows(plan))
    torch.manual_seed(0)
    spec, inputs = ModelSpec.model_validate(plan["spec"]), InputSpec.model_validate(plan["inputs"])
    module = model_builder.build(spec, inputs, Task.model_validate(plan["task"])).to(device)
    optimizer = _adamw(module, config)
    count, batch = len(labels), config.batch_size
    steps = -(-count // batch) * config.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=config.lr, total_steps=steps + 1)
    cast = torch.autocast("cuda", torch.bfloat16, enabled=config.precision == "bf16")
    rates = []
    for _ in range(config.epochs):
        began = time.perf_counter()
        order, total = torch.randperm(count, device=device), torch.zeros((), device=device)
        for start in range(0, count, batch):
            chosen = order[start : start + batch]
            optimizer.zero_grad(set_to_none=True)
            with cast:
                logits = module(numbers[chosen], codes[chosen])
            loss = nn.functional.binary_cross_entropy_with_logits(logits[:, 0].float(), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
            optimizer.step()
            schedule.step()
            total += loss.detach()
        total.item()
        rates.append(count / (time.perf_counter() - began))
        print("epoch", flush=True)
    Path(sys.argv[2]).write_text(json.dumps({"rates": rates}))


def _rows(plan: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers float32 [n, k], codes int64 [n, c], labels float32 [n]."""
    table = pq.read_table(plan["parquet"])
    numbers = np.column_stack([table[name].to_numpy() for name in plan["numbers"]]).astype(np.float32)
    codes = np.column_stack([table[name].to_numpy() for name in plan["codes"]]).astype(np.int64)
    labels = table["label"].to_numpy().astype(np.float32)
    return torch.from_numpy(numbers), torch.from_numpy(codes), torch.from_numpy(labels)


def _adamw(module: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


if __name__ == "__main__":
    main()
