"""torchrun, DDP, a DataLoader over the Parquet rows; the sampler draws whole batches, for speed."""

from __future__ import annotations

import time

import torch
from common import PLAN, Mlp, optimizer, rows, schedule, write_result
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

torch.set_num_threads(1)
distributed.init_process_group("gloo")
size, rank = distributed.get_world_size(), distributed.get_rank()
torch.manual_seed(0)
dataset = TensorDataset(*rows())
sampler = DistributedSampler(dataset, shuffle=True)
loader = DataLoader(
    dataset, sampler=BatchSampler(sampler, PLAN["batch_size"] // size, drop_last=False), batch_size=None
)
module = DistributedDataParallel(Mlp())
adamw = optimizer(module)
scheduler = schedule(adamw, len(loader) * PLAN["epochs"])
seconds = []
for epoch in range(PLAN["epochs"]):
    distributed.barrier()
    began = time.perf_counter()
    sampler.set_epoch(epoch)
    total = torch.zeros(())
    for numbers, codes, labels in loader:
        adamw.zero_grad(set_to_none=True)
        loss = nn.functional.binary_cross_entropy_with_logits(module(numbers, codes), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        adamw.step()
        scheduler.step()
        total += loss.detach()
    distributed.all_reduce(total)
    seconds.append(time.perf_counter() - began)
if rank == 0:
    write_result(seconds, len(dataset))
distributed.destroy_process_group()
