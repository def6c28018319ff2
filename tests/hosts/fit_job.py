"""The driver of a fit by two workers, with a line of JSON for each event. It is submitted with the variables below.

``CPUS`` are the CPUs of each worker: few, and Ray puts both on one host; many, and each is on a host of its own.
``CHECKPOINTS`` is a folder that every host reaches.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import ray
from ray.experimental import internal_kv
from torch import nn

from cluster.values import Task
from features.encoder import Encoder
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, part
from trainers.config import ModelSpec, TrainConfig
from trainers.data.datasets import TrainingData
from trainers.input_spec import InputSpec
from trainers.loop.train_events import StepProgress
from trainers.loop.trainer import FitRequest, FitResult, fit
from trainers.models.mlp import Mlp


def build(inputs: InputSpec, task: Task, **parameters: Any) -> nn.Module:
    """A perceptron; its worker leaves the address of its host."""
    internal_kv._internal_kv_put(ray.util.get_node_ip_address(), b"", namespace=os.environ["CHECKPOINTS"])
    return Mlp(inputs, task, **parameters)


def digest(result: FitResult) -> str:
    """SHA-256 of all weights, in the order of their names."""
    weights = hashlib.sha256()
    for name in sorted(result.state):
        weights.update(result.state[name].tobytes())
    return weights.hexdigest()


def main() -> None:
    ray.init(log_to_driver=False)
    table = frame(rows=int(os.environ["ROWS"]))
    config = TrainConfig(epochs=int(os.environ["EPOCHS"]), batch_size=64, cpus_per_worker=float(os.environ["CPUS"]))
    request = FitRequest(ModelSpec(build=build), config, TASKS["binary"], Encoder.fit(COLUMNS, part(table, "train")))

    def show(event: object) -> None:
        if isinstance(event, StepProgress):
            done, of = (event.epoch - 1) * event.steps + event.step, event.epochs * event.steps
            print(json.dumps({"step": done, "of": of, "resumed": event.resumed}), flush=True)

    result = fit(request, TrainingData(table), lambda line: None, on_event=show, checkpoints=os.environ["CHECKPOINTS"])
    names = internal_kv._internal_kv_list("", namespace=os.environ["CHECKPOINTS"])
    hosts = sorted(name.decode().rpartition(":")[2] for name in names)
    print(json.dumps({"digest": digest(result), "hosts": hosts}), flush=True)


if __name__ == "__main__":
    main()
