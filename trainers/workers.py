"""A group of Ray Train workers that run the train function together."""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray import train as ray_train
from ray.train.torch import TorchConfig, get_device, prepare_model
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.queue import Queue
from torch import distributed, nn

from cluster.errors import RayloopError
from cluster.quiet import environment
from trainers import loop
from trainers.config import TrainConfig
from trainers.data import EncodedData, feeds
from trainers.failures import deliberate, last_line
from trainers.loop import Epoch, Job, Outcome
from trainers.shards import Shards

TRAIN_VARIABLES = {
    # A report waits until the controller has looked; by default it looks every two seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # It would call for a checkpoint before a node goes; one more process for each fit until there are checkpoints.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


class Ranks(loop.World):
    """The workers of a Ray Train job."""

    def __init__(self) -> None:
        context = ray_train.get_context()
        super().__init__(get_device())
        self.rank = context.get_world_rank()
        self.size = context.get_world_size()

    def wrap(self, module: nn.Module) -> nn.Module:
        return prepare_model(module, move_to_device=False)

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor


def on_workers(
    job: Job, encoded: EncodedData, queue: Queue | None = None, callbacks: Sequence[UserCallback] = ()
) -> Outcome:
    """Run the train function on a group of workers. Epochs go to ``queue`` and to Ray Train's report."""
    with tempfile.TemporaryDirectory(prefix="rayloop-fit-") as folder, _interrupt_kept():
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"job": job, "parts": encoded.described(), "queue": queue},
            torch_config=TorchConfig(backend=_backend(job.config)),
            scaling_config=_scaling(job.config),
            run_config=RunConfig(
                name="fit", storage_path=folder, callbacks=list(callbacks), logging_config=LoggingConfig("WARNING")
            ),
            datasets=dict(encoded.streamed),
            dataset_config=Shards(),
        )
        try:
            with environment(**TRAIN_VARIABLES):
                result: Any = trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error) from error
    outcome: Outcome = result.return_value
    return outcome


def _worker(given: dict[str, Any]) -> Outcome | None:
    job, queue = given["job"], given["queue"]
    # Ray logs every report in full, through the root logger.
    logging.getLogger().setLevel(logging.WARNING)
    torch.set_num_threads(job.config.threads)
    world = Ranks()

    def report(epoch: Epoch) -> None:
        ray_train.report(epoch.report())
        if queue is not None and world.rank == 0:
            queue.put(epoch)

    feed, held_out = feeds(given["parts"], job.config, world.rank, world.size, ray_train.get_dataset_shard)
    outcome = loop.train(job, feed, held_out, world, report)
    return outcome if world.rank == 0 else None


def gpus_per_worker(config: TrainConfig, workers: int) -> float:
    """GPUs of each worker: whole ones when there is one each, equal parts of one when there are fewer, 0 for none."""
    if config.gpu is False:
        return 0.0
    found = float(ray.cluster_resources().get("GPU", 0.0))
    if config.gpu is True and not found:
        return 1.0
    return 1.0 if found >= workers else int(100 * found / workers) / 100


def _backend(config: TrainConfig) -> str:
    """NCCL refuses two ranks on one GPU; gloo does not."""
    return "nccl" if gpus_per_worker(config, config.workers) == 1.0 else "gloo"


def _scaling(config: TrainConfig) -> ScalingConfig:
    gpus = gpus_per_worker(config, config.workers)
    resources = {"CPU": config.cpus_per_worker, **({"GPU": gpus} if gpus else {})}
    return ScalingConfig(num_workers=config.workers, use_gpu=bool(gpus), resources_per_worker=resources)


def _cause(error: TrainingFailedError) -> RayloopError:
    """The deliberate error that a worker raised, or one that names what happened."""
    text = str(error)
    return deliberate(text) or RayloopError(
        f"a training worker failed: {last_line(text)}", "its log is in the Ray dashboard"
    )


@contextmanager
def _interrupt_kept() -> Iterator[None]:
    """Ray Train leaves a handler of its own behind that turns a later Ctrl-C into exit code 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
