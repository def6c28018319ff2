"""Plain torch: one process, all rows in memory, shuffled by a permutation."""

from __future__ import annotations

import time

import torch
from common import PLAN, Mlp, optimizer, rows, schedule, write_result
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
numbers, codes, labels = rows()
module = Mlp()
adamw = optimizer(module)
count, batch = len(labels), PLAN["batch_size"]
steps = -(-count // batch)
scheduler = schedule(adamw, steps * PLAN["epochs"])
seconds = []
for _ in range(PLAN["epochs"]):
    began = time.perf_counter()
    order, total = torch.randperm(count), torch.zeros(())
    for start in range(0, count, batch):
        chosen = order[start : start + batch]
        adamw.zero_grad(set_to_none=True)
        loss = nn.functional.binary_cross_entropy_with_logits(module(numbers[chosen], codes[chosen]), labels[chosen])
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        adamw.step()
        scheduler.step()
        total += loss.detach()
    total.item()
    seconds.append(time.perf_counter() - began)
write_result(seconds, count)
