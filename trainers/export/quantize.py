"""int8 weights for a model on a CPU: dynamic quantization by ONNX Runtime.

Weights of matrix products are rounded per output column when the file is written, activations per batch at run time
(Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
sections 2.1 and 2.3). The quality gate decides whether the scores are still good enough.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from cluster.log_suppression import suppress_logs


def quantize(model: bytes, target: Path) -> None:
    """Write an ONNX model with int8 weights.

    Weights use seven of the eight bits: with eight, products on a CPU without VNNI saturate, and the scores of the
    serving machine would differ from those of the machine that ran the gate.

    Args:
        model: The model in float32.
        target: The file to write.
    """
    # ONNX Runtime recommends a preprocessing step that changes nothing in these graphs.
    with suppress_logs("root"):
        quantize_dynamic(
            onnx.load_from_string(model),
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
