"""Encoders inside the graph give the arrays of the encoder outside of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from features.encoder import Encoder
from features.manifest import MODEL_FILE, PORTABLE_FILE
from tests.factories.trainers.frames import COLUMNS, frame
from trainers.export.portable_onnx import score_portable, write_portable
from trainers.scoring import onnx_scorer


def _save_echo(encoder: Encoder, folder: Path) -> None:
    """A model whose scores are its inputs."""
    width = encoder.width + len(encoder.categories)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["codes"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Concat", ["numbers", "floats"], ["out"], axis=1),
        ],
        "echo",
        [
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["batch", encoder.width]),
            helper.make_tensor_value_info("codes", TensorProto.INT64, ["batch", len(encoder.categories)]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", width])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / MODEL_FILE)


@pytest.mark.parametrize("rows", [1, 7])
def test_portable_model_encodes_columns_like_the_encoder(rows: int, tmp_path: Path) -> None:
    encoder = Encoder.fit(COLUMNS, frame(rows=60))
    _save_echo(encoder, tmp_path)
    write_portable(tmp_path, encoder)
    table = frame(rows=rows, seed=1)
    table = table.set_column(
        table.column_names.index("color"), "color", pa.array(["violet", None, "red", "blue", "green"] * 2)[:rows]
    )
    arrays = encoder.encode(table)
    scores = score_portable(onnx_scorer.open_session(tmp_path / PORTABLE_FILE), encoder, table)
    assert np.array_equal(scores, np.concatenate([arrays["numbers"], arrays["codes"]], axis=1), equal_nan=True)
