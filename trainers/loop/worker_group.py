"""Data-parallel Ray Train workers that run the training loop."""

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
from ray.util.metrics import Gauge
from ray.util.queue import Queue

from cluster.env import environment_defaults
from cluster.errors import DataError, ProjectError, RayloopError
from trainers.config import TrainConfig
from trainers.data.dataset_sharding import ExactShards
from trainers.data.datasets import EncodedData, load_rows, make_loaders
from trainers.loop import library_loop, selection_loop, train_loop
from trainers.loop.checkpointer import Checkpointer
from trainers.loop.process_group import DDPGroup, ProcessGroup
from trainers.loop.train_events import EpochResult, StepProgress, TrainResult
from trainers.loop.train_spec import TrainSpec
from trainers.worker_errors import attach_details, error_origin, unwrap_error

RAY_TRAIN_ENV = {
    # A report waits for the controller's next poll, which is every two seconds by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # It requests a checkpoint before a node leaves, for which all workers must stop; periodic ones suffice.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

_GAUGES = {
    "loss": "Mean training loss of the epoch so far",
    "rows_per_second": "Training rows per second, over all workers",
    "left_seconds": "Seconds until the last epoch ends, without validation",
    "workers": "Workers that train together",
    "lr": "Learning rate",
}
"""Help texts of the gauges, by the name of the value."""


def run_worker_group(
    spec: TrainSpec,
    encoded_data: EncodedData,
    queue: Queue | None = None,
    callbacks: Sequence[UserCallback] = (),
    name: str = "fit",
    checkpoints: str = "",
    origin: str = "",
    pause_after: int = 0,
) -> TrainResult:
    """Run the training loop on a group of workers.

    Args:
        spec: What to train.
        encoded_data: Training and validation rows.
        queue: Receives epochs and progress of the first worker.
        callbacks: Callbacks of Ray Train; epochs are also reported to Ray Train.
        name: Label of the training's metrics.
        checkpoints: Folder for checkpoints, from which training resumes; empty deletes them at the end.
        origin: As in Checkpointer.
        pause_after: As in train_loop.train.

    Raises:
        RayloopError: A worker failed permanently.
    """
    with tempfile.TemporaryDirectory(prefix="rayloop-fit-") as folder, _preserve_sigint_handler():
        trainer = TorchTrainer(
            _run_worker,
            train_loop_config={
                "spec": spec,
                "parts": encoded_data.without_datasets(),
                "queue": queue,
                "name": name,
                "checkpoints": checkpoints or f"{folder}/checkpoints",
                "temporary": not checkpoints,
                "origin": origin,
                "pause_after": pause_after,
            },
            torch_config=TorchConfig(backend=_backend(spec.config)),
            scaling_config=_scaling(spec.config),
            run_config=RunConfig(
                name="fit",
                storage_path=folder,
                callbacks=list(callbacks),
                failure_config=FailureConfig(max_failures=spec.config.restarts),
                logging_config=LoggingConfig("WARNING"),
            ),
            datasets=dict(encoded_data.streamed_datasets),
            dataset_config=ExactShards(),
        )
        try:
            with environment_defaults(**RAY_TRAIN_ENV):
                result: Any = trainer.fit()
        except TrainingFailedError as error:
            raise _worker_error(error) from error
    if isinstance(result.return_value, RayloopError):
        raise result.return_value
    return result.return_value


@attach_details
def _run_worker(arguments: dict[str, Any]) -> TrainResult | RayloopError | None:
    """Returns errors of the user's data or project, which are the same on all workers: Ray would retry raised ones."""
    spec = arguments["spec"]
    # Ray logs every report in full, through the root logger.
    logging.getLogger().setLevel(logging.WARNING)
    torch.set_num_threads(spec.config.threads)
    group = _process_group(spec.config)
    checkpointer = Checkpointer(arguments["checkpoints"], arguments["origin"])
    try:
        result = _train(arguments, group, checkpointer)
    except (DataError, ProjectError) as error:
        return error
    if arguments["temporary"] and group.rank == 0:
        checkpointer.clear()
    return result if group.rank == 0 else None


def _train(arguments: dict[str, Any], group: ProcessGroup, checkpointer: Checkpointer) -> TrainResult:
    spec, queue, gauges = arguments["spec"], arguments["queue"], TrainGauges(arguments["name"])

    def send(event: EpochResult | StepProgress) -> None:
        if queue is not None and group.rank == 0:
            queue.put(event)

    def on_epoch(epoch: EpochResult) -> None:
        ray_train.report(epoch.as_report())
        send(epoch)

    def on_progress(progress: StepProgress) -> None:
        gauges.record(progress)
        send(progress)

    if not spec.model.is_module:
        rows = load_rows(arguments["parts"], ray_train.get_dataset_shard)
        if spec.model.is_auto:
            return selection_loop.train(spec, *rows, on_epoch, on_progress)
        return library_loop.train(spec, *rows, on_epoch, on_progress)
    loader, held_out = make_loaders(
        arguments["parts"], spec.config, group.rank, group.size, ray_train.get_dataset_shard
    )
    return train_loop.train(
        spec, loader, held_out, group, on_epoch, on_progress, checkpointer, arguments["pause_after"]
    )


class TrainGauges:
    """Gauges ``rayloop_train_*`` of one model."""

    def __init__(self, model: str) -> None:
        self._tags = {"model": model}
        self._gauges = {
            name: Gauge(f"rayloop_train_{name}", description, tag_keys=("model",))
            for name, description in _GAUGES.items()
        }
        self._stages = Gauge(
            "rayloop_train_stage_seconds", "Seconds of the present epoch by stage", tag_keys=("model", "stage")
        )

    def record(self, progress: StepProgress) -> None:
        """Set all gauges."""
        values = progress.as_metrics()
        for name, gauge in self._gauges.items():
            gauge.set(values[name], tags=self._tags)
        for stage, seconds in progress.seconds.items():
            self._stages.set(seconds, tags={**self._tags, "stage": stage})


def _process_group(config: TrainConfig) -> ProcessGroup:
    if config.strategy == "ddp":
        return DDPGroup(get_device())
    from trainers.loop.fsdp import FSDPGroup

    return FSDPGroup(get_device())


def gpus_per_worker(config: TrainConfig, workers: int) -> float:
    """GPUs of each worker: 1 if there are enough, an equal fraction of one if there are fewer, 0 without GPUs."""
    if config.gpu is False:
        return 0.0
    available = float(ray.cluster_resources().get("GPU", 0.0))
    if config.gpu is True and not available:
        return 1.0
    return 1.0 if available >= workers else int(100 * available / workers) / 100


def workers_of_one_node(config: TrainConfig) -> int:
    """How many of the workers fit on the largest node together, at least 1."""
    nodes = (node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
    return max(1, min(config.workers, int(max(nodes, default=0.0) / config.cpus_per_worker)))


def capacity_warning(workers: int, cpus_each: float) -> str:
    """A warning that training must wait for nodes, which may never come; empty if the cluster is large enough."""
    required, available = workers * cpus_each, float(ray.cluster_resources().get("CPU", 0.0))
    if required <= available:
        return ""
    return (
        f"WARNING: waiting for nodes: {workers} workers need {required:g} CPUs, the cluster has {available:g}; "
        "lower workers, or cancel the run"
    )


def _backend(config: TrainConfig) -> str:
    """NCCL does not allow two ranks on one GPU; gloo does."""
    return "nccl" if gpus_per_worker(config, config.min_workers or config.workers) == 1.0 else "gloo"


def _scaling(config: TrainConfig) -> ScalingConfig:
    gpus = gpus_per_worker(config, config.min_workers or config.workers)
    return ScalingConfig(
        num_workers=(config.min_workers, config.workers) if config.min_workers else config.workers,
        elastic_resize_monitor_interval_s=config.resize_s,
        use_gpu=bool(gpus),
        resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": gpus} if gpus else {})},
    )


def _worker_error(error: TrainingFailedError) -> RayloopError:
    """The RayloopError that a worker raised, or one that names the cause."""
    text = str(error)
    return unwrap_error(text) or RayloopError("rayloop.training_worker_failed", origin=error_origin(text))


@contextmanager
def _preserve_sigint_handler() -> Iterator[None]:
    """Restore the handler afterward: Ray Train leaves its own, which turns a later Ctrl-C into exit code 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
