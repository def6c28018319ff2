"""A training by the processes of a torch.distributed group, without Ray."""

from __future__ import annotations

import pickle
import uuid
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed, multiprocessing

from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from tests.factories.trainers.resumable import Stopped, StoppingLoader
from tests.factories.trainers.training import rows
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import MemoryValidationLoader
from trainers.input_spec import InputSpec
from trainers.loop import train_loop
from trainers.loop.checkpointer import Checkpointer
from trainers.loop.fsdp import FSDPGroup
from trainers.loop.process_group import DDPGroup
from trainers.loop.train_events import TrainResult
from trainers.loop.train_spec import TrainSpec


class WorkerPlan(NamedTuple):
    """What each process trains; all end before step ``stop``."""

    config: TrainConfig
    checkpoints: str
    spec: ModelSpec
    stop: int = -1


def train_together(plans: list[WorkerPlan], workers: int, folder: Path) -> list[TrainResult | None]:
    """Results of ``plans``, which run one after the other in the same ``workers`` processes; None for a stopped one."""
    rendezvous, out = folder / uuid.uuid4().hex, folder / f"{uuid.uuid4().hex}.outcome"
    multiprocessing.spawn(_process, (workers, str(rendezvous), plans, str(out)), nprocs=workers)
    results: list[TrainResult | None] = pickle.loads(out.read_bytes())
    return results


def _process(rank: int, workers: int, rendezvous: str, plans: list[WorkerPlan], out: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=workers)
    outcomes = [_outcome(plan, rank, workers) for plan in plans]
    if not rank:
        Path(out).write_bytes(pickle.dumps(outcomes))
    distributed.destroy_process_group()


def _outcome(plan: WorkerPlan, rank: int, workers: int) -> TrainResult | None:
    table, task = frame(rows=403), TASKS["binary"]
    encoder = Encoder.fit(COLUMNS, part(table, "train"))
    train, validation = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    inputs = InputSpec.fit(encoder, task, {"numbers": train.numbers, "codes": train.codes}, train.labels)
    loader = StoppingLoader(train, plan.config.batch_size, plan.config.seed, rank, workers)
    loader.stop = plan.stop
    group = (FSDPGroup if plan.config.strategy == "fsdp" else DDPGroup)()
    checkpointer = Checkpointer(plan.checkpoints)
    held_out, spec = MemoryValidationLoader(validation, rank, workers), TrainSpec(plan.spec, plan.config, task, inputs)
    try:
        return train_loop.train(spec, loader, held_out, group, lambda epoch: None, checkpointer=checkpointer)
    except Stopped:
        checkpointer.wait()
        return None
