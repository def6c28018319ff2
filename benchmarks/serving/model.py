"""The model that every server serves: a small seeded MLP, as a bundle for rayloop and as two files for the peers."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import torch

from benchmarks.serving.samples import NUMBERS, VOCABULARIES, Columns, sample
from cluster.values import Snapshot, Task
from features.definitions import Column, FeatureSet
from features.encoder import Arrays, Encoder
from features.manifest import MODEL_FILE, PROFILE_FILE, Manifest
from features.profiles.reference_profile import ReferenceProfile, profile_windows
from features.types import AS_OF

NAME = "bench"
WINDOW_S = 3600.0
SCHEMA = "schema.json"

FEATURES = FeatureSet(
    name=NAME,
    request=(
        *(Column(name=name, kind="number") for name in NUMBERS),
        *(Column(name=name, kind="category") for name in VOCABULARIES),
    ),
)
ENCODER = Encoder(columns=FEATURES.columns, vocabularies=VOCABULARIES)

_HIDDEN = 64
_EMBEDDING = 8
_REFERENCE_ROWS, _REFERENCE_WINDOWS = 24_000, 24


class Mlp(torch.nn.Module):
    """Embeddings of the categories and the numbers, two hidden layers, one probability."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = torch.nn.ModuleList(torch.nn.Embedding(size, _EMBEDDING) for size in ENCODER.cardinalities)
        width = ENCODER.width + _EMBEDDING * len(ENCODER.categories)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(width, _HIDDEN), torch.nn.ReLU(),
            torch.nn.Linear(_HIDDEN, _HIDDEN), torch.nn.ReLU(),
            torch.nn.Linear(_HIDDEN, 1), torch.nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        embedded = [embedding(codes[:, i]) for i, embedding in enumerate(self.embeddings)]
        scores: torch.Tensor = self.layers(torch.cat([torch.nan_to_num(numbers), *embedded], dim=1))
        return scores[:, 0]


def write_bundle(folder: Path, seed: int, graph: bytes | None = None) -> Path:
    """A model version's folder: manifest, ONNX file, reference profile; and the vocabularies for the peers.

    Args:
        folder: Folder to create.
        seed: Seed of the profile's rows, and of the MLP.
        graph: ONNX model in place of the MLP.
    """
    folder.mkdir(parents=True)
    if graph is None:
        torch.manual_seed(seed)
        _export(Mlp().eval(), folder / MODEL_FILE)
    else:
        (folder / MODEL_FILE).write_bytes(graph)
    Manifest(
        model=NAME,
        task=Task(kind="binary", label="late"),
        features=FEATURES,
        feature_hash=FEATURES.content_hash,
        encoder=ENCODER,
        snapshot=Snapshot(table=f"{NAME}.training", id=1, rows=_REFERENCE_ROWS),
        code_version="benchmark",
    ).save(folder)
    codes = {name: {value: code for code, value in enumerate(values, 2)} for name, values in VOCABULARIES.items()}
    (folder / SCHEMA).write_text(json.dumps({"numbers": NUMBERS, "codes": codes}))
    (folder / PROFILE_FILE).write_bytes(_reference(folder, seed))
    return folder


def table(columns: Columns) -> pa.Table:
    """Rows as the feature frame has them, without a time."""
    return pa.table(columns)


def arrays(columns: Columns) -> Arrays:
    return ENCODER.encode(table(columns))


@cache
def session(folder: Path) -> ort.InferenceSession:
    """The ONNX file, run by one thread as in every server."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"])


def scores(folder: Path, columns: Columns) -> np.ndarray:
    """The scores that every server must return for these rows."""
    return np.asarray(session(folder).run(["scores"], arrays(columns))[0])


def alone(folder: Path, columns: Columns, seconds: float) -> float:
    """Rows per second of the model alone: the same encoded rows repeatedly."""
    run, inputs = session(folder).run, arrays(columns)
    return _rows_per_second(lambda: run(["scores"], inputs), len(inputs["numbers"]), seconds)


def encoded(folder: Path, columns: Columns, seconds: float) -> float:
    """Rows per second of encoding and model: the same typed columns repeatedly."""
    run, typed = session(folder).run, table(columns)
    return _rows_per_second(lambda: run(["scores"], ENCODER.encode(typed)), typed.num_rows, seconds)


def _rows_per_second(work: Callable[[], object], rows: int, seconds: float) -> float:
    work()
    started, count = time.perf_counter(), 0
    while time.perf_counter() < started + seconds:
        work()
        count += rows
    return count / (time.perf_counter() - started)


def _export(module: torch.nn.Module, path: Path) -> None:
    inputs = {
        "numbers": torch.zeros(2, ENCODER.width),
        "codes": torch.zeros(2, len(ENCODER.categories), dtype=torch.long),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, tuple(inputs.values()), str(path), input_names=list(inputs), output_names=["scores"],
            dynamic_axes={name: {0: "rows"} for name in (*inputs, "scores")}, dynamo=False,
        )  # fmt: skip


def _reference(folder: Path, seed: int) -> bytes:
    """The profile of generated training rows with their scores, in hourly windows."""
    columns = sample(_REFERENCE_ROWS, seed)
    windows = np.repeat(np.arange(_REFERENCE_WINDOWS), _REFERENCE_ROWS // _REFERENCE_WINDOWS)
    when = pa.array((windows * WINDOW_S * 1e6).astype(np.int64)).cast(pa.timestamp("us", "UTC"))
    frame = table(columns).append_column(AS_OF, when)
    frame = frame.append_column("score", pa.array(scores(folder, columns), pa.float64()))
    profiled = profile_windows(frame, (*FEATURES.columns, Column(name="score", kind="number")), WINDOW_S)
    return ReferenceProfile.build(profiled, WINDOW_S).to_bytes()
