"""Latency of both runtimes on one thread."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from features.manifest import MODEL_FILE
from tests.factories.trainers.frames import frame
from tests.factories.trainers.training import trained
from trainers.config import ModelSpec
from trainers.export.onnx_export import export
from trainers.scoring import onnx_scorer
from trainers.scoring.latency_benchmark import ROWS, format_latencies, measure_latencies


@pytest.mark.long
def test_measure_latencies_restores_threads(tmp_path: Path) -> None:
    result = trained(spec=ModelSpec(parameters={"hidden": (256, 128)}))
    sample = frame(rows=2000, seed=7)
    export(result, tmp_path, sample)
    threads, alive = torch.get_num_threads(), threading.active_count()
    latency = measure_latencies(
        onnx_scorer.open_session(tmp_path / MODEL_FILE),
        result.build_scorer().score,
        result.encoder.encode(sample.slice(0, 100)),
    )
    assert (torch.get_num_threads(), threading.active_count()) == (threads, alive)
    assert set(latency) == {f"{name}_us_{rows}" for name in ("onnxruntime", "torch") for rows in ROWS}
    assert all(latency[f"{name}_us_1024"] > latency[f"{name}_us_1"] > 0 for name in ("onnxruntime", "torch"))
    assert f"ONNX Runtime {latency['onnxruntime_us_1']:.0f} us for 1 rows" in format_latencies(latency)
