"""Tables and models that batch prediction is measured with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.values import ModelVersion, Snapshot, Task
from features.definitions import Column, FeatureSet
from features.encoder import Arrays, Encoder
from features.manifest import MODEL_FILE, Manifest

CHUNK_ROWS = 1 << 18
ENCODED = "encoded.npz"
"""A file next to a case's model: its first ``CHUNK_ROWS`` rows, encoded."""
ID = "id"
TABLE = "bench.requests"
_ROW_GROUP_ROWS = 1 << 17
_FILE_ROWS = 1 << 20


@dataclass(frozen=True)
class BatchCase:
    """A table and a model.

    ``nulls`` is the share of nulls in every third number, and a tenth of it in each category; ``vocabularies`` are the
    sizes of the categories'; ``hidden`` are the widths of the model's layers; ``named`` rows have a text ``ID``.
    """

    name: str
    numbers: int
    kind: Any
    hidden: tuple[int, ...]
    vocabularies: tuple[int, ...] = ()
    nulls: float = 0.0
    named: bool = False

    def table(self, rows: int, seed: int) -> pa.Table:
        """Random rows of about the entropy of real ones: numbers of full precision, categories evenly spread."""
        draw = np.random.default_rng(seed)
        columns: dict[str, Any] = {}
        if self.named:
            columns[ID] = [f"2013-{draw.integers(1, 13)}-UA-{i % 9999}-EWR" for i in range(rows)]
        for i in range(self.numbers):
            absent = draw.random(rows) < self.nulls if self.nulls and i % 3 == 0 else None
            columns[f"n{i:02d}"] = pa.array(draw.normal(size=rows).astype(self.kind), mask=absent)
        for j, size in enumerate(self.vocabularies):
            values = np.array([f"{j}:{i:04d}" for i in range(size)])[draw.integers(size, size=rows)]
            columns[f"c{j}"] = pa.array(values, mask=draw.random(rows) < self.nulls / 10)
        return pa.table(columns)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the model takes."""
        numbers = tuple(Column(name=f"n{i:02d}", kind="number") for i in range(self.numbers))
        return numbers + tuple(Column(name=f"c{j}", kind="category") for j in range(len(self.vocabularies)))

    @property
    def model(self) -> str:
        return "-".join(str(width) for width in (*self.hidden, 1))


NARROW = BatchCase("32 float32 numbers", 32, np.float32, (256, 256))
WIDE = BatchCase(
    "30 float64 numbers with nulls and 6 categories",
    30,
    np.float64,
    (256, 128),
    vocabularies=(16, 3, 104, 4043, 24, 7),
    nulls=0.1,
    named=True,
)
"""As many numbers and categories as examples/flights, with vocabularies of the same sizes and its model's layers."""
LIGHT = BatchCase("32 float32 numbers", 32, np.float32, (8,))
"""A model that takes almost no time, for measurements that do not depend on it."""


def bundle(case: BatchCase, folder: Path) -> ModelVersion:
    """A bundle of the case's model with random weights: quality does not affect the time."""
    import torch

    from trainers.config import ModelSpec
    from trainers.export.onnx_export import save_onnx
    from trainers.input_spec import InputSpec
    from trainers.models import model_builder
    from trainers.models.scoring_module import ScoringModule

    table, task = case.table(CHUNK_ROWS, seed=0), Task(kind="binary", label="y")
    encoder = Encoder.fit(case.columns, table)
    arrays: Arrays = encoder.encode(table)
    labels = np.random.default_rng(0).integers(2, size=CHUNK_ROWS).astype(float)
    inputs = InputSpec.fit(encoder, task, arrays, labels)
    torch.manual_seed(0)
    module = model_builder.build(ModelSpec(parameters={"hidden": case.hidden}), inputs, task).eval()
    save_onnx(ScoringModule(module, task, inputs).eval(), inputs, folder / MODEL_FILE)
    np.savez(folder / ENCODED, **arrays)  # type: ignore[arg-type]
    features = FeatureSet(name="all", request=case.columns)
    Manifest(
        model="bench", task=task, features=features, feature_hash=features.content_hash, encoder=encoder,
        snapshot=Snapshot(table="none", id=0, rows=0), code_version="none",
    ).save(folder)  # fmt: skip
    return ModelVersion(model="bench", version="1", run_id="", bundle_uri=str(folder))


def parquet(case: BatchCase, count: int, path: Path) -> str:
    """Write one file of ``count`` rows with pyarrow's defaults (Snappy), except that only text has dictionaries."""
    pieces = [case.table(CHUNK_ROWS, seed) for seed in (1, 2)]
    text = [c.name for c in case.columns if c.kind == "category"]
    with pq.ParquetWriter(path, pieces[0].schema, use_dictionary=text) as writer:
        for i in range(count // CHUNK_ROWS):
            writer.write_table(pieces[i % len(pieces)], row_group_size=_ROW_GROUP_ROWS)
    return str(path)


def repeated(file: str, times: int, folder: Path) -> str:
    """A folder with ``times`` links to ``file``: a large table in the disk space of a small one."""
    folder.mkdir()
    for i in range(times):
        os.link(file, folder / f"{i:04d}.parquet")
    return str(folder)


def iceberg(workspace: Any, source: str) -> str:
    """The rows of a Parquet file as a table of the catalog, in data files of a million rows."""
    for batch in pq.ParquetFile(source).iter_batches(_FILE_ROWS):
        workspace.tables.append(TABLE, pa.Table.from_batches([batch]))
    return TABLE
