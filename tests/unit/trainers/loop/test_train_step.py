"""One step under each setting: micro-batches add up, class weights apply, precision and compilation change little."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn import functional

from cluster.errors import ProjectError
from cluster.values import Task
from tests.factories.errors import raises
from tests.factories.trainers.frames import TASKS
from tests.factories.trainers.training import trained
from trainers import losses
from trainers.config import ModelSpec, TrainConfig
from trainers.data.batches import Batch
from trainers.input_spec import InputSpec
from trainers.loop.process_group import ProcessGroup
from trainers.loop.train_step import Stepper

LABELS = Task(kind="multilabel", label="tags", classes=("a", "b"))


def _inputs(task: Task, labels: np.ndarray) -> InputSpec:
    empty = InputSpec(numbers=(), tensors=(), categories=(), cardinalities=(), mean=(0.0,), std=(1.0,), missing=())
    encoder = type("Encoder", (), {"width": 1, "categories": (), "numbers": ("x",), "tensors": (), "cardinalities": ()})
    fitted = InputSpec.fit(encoder, task, {"numbers": np.zeros((len(labels), 1), np.float32)}, labels)  # type: ignore[arg-type]
    return empty.model_copy(update={"class_shares": fitted.class_shares})


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(3, 1)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(numbers)
        return logits


def _gradient(batch: Batch, **settings: Any) -> torch.Tensor:
    module, config = _Plain(), TrainConfig(workers=1, **settings)
    step = Stepper(
        module, config, lambda logits, part: losses.batch_loss(TASKS["binary"], logits, part.labels), 10, ProcessGroup()
    )
    step.gradients(batch)
    assert module.body.weight.grad is not None
    assert module.body.weight.grad.dtype == torch.float32
    return module.body.weight.grad


def _batch(rows: int) -> Batch:
    random = torch.Generator().manual_seed(rows)
    numbers = torch.randn(rows, 3, generator=random)
    return Batch(numbers, torch.zeros(rows, 0, dtype=torch.int64), (numbers[:, 0] > 0).float())


@given(st.integers(1, 40), st.integers(1, 12))
def test_accumulated_gradients_equal_the_whole_step(rows: int, parts: int) -> None:
    assert torch.allclose(_gradient(_batch(rows), accumulate=parts), _gradient(_batch(rows)), atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_and_keeps_float32_weights(precision: str) -> None:
    scale = 2.0**16 if precision == "fp16" else 1.0
    half = _gradient(_batch(64), precision=precision) / scale
    assert torch.allclose(half, _gradient(_batch(64)), atol=5e-3)
    assert not torch.equal(half, _gradient(_batch(64)))


@pytest.mark.long
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_in_half_precision_learns(precision: str) -> None:
    result = trained(config=TrainConfig(epochs=25, batch_size=64, lr=1e-2, workers=1, precision=precision))  # type: ignore[arg-type]
    assert result.metrics["auc"] > 0.9
    assert all(value.dtype != np.float16 for value in result.state.values())


# The compiler uses old names of torch's own.
@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_module_learns_the_same() -> None:
    spec = ModelSpec(build="linear", parameters={"unknown": 0.0})
    config = TrainConfig(epochs=2, batch_size=64, workers=1)
    plain, compiled = (trained(spec=spec, config=config.model_copy(update={"compile": c})) for c in (False, True))
    assert set(plain.state) == set(compiled.state)
    assert all(np.allclose(plain.state[name], compiled.state[name], atol=1e-4) for name in plain.state)


@given(st.lists(st.integers(0, 2), min_size=3, max_size=60).filter(lambda classes: len(set(classes)) == 3))
def test_balanced_weights_match_scikit_learn(classes: list[int]) -> None:
    labels = np.array(classes, np.float32)
    weights = losses.class_weights(
        TASKS["multiclass"], TrainConfig(class_weights="balanced"), _inputs(TASKS["multiclass"], labels)
    )
    assert weights is not None
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert weights.numpy() == pytest.approx(expected, rel=1e-5)


def test_class_weights_multiply_the_loss_of_their_class() -> None:
    logits, weights = torch.tensor([[0.3], [-0.2], [1.0]]), torch.tensor([1.0, 3.0])
    labels = torch.tensor([0.0, 1.0, 1.0])
    each = functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none")
    loss = losses.batch_loss(TASKS["binary"], logits, labels, weights)
    assert loss.item() == pytest.approx((each * torch.tensor([1.0, 3.0, 3.0])).mean().item())
    three, classes = torch.randn(4, 3), torch.tensor([0.0, 2.0, 1.0, 2.0])
    each = functional.cross_entropy(three, classes.long(), reduction="none")
    loss = losses.batch_loss(TASKS["multiclass"], three, classes, torch.tensor([1.0, 2.0, 5.0]))
    assert loss.item() == pytest.approx((each * torch.tensor([1.0, 5.0, 2.0, 5.0])).mean().item())


def test_balanced_multilabel_weight_is_negatives_over_positives() -> None:
    labels = np.array([[1, 0], [0, 0], [0, 1], [0, 1]], np.float32)
    weights = losses.class_weights(LABELS, TrainConfig(class_weights="balanced"), _inputs(LABELS, labels))
    assert weights is not None
    assert weights.tolist() == pytest.approx([3.0, 1.0])


@pytest.mark.long
def test_balanced_weights_help_a_rare_class() -> None:
    rare = np.r_[np.zeros(95), np.ones(5)].astype(np.float32)
    weights = losses.class_weights(
        TASKS["binary"], TrainConfig(class_weights="balanced"), _inputs(TASKS["binary"], rare)
    )
    assert weights is not None
    assert weights.tolist() == pytest.approx([100 / 190, 10.0])


@pytest.mark.parametrize(
    ("kind", "weights", "code"),
    [
        ("regression", "balanced", "project.class_weights_of_regression"),
        ("binary", (1.0,), "project.invalid_class_weights"),
        ("multiclass", (1.0, -1.0, 2.0), "project.invalid_class_weights"),
    ],
)
def test_invalid_class_weights_are_refused(kind: str, weights: Any, code: str) -> None:
    task = TASKS[kind]  # type: ignore[index]
    inputs = _inputs(task, np.array([0, 1, 2, 1], np.float32) if kind == "multiclass" else np.array([0, 1], np.float32))
    with raises(ProjectError, code):
        losses.class_weights(task, TrainConfig(class_weights=weights), inputs)


def test_contradictory_settings_are_refused() -> None:
    with raises(ProjectError, "project.unsupported_precision"):
        TrainConfig(strategy="fsdp", precision="fp16")
    with raises(ProjectError, "project.min_workers_above_workers", min_workers=3, workers=2):
        TrainConfig(min_workers=3, workers=2)


@pytest.mark.parametrize("parts", [1, 3])
def test_step_returns_mean_loss_and_counts_itself_once(parts: int) -> None:
    """The zero module is a fair guess: its loss is log 2, and its learning rate that of the steps done."""
    module, config = _Plain(), TrainConfig(workers=1, accumulate=parts, warmup=0.0, schedule="cosine", lr=0.1)
    nn.init.zeros_(module.body.weight)
    nn.init.zeros_(module.body.bias)
    step = Stepper(
        module, config, lambda logits, part: losses.batch_loss(TASKS["binary"], logits, part.labels), 2, ProcessGroup()
    )
    assert step(_batch(8)).item() == pytest.approx(np.log(2))
    assert (step.steps_done, step.state()["done"], step.lr) == (1, 1, pytest.approx(0.05))
