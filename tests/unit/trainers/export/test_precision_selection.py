"""int8 weights are exported when the gate accepts them; otherwise the float model stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cluster.values import Task
from features.manifest import MODEL_FILE, PORTABLE_FILE
from tests.factories.trainers.frames import COLUMNS, TASKS, frame
from tests.factories.trainers.training import trained
from trainers import metrics
from trainers.config import ModelSpec, TrainConfig
from trainers.evaluation.quality_gate import GatePolicy, Threshold
from trainers.export.portable_onnx import score_portable
from trainers.export.precision_selection import ExportedModel, GateRows, export_best_precision
from trainers.input_spec import InputSpec
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer

INT8 = TrainConfig(epochs=6, batch_size=64, workers=1, quantize="int8")
HELD_OUT = frame(rows=2000, seed=7)
LABELS = HELD_OUT["label"].to_numpy()


class Powers(nn.Module):
    """A user's own module, with a power of its input that is large for few rows: it sets the step of int8 for all."""

    def __init__(self, inputs: InputSpec, task: Task) -> None:
        super().__init__()
        self.body = nn.Linear(2, task.outputs)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(torch.cat([numbers, numbers**7], dim=1))
        return logits


def _served(result: FitResult, folder: Path, policy: GatePolicy) -> ExportedModel:
    return export_best_precision(policy, result, folder, GateRows(HELD_OUT))


def _operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.long
def test_export_of_int8_that_passes_gate_is_int8(tmp_path: Path) -> None:
    result = trained(spec=ModelSpec(parameters={"hidden": (64, 32)}), config=INT8)
    served = _served(result, tmp_path, GatePolicy(thresholds=(Threshold(metric="auc", min=0.85),)))
    assert (served.precision, str(served), served.int8_refusal) == ("int8", "int8", "")
    assert [check.name for check in served.report.checks] == ["auc", "export parity", "int8 as good as float"]
    for file in (MODEL_FILE, PORTABLE_FILE):
        assert "MatMulInteger" in _operators(tmp_path / file)
    arrays = result.encoder.encode(HELD_OUT)
    model = onnx_scorer.open_session(tmp_path / MODEL_FILE)
    assert np.array_equal(onnx_scorer.score(model, arrays), served.scores)
    with torch.inference_mode():
        exact = result.build_scorer()(torch.from_numpy(arrays["numbers"]), torch.from_numpy(arrays["codes"])).numpy()
    assert 0 < np.abs(served.scores - exact).max() < 0.05
    few = HELD_OUT.slice(0, 50)
    portable = score_portable(onnx_scorer.open_session(tmp_path / PORTABLE_FILE), result.encoder, few)
    assert np.allclose(portable, onnx_scorer.score(model, result.encoder.encode(few)), atol=1e-6)


@pytest.mark.long
def test_export_of_int8_that_loses_quality_stays_float(tmp_path: Path) -> None:
    result = trained(spec=ModelSpec(build=Powers), config=INT8, columns=COLUMNS[:1])
    served = _served(result, tmp_path, GatePolicy())
    assert served.precision == "float32"
    assert "before quantization" in served.int8_refusal
    assert str(served).startswith("float32 (int8 refused: ")
    assert served.report.passed
    assert "MatMulInteger" not in _operators(tmp_path / MODEL_FILE) | _operators(tmp_path / PORTABLE_FILE)
    model = onnx_scorer.open_session(tmp_path / MODEL_FILE)
    assert np.array_equal(onnx_scorer.score(model, result.encoder.encode(HELD_OUT)), served.scores)


@pytest.mark.long
def test_export_of_int8_below_threshold_stays_float(tmp_path: Path) -> None:
    result = trained(spec=ModelSpec(build=Powers), config=INT8, columns=COLUMNS[:1])
    lenient = GatePolicy(max_quantization_loss=1.0)
    assert _served(result, tmp_path, lenient).precision == "int8"
    whole = _served(trained(spec=ModelSpec(build=Powers), columns=COLUMNS[:1]), tmp_path, GatePolicy())
    auc = metrics.evaluate(TASKS["binary"], whole.scores, LABELS)["auc"]
    strict = GatePolicy(max_quantization_loss=1.0, thresholds=(Threshold(metric="auc", min=auc - 0.02),))
    assert "held-out auc" in _served(result, tmp_path, strict).int8_refusal


@pytest.mark.long
@pytest.mark.parametrize("config", [INT8, INT8.model_copy(update={"quantize": "none"})])
def test_export_that_fails_in_float_or_without_int8_stays_float(config: TrainConfig, tmp_path: Path) -> None:
    result = trained(spec=ModelSpec(parameters={"hidden": (64, 32)}), config=config)
    impossible = GatePolicy(thresholds=(Threshold(metric="auc", min=1.0),))
    policy = impossible if config.quantize == "int8" else GatePolicy()
    served = _served(result, tmp_path, policy)
    refused = "it already fails in float32" if config.quantize == "int8" else ""
    assert (served.precision, served.int8_refusal) == ("float32", refused)
    assert served.report.passed == (config.quantize == "none")
    assert "MatMulInteger" not in _operators(tmp_path / MODEL_FILE)
