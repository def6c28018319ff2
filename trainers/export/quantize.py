"""int8 weights for a model on a CPU: dynamic quantisation by ONNX Runtime.

Weights of matrix products are rounded per output column when the file is written, activations per batch as they come
(Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", sections
2.1 and 2.3). Whether the scores are still good enough is for the gate to say.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from cluster.log_suppression import suppress_logs


def quantize(model: bytes, target: Path) -> None:
    """Write the ONNX ``model`` with int8 weights to ``target``.

    Weights get seven of the eight bits: with eight, products of a CPU without VNNI saturate, and the scores of the machine
    that serves would not be those of the machine that passed the gate.
    """
    # It recommends a preparation that finds nothing to do in these graphs.
    with suppress_logs("root"):
        quantize_dynamic(
            onnx.load_from_string(model),
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
