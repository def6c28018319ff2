"""A training by several processes of one torch.distributed group, without Ray."""

from __future__ import annotations

import pickle
import uuid
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed, multiprocessing

from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part, rows
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import Batch, MemoryFeed, MemoryHeldOut
from trainers.input_spec import InputSpec
from trainers.loop import train_loop
from trainers.loop.checkpointer import Checkpoints
from trainers.loop.fsdp import Sharded
from trainers.loop.process_group import Replicas
from trainers.loop.train_events import Outcome
from trainers.loop.train_spec import Job


class Plan(NamedTuple):
    """What each process does; before step ``stop`` all of them end."""

    config: TrainConfig
    checkpoints: str
    spec: ModelSpec
    stop: int = -1


class _Stopped(Exception):
    pass


class _StoppingFeed(MemoryFeed):
    stop = -1

    def epoch(self, number: int, first: int = 0):  # type: ignore[no-untyped-def]
        batches: list[Batch] = list(super().epoch(number, first))
        for batch in batches:
            if self.stop == 0:
                raise _Stopped
            self.stop -= 1
            yield batch


def together(plans: list[Plan], workers: int, folder: Path) -> list[Outcome | None]:
    """The outcomes of ``plans``, one after the other in the same ``workers`` processes; None of one that was stopped."""
    meeting, out = folder / uuid.uuid4().hex, folder / f"{uuid.uuid4().hex}.outcome"
    multiprocessing.spawn(_process, (workers, str(meeting), plans, str(out)), nprocs=workers)
    found: list[Outcome | None] = pickle.loads(out.read_bytes())
    return found


def _process(rank: int, workers: int, meeting: str, plans: list[Plan], out: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    outcomes = [_outcome(plan, rank, workers) for plan in plans]
    if not rank:
        Path(out).write_bytes(pickle.dumps(outcomes))
    distributed.destroy_process_group()


def _outcome(plan: Plan, rank: int, workers: int) -> Outcome | None:
    table, task = frame(rows=403), TASKS["binary"]
    encoder = Encoder.fit(COLUMNS, part(table, "train"))
    train, validation = rows(part(table, "train"), encoder), rows(part(table, "validation"), encoder)
    inputs = InputSpec.fit(encoder, task, {"numbers": train.numbers, "codes": train.codes}, train.labels)
    feed = _StoppingFeed(train, plan.config.batch_size, plan.config.seed, rank, workers)
    feed.stop = plan.stop
    world = (Sharded if plan.config.strategy == "fsdp" else Replicas)()
    checkpoints = Checkpoints(plan.checkpoints)
    held_out, job = MemoryHeldOut(validation, rank, workers), Job(plan.spec, plan.config, task, inputs)
    try:
        return train_loop.train(job, feed, held_out, world, lambda epoch: None, checkpoints=checkpoints)
    except _Stopped:
        checkpoints.wait()
        return None
