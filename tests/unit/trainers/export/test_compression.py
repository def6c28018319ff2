"""Pruning and distillation: the units removed, the outputs learned, and refusals of what cannot be compressed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cluster.errors import DataError, ProjectError
from cluster.values import TaskKind
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS, frame
from tests.factories.trainers.resumable import NoisyModel, encoded_parts
from tests.factories.trainers.small_module import Small
from tests.factories.trainers.training import trained
from trainers import losses
from trainers.config import Compression, ConfigChange, Distill, ModelSpec, Prune, TrainConfig
from trainers.data.batches import MemoryLoader, MemoryValidationLoader
from trainers.evaluation.quality_gate import GatePolicy, ScoredCandidate, check_candidate
from trainers.export.compression import check_steps, compression_job
from trainers.export.onnx_export import export
from trainers.input_spec import InputSpec
from trainers.loop import train_loop
from trainers.loop.checkpointer import Checkpointer
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_events import TrainResult
from trainers.loop.train_spec import TrainSpec
from trainers.loop.trainer import FitResult
from trainers.models import model_builder
from trainers.models.mlp import Mlp

WHOLE = ModelSpec(parameters={"hidden": (32, 16)})
CONFIG = TrainConfig(epochs=6, batch_size=64, workers=1, lr=1e-2)


def _next(step: Compression, result: FitResult, config: TrainConfig | None = None) -> TrainSpec:
    job = TrainSpec(result.spec, config or result.config, result.task, result.inputs)
    return compression_job(step, job, result.build_module())


def _again(job: TrainSpec, kind: TaskKind = "binary") -> FitResult:
    return trained(kind, job.model, job.config, start=job.start, teacher=job.teacher)


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_compression_job_prunes_weakest_units(norm: str) -> None:
    result = trained(spec=ModelSpec(parameters={"hidden": (8, 4), "norm": norm}))
    module = result.build_module()
    assert isinstance(module, Mlp)
    with torch.no_grad():
        module.body[4].weight[:, 3] *= 1000
        module.head.weight[:, [0, 2]] *= 1000
    job = compression_job(Prune(share=0.5), TrainSpec(result.spec, CONFIG, result.task, result.inputs), module)
    assert job.model.parameters["hidden"] == (4, 2)
    assert job.start is not None
    smaller = model_builder.build(job.model, job.inputs, job.task)
    smaller.load_state_dict({name: torch.from_numpy(value) for name, value in job.start.items()})
    assert np.array_equal(job.start["head.weight"], module.head.weight[:, [0, 2]].detach().numpy())
    assert any(np.array_equal(row, module.body[0].weight[3].detach().numpy()) for row in job.start["body.0.weight"])


def test_prune_of_zero_units_keeps_output() -> None:
    result = trained(spec=ModelSpec(parameters={"hidden": (8, 6), "norm": "none"}))
    module = result.build_module()
    assert isinstance(module, Mlp)
    with torch.no_grad():
        module.body[4].weight[:, ::2] = 0
        module.head.weight[:, 3:] = 0
    parameters, state = module.prune(0.5)
    smaller = Mlp(result.inputs, result.task, **{**result.spec.parameters, **parameters})
    smaller.load_state_dict(state)
    numbers, codes = (
        torch.randn(20, result.inputs.width),
        torch.zeros(20, len(result.inputs.cardinalities), dtype=torch.int64),
    )
    assert torch.allclose(smaller.eval()(numbers, codes), module(numbers, codes), atol=1e-5)


@pytest.mark.parametrize(("hidden", "share", "left"), [((8,), 0.99, (1,)), ((10, 5), 0.1, (9, 4)), ((), 0.5, ())])
def test_prune_keeps_at_least_one_unit(hidden: tuple[int, ...], share: float, left: tuple[int, ...]) -> None:
    result = trained(spec=ModelSpec(parameters={"hidden": hidden}))
    module = result.build_module()
    assert isinstance(module, Mlp)
    assert module.prune(share)[0] == {"hidden": left}


@pytest.mark.long
def test_pruned_model_is_smaller_and_nearly_as_good(tmp_path: Path) -> None:
    whole = trained(spec=WHOLE, config=CONFIG.model_copy(update={"changes": (ConfigChange(after=1, lr=2e-2),)}))
    job = _next(Prune(share=0.5, epochs=3), whole)
    assert (job.config.lr, job.config.epochs, job.config.changes) == (pytest.approx(1e-3), 3, ())
    pruned = _again(job)
    assert pruned.metrics["auc"] > whole.metrics["auc"] - 0.03
    sizes = []
    for result in (whole, pruned):
        assert export(result, tmp_path, frame()) < 1e-5
        sizes.append(sum(value.size for value in result.state.values()))
    assert sizes[1] < 0.6 * sizes[0]


def test_training_starts_from_initial_weights() -> None:
    whole = trained(spec=WHOLE, config=CONFIG)
    config = CONFIG.model_copy(update={"epochs": 1, "lr": 1e-9, "weight_decay": 0.0})
    again = trained(spec=WHOLE, config=config, start=whole.state)
    weights = [name for name in whole.state if "running" not in name and "num_batches" not in name]
    assert all(np.allclose(again.state[name], whole.state[name], atol=1e-6) for name in weights)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "multilabel"])
def test_student_with_teacher_is_closer_to_it_than_without(kind: TaskKind) -> None:
    teacher = trained(kind, WHOLE, CONFIG)
    job = _next(Distill(student=ModelSpec(build=Small), weight=1.0, epochs=8), teacher)
    student, alone = _again(job, kind), trained(kind, job.model, job.config)

    def logits(result: FitResult) -> torch.Tensor:
        arrays = result.encoder.encode(frame(kind, seed=9))
        with torch.inference_mode():
            return result.build_module()(torch.from_numpy(arrays["numbers"]), torch.from_numpy(arrays["codes"]))

    taught = logits(teacher)
    apart = [float(losses.distillation_loss(TASKS[kind], logits(r), taught, 2.0)) for r in (student, alone)]
    assert apart[0] < apart[1]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "multilabel"])
def test_distillation_loss_of_teacher_itself_is_zero(kind: TaskKind) -> None:
    taught = torch.randn(50, TASKS[kind].outputs, generator=torch.Generator().manual_seed(0))
    own = float(losses.distillation_loss(TASKS[kind], taught, taught, 3.0))
    assert own == pytest.approx(0.0, abs=1e-5)
    assert float(losses.distillation_loss(TASKS[kind], taught + 0.5 * torch.randn_like(taught), taught, 3.0)) > 1e-3


@pytest.mark.long
def test_student_of_blank_teacher_learns_from_labels() -> None:
    """With a teacher that knows nothing, only they can teach."""
    teacher = trained(spec=WHOLE)
    blank = {name: np.zeros_like(value) for name, value in teacher.state.items()}
    job = _next(Distill(student=WHOLE, weight=0.5, epochs=6, lr=1e-2), teacher)
    assert job.teacher is not None
    ignorant = type(job.teacher)(job.teacher.model, blank, 0.5, 2.0)
    assert trained(spec=job.model, config=job.config, teacher=ignorant).metrics["auc"] > 0.85


def test_check_steps_with_unprunable_model_raises() -> None:
    result = trained(spec=ModelSpec(build=Small))
    with raises(ProjectError, "project.model_not_prunable", model="Small"):
        check_steps((Prune(share=0.5),), result.spec, result.inputs, result.task)
    with raises(ProjectError, "project.model_not_prunable", model="Small"):
        _next(Prune(share=0.5), result)
    with raises(ProjectError, "project.model_not_prunable", model="linear"):
        check_steps((Distill(student=ModelSpec(build="linear")), Prune(share=0.5)), WHOLE, result.inputs, result.task)
    check_steps((Prune(share=0.5), Distill(student=ModelSpec(build=Small))), WHOLE, result.inputs, result.task)


def test_training_with_checkpoint_of_other_start_raises(tmp_path: Path) -> None:
    config = TrainConfig(epochs=2, batch_size=40, workers=1)
    train, validation, inputs = encoded_parts()

    def run(job: TrainSpec, pause_after: int = 0) -> TrainResult:
        return train_loop.train(
            job,
            MemoryLoader(train, config.batch_size, config.seed),
            MemoryValidationLoader(validation),
            ProcessGroup(),
            lambda epoch: None,
            checkpointer=Checkpointer(str(tmp_path)),
            pause_after=pause_after,
        )

    job = TrainSpec(ModelSpec(build=NoisyModel), config, TASKS["binary"], inputs)
    result = run(job, pause_after=1)
    with raises(DataError, "data.checkpoint_of_other_training", parts=["start"]):
        run(replace(job, start=result.state))


@pytest.mark.parametrize(("limit", "passed"), [(0.2, True), (0.001, False)])
def test_check_candidate_bounds_compression_loss(limit: float, passed: bool) -> None:
    random = np.random.default_rng(0)
    labels = (random.random(3000) < 0.5).astype(float)
    whole = 1 / (1 + np.exp(-(labels - 0.5) * 4 - random.normal(size=3000)))
    worse = 1 / (1 + np.exp(-(labels - 0.5) * 3 - random.normal(size=3000)))
    report = check_candidate(
        GatePolicy(max_compression_loss=limit, max_quantization_loss=0.0 if passed else 1.0),
        ScoredCandidate(
            TASKS["binary"], worse, labels, 0.0, {}, {}, original_scores=whole, compression="pruned by 50%"
        ),
    )
    [check] = [c for c in report.checks if c.name == "pruned by 50% as good as whole"]
    assert (check.passed, report.passed) == (passed, passed)
    assert "before compression" in check.reason
    assert not math.isnan(check.value)


def test_step_keys_differ_and_contain_no_address() -> None:
    steps = (Prune(share=0.5), Prune(share=0.4), Distill(student=WHOLE), Distill(student=ModelSpec(build=Small)))
    keys = [repr(step.key) for step in steps]
    assert len(set(keys)) == 4
    assert not any("0x" in key for key in keys)


@pytest.mark.parametrize(
    ("kind", "required"), [(Prune, {"share": 0.5}), (Distill, {"student": ModelSpec()})], ids=["prune", "distill"]
)
def test_compression_trains_at_least_one_epoch(kind: type[Prune | Distill], required: dict[str, Any]) -> None:
    assert kind(**required, epochs=1).epochs == 1
    with pytest.raises(ValidationError, match="epochs"):
        kind(**required, epochs=0)


def test_compression_job_takes_epochs_and_learning_rate_of_the_step_or_the_training() -> None:
    inputs = InputSpec(numbers=("x",), tensors=(), categories=(), cardinalities=(), mean=(0.0,), std=(1.0,), missing=())
    job = TrainSpec(ModelSpec(), TrainConfig(epochs=5, lr=0.5), TASKS["binary"], inputs)
    module = model_builder.build(job.model, inputs, job.task)
    student = ModelSpec(build="linear")
    configs = [
        compression_job(step, job, module).config
        for step in (
            Distill(student=student),
            Distill(student=student, epochs=2, lr=0.1),
            Prune(share=0.5),
            Prune(share=0.5, epochs=1, lr=0.2),
        )
    ]
    assert [(config.epochs, config.lr) for config in configs] == [
        (5, 0.5),
        (2, 0.1),
        (2, pytest.approx(0.05)),
        (1, 0.2),
    ]
