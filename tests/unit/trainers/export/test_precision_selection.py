"""int8 is served when the gate holds with it, and the float model stays when it does not; both timed as they are."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cluster.values import Task
from features.manifest import MODEL_FILE, PORTABLE_FILE
from tests.factories.trainers.frames import COLUMNS, TASKS, frame, trained
from trainers import metrics
from trainers.config import ModelSpec, TrainConfig
from trainers.evaluation.quality_gate import GatePolicy, Threshold
from trainers.export.onnx_export import export
from trainers.export.portable_onnx import score_portable
from trainers.export.precision_selection import ExportedModel, GateRows, export_best_precision
from trainers.input_spec import InputSpec
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer
from trainers.scoring.latency_benchmark import ROWS, format_latencies, measure_latencies

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


def test_int8_that_holds_the_gate_is_what_the_bundle_serves(tmp_path: Path) -> None:
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


def test_int8_that_costs_quality_is_refused_and_the_float_model_stays(tmp_path: Path) -> None:
    result = trained(spec=ModelSpec(build=Powers), config=INT8, columns=COLUMNS[:1])
    served = _served(result, tmp_path, GatePolicy())
    assert served.precision == "float32"
    assert "before quantization" in served.int8_refusal
    assert str(served).startswith("float32 (int8 refused: auc differs from that of the same model")
    assert served.report.passed
    assert "MatMulInteger" not in _operators(tmp_path / MODEL_FILE) | _operators(tmp_path / PORTABLE_FILE)
    model = onnx_scorer.open_session(tmp_path / MODEL_FILE)
    assert np.array_equal(onnx_scorer.score(model, result.encoder.encode(HELD_OUT)), served.scores)


def test_a_threshold_that_only_float_holds_refuses_int8(tmp_path: Path) -> None:
    result = trained(spec=ModelSpec(build=Powers), config=INT8, columns=COLUMNS[:1])
    lenient = GatePolicy(max_quantization_loss=1.0)
    assert _served(result, tmp_path, lenient).precision == "int8"
    whole = _served(trained(spec=ModelSpec(build=Powers), columns=COLUMNS[:1]), tmp_path, GatePolicy())
    auc = metrics.evaluate(TASKS["binary"], whole.scores, LABELS)["auc"]
    strict = GatePolicy(max_quantization_loss=1.0, thresholds=(Threshold(metric="auc", min=auc - 0.02),))
    assert "held-out auc" in _served(result, tmp_path, strict).int8_refusal


@pytest.mark.parametrize("config", [INT8, INT8.model_copy(update={"quantize": "none"})])
def test_what_fails_in_float_fails_and_what_is_not_asked_for_is_not_tried(config: TrainConfig, tmp_path: Path) -> None:
    result = trained(spec=ModelSpec(parameters={"hidden": (64, 32)}), config=config)
    impossible = GatePolicy(thresholds=(Threshold(metric="auc", min=1.0),))
    policy = impossible if config.quantize == "int8" else GatePolicy()
    served = _served(result, tmp_path, policy)
    refused = "it already fails in float32" if config.quantize == "int8" else ""
    assert (served.precision, served.int8_refusal) == ("float32", refused)
    assert served.report.passed == (config.quantize == "none")
    assert "MatMulInteger" not in _operators(tmp_path / MODEL_FILE)


def test_both_runtimes_are_timed_on_one_thread_and_leave_torchs_threads_alone(tmp_path: Path) -> None:
    result = trained(spec=ModelSpec(parameters={"hidden": (256, 128)}))
    export(result, tmp_path, HELD_OUT)
    threads, alive = torch.get_num_threads(), threading.active_count()
    found = measure_latencies(
        onnx_scorer.open_session(tmp_path / MODEL_FILE),
        result.build_scorer(),
        result.encoder.encode(HELD_OUT.slice(0, 100)),
    )
    assert (torch.get_num_threads(), threading.active_count()) == (threads, alive)
    assert set(found) == {f"{name}_us_{rows}" for name in ("onnxruntime", "torch") for rows in ROWS}
    assert all(found[f"{name}_us_1024"] > found[f"{name}_us_1"] > 0 for name in ("onnxruntime", "torch"))
    assert f"ONNX Runtime {found['onnxruntime_us_1']:.0f} us for 1 rows" in format_latencies(found)
