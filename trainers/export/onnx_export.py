"""Export of a trained model to files that load without its Python code: ONNX and safetensors."""

from __future__ import annotations

import gc
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import torch
from safetensors.numpy import save_file
from torch import nn

from cluster.errors import DataError
from cluster.log_suppression import suppress_logs
from features.encoder import Arrays
from features.manifest import MODEL_FILE, PORTABLE_FILE, WEIGHTS_FILE
from trainers.export.ensemble_onnx import merge_graphs
from trainers.export.portable_onnx import score_portable, write_portable
from trainers.fitted_model import FittedModel, GraphModel
from trainers.input_spec import InputSpec
from trainers.loop.trainer import FitResult
from trainers.scoring import onnx_scorer
from trainers.selection.ensemble_model import EnsembleModel

TRACE_ROWS = 2


class _OneInput(nn.Module):
    """A model without numbers or without categories, as a function of the other input only."""

    def __init__(self, scorer: nn.Module) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        is_codes = values.dtype == torch.int64
        empty = values.new_zeros((values.shape[0], 0), dtype=torch.float32 if is_codes else torch.int64)
        return self.scorer(empty, values) if is_codes else self.scorer(values, empty)


def export(result: FitResult, folder: Path, sample: pa.Table) -> float:
    """Write model.onnx, portable.onnx and weights.safetensors.

    Args:
        result: The trained model.
        folder: Where the files go.
        sample: Rows of a feature frame on which the files are compared.

    Returns:
        The largest absolute difference of scores between the trained model and model.onnx, or between model.onnx and
        portable.onnx; of a regression, in standard deviations of the label. Of an imported model also the difference
        that its import measured.

    Raises:
        DataError: ``sample`` has no row.
    """
    if not sample.num_rows:
        raise DataError("data.empty_export_sample")
    model = result.build_model()
    save_model(model, result.inputs, folder / MODEL_FILE)
    save_file({name: value.copy(order="C") for name, value in result.state.items()}, folder / WEIGHTS_FILE)
    arrays = result.encoder.encode(sample)
    onnx_scores = onnx_scorer.score(onnx_scorer.open_session(folder / MODEL_FILE), arrays)
    difference = _difference(result, model.score(arrays), onnx_scores)
    return max(difference, export_portable(result, folder, sample), result.import_parity)


def export_portable(result: FitResult, folder: Path, sample: pa.Table) -> float:
    """Write portable.onnx from the model.onnx in ``folder``.

    Args:
        result: The trained module.
        folder: The bundle.
        sample: Rows of a feature frame on which both are compared.

    Returns:
        The largest difference of their scores, in the unit of ``export``.
    """
    write_portable(folder, result.encoder)
    # int8 rounding of activations depends on the rows of a call: both models must get the same rows in one call.
    sample = sample.slice(0, onnx_scorer.CALL_ROWS)
    served = onnx_scorer.score(onnx_scorer.open_session(folder / MODEL_FILE), result.encoder.encode(sample))
    portable = score_portable(onnx_scorer.open_session(folder / PORTABLE_FILE), result.encoder, sample)
    return _difference(result, served, portable)


def _difference(result: FitResult, expected: np.ndarray, actual: np.ndarray) -> float:
    return float(np.abs(expected.astype(np.float64) - actual).max()) / result.inputs.label_std


def save_model(model: FittedModel, inputs: InputSpec, path: Path) -> None:
    """Write a fitted model as one self-contained ONNX file: the graph that it builds, the trace of its module, or the
    graphs of several models as one.

    Args:
        model: The model.
        inputs: Its inputs.
        path: The file.
    """
    if isinstance(model, nn.Module):
        save_onnx(model, inputs, path)
    elif isinstance(model, EnsembleModel):
        path.write_bytes(_ensemble_graph(model, inputs))
    else:
        assert isinstance(model, GraphModel)
        path.write_bytes(model.to_onnx())


def _ensemble_graph(model: EnsembleModel, inputs: InputSpec) -> bytes:
    with tempfile.TemporaryDirectory(prefix="rayloop-members-") as folder:
        path, graphs = Path(folder) / MODEL_FILE, list[onnx.ModelProto]()
        for member in model.members:
            save_model(member, inputs, path)
            graphs.append(onnx.load(path))
    return merge_graphs(graphs, model.weights, model.task, model.temperature)


def save_onnx(scorer: nn.Module, inputs: InputSpec, path: Path) -> None:
    """Write a module as one self-contained ONNX file.

    Args:
        scorer: The module, with scores as its output.
        inputs: Its inputs. "numbers" and "codes" become inputs of the graph when they have columns.
        path: The file. Its output is "scores"; the batch size is dynamic.
    """
    module, arguments = _trace_inputs(scorer, inputs)
    batch = torch.export.Dim("batch")
    # The exporter warns about the absence of torchvision and about its own internals; neither concerns a caller.
    with suppress_logs("torch.onnx"), warnings.catch_warnings(action="ignore"), _without_gc():
        program = torch.onnx.export(
            module.eval(),
            tuple(torch.from_numpy(value) for value in arguments.values()),
            input_names=list(arguments),
            output_names=["scores"],
            dynamic_shapes=tuple({0: batch} for _ in arguments),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)


@contextmanager
def _without_gc() -> Iterator[None]:
    """Disable garbage collection.

    The exporter parses source, and CPython 3.11 counts the parser's depth for the whole process: a finalizer that lets
    another thread parse meanwhile ends the export with SystemError ("AST constructor recursion depth mismatch").
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _trace_inputs(scorer: nn.Module, inputs: InputSpec) -> tuple[nn.Module, Arrays]:
    """The module as a function of the inputs that have columns, and example values for them."""
    numbers = np.zeros((TRACE_ROWS, inputs.width), np.float32)
    codes = np.zeros((TRACE_ROWS, len(inputs.cardinalities)), np.int64)
    present = {name: values for name, values in (("numbers", numbers), ("codes", codes)) if values.size}
    return scorer if len(present) > 1 else _OneInput(scorer), present
