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
from ray.train.torch import TorchConfig, get_device
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.queue import Queue

from cluster.env import environment_defaults
from cluster.errors import DataError, ProjectError, RayloopError
from trainers.config import TrainConfig
from trainers.data.dataset_sharding import Shards
from trainers.data.datasets import EncodedData, feeds
from trainers.loop import train_loop
from trainers.loop.checkpointer import Checkpoints
from trainers.loop.process_group import Replicas, World
from trainers.loop.ray_metrics import Gauges
from trainers.loop.train_events import Epoch, Outcome, Pulse
from trainers.loop.train_spec import Job
from trainers.worker_errors import blamed, deliberate

TRAIN_VARIABLES = {
    # A report waits until the controller has looked; by default it looks every two seconds.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # It calls for a checkpoint before a node goes, which stops all workers to agree on it; those taken every few steps do as well.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


def on_workers(
    job: Job,
    encoded: EncodedData,
    queue: Queue | None = None,
    callbacks: Sequence[UserCallback] = (),
    name: str = "fit",
    checkpoints: str = "",
    origin: str = "",
    until: int = 0,
) -> Outcome:
    """Run the train function on a group of workers. Epochs and pulses go to ``queue``, epochs to Ray Train's report.

    ``checkpoints`` is the folder that training goes on from and leaves its checkpoints in; without one they live as long as
    the training does. ``origin`` and ``until`` are those of Checkpoints and loop.train.
    """
    with tempfile.TemporaryDirectory(prefix="rayloop-fit-") as folder, _interrupt_kept():
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "job": job,
                "parts": encoded.described(),
                "queue": queue,
                "name": name,
                "checkpoints": checkpoints or f"{folder}/checkpoints",
                "passing": not checkpoints,
                "origin": origin,
                "until": until,
            },
            torch_config=TorchConfig(backend=_backend(job.config)),
            scaling_config=_scaling(job.config),
            run_config=RunConfig(
                name="fit",
                storage_path=folder,
                callbacks=list(callbacks),
                failure_config=FailureConfig(max_failures=job.config.restarts),
                logging_config=LoggingConfig("WARNING"),
            ),
            datasets=dict(encoded.streamed),
            dataset_config=Shards(),
        )
        try:
            with environment_defaults(**TRAIN_VARIABLES):
                result: Any = trainer.fit()
        except TrainingFailedError as error:
            raise _cause(error) from error
    if isinstance(result.return_value, RayloopError):
        raise result.return_value
    outcome: Outcome = result.return_value
    return outcome


def _worker(given: dict[str, Any]) -> Outcome | RayloopError | None:
    """Returns what went wrong by the user's own doing, alike on all workers: raised, it would be tried again."""
    job = given["job"]
    # Ray logs every report in full, through the root logger.
    logging.getLogger().setLevel(logging.WARNING)
    torch.set_num_threads(job.config.threads)
    world = _world(job.config)
    checkpoints = Checkpoints(given["checkpoints"], given["origin"])
    try:
        outcome = _train(given, world, checkpoints)
    except (DataError, ProjectError) as error:
        return error
    if given["passing"] and world.rank == 0:
        checkpoints.clear()
    return outcome if world.rank == 0 else None


def _train(given: dict[str, Any], world: World, checkpoints: Checkpoints) -> Outcome:
    job, queue, gauges = given["job"], given["queue"], Gauges(given["name"])

    def send(what: Epoch | Pulse) -> None:
        if queue is not None and world.rank == 0:
            queue.put(what)

    def report(epoch: Epoch) -> None:
        ray_train.report(epoch.report())
        send(epoch)

    def tell(pulse: Pulse) -> None:
        gauges.show(pulse)
        send(pulse)

    feed, held_out = feeds(given["parts"], job.config, world.rank, world.size, ray_train.get_dataset_shard)
    return train_loop.train(job, feed, held_out, world, report, tell, checkpoints, given["until"])


def _world(config: TrainConfig) -> World:
    if config.strategy == "ddp":
        return Replicas(get_device())
    from trainers.loop.fsdp import Sharded

    return Sharded(get_device())


def gpus_per_worker(config: TrainConfig, workers: int) -> float:
    """GPUs of each worker: whole ones when there is one each, equal parts of one when there are fewer, 0 for none."""
    if config.gpu is False:
        return 0.0
    found = float(ray.cluster_resources().get("GPU", 0.0))
    if config.gpu is True and not found:
        return 1.0
    return 1.0 if found >= workers else int(100 * found / workers) / 100


def no_room(workers: int, cpus_each: float) -> str:
    """What to tell of a training that has to wait for nodes, which may never come; empty when the cluster is large enough."""
    wanted, found = workers * cpus_each, float(ray.cluster_resources().get("CPU", 0.0))
    if wanted <= found:
        return ""
    return f"WARNING: waits for nodes: {workers} workers want {wanted:g} CPUs and the cluster has {found:g}; lower workers, or end it"


def _backend(config: TrainConfig) -> str:
    """NCCL refuses two ranks on one GPU; gloo does not."""
    return "nccl" if gpus_per_worker(config, config.min_workers or config.workers) == 1.0 else "gloo"


def _scaling(config: TrainConfig) -> ScalingConfig:
    gpus = gpus_per_worker(config, config.min_workers or config.workers)
    return ScalingConfig(
        num_workers=(config.min_workers, config.workers) if config.min_workers else config.workers,
        elastic_resize_monitor_interval_s=config.resize_s,
        use_gpu=bool(gpus),
        resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": gpus} if gpus else {})},
    )


def _cause(error: TrainingFailedError) -> RayloopError:
    """The deliberate error that a worker raised, or one that names what happened."""
    text = str(error)
    return deliberate(text) or RayloopError(
        f"a training worker failed: {blamed(text)}", "its log is in the Ray dashboard"
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
