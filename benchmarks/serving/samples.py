"""The rows that every server scores, in the formats that servers accept. Pure, from a seed."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.serving.http import Response, encode_request

NUMBERS = tuple(f"number_{i}" for i in range(8))
VOCABULARIES = {
    "carrier": tuple(f"carrier-{i:02d}" for i in range(16)),
    "origin": tuple(f"origin-{i:03d}" for i in range(100)),
}
UNKNOWN = "never-seen"
"""A value in no vocabulary, which every server must accept."""

_UNKNOWN_SHARE = 0.02
_DIGITS = 4
_BINARY = "Inference-Header-Content-Length"

Columns = dict[str, list[Any]]


def sample(rows: int, seed: int) -> Columns:
    """Rows as columns: normal numbers that float32 holds well enough, and skewed categories, some of them unknown."""
    chance = np.random.default_rng(seed)
    numbers = np.round(chance.normal(size=(len(NUMBERS), rows)), _DIGITS)
    columns: Columns = {name: values.tolist() for name, values in zip(NUMBERS, numbers, strict=True)}
    for name, vocabulary in VOCABULARIES.items():
        shares = 1.0 / np.arange(1, len(vocabulary) + 1)
        values = chance.choice(vocabulary, size=rows, p=shares / shares.sum()).tolist()
        unknown = chance.random(rows) < _UNKNOWN_SHARE
        columns[name] = [UNKNOWN if is_unknown else v for v, is_unknown in zip(values, unknown, strict=True)]
    return columns


def split(columns: Columns, rows: int) -> list[Columns]:
    """The same rows in parts of ``rows`` each."""
    total = len(columns[NUMBERS[0]])
    parts = range(0, total, rows)
    return [{name: values[at : at + rows] for name, values in columns.items()} for at in parts]


def record(path: str, columns: Columns) -> bytes:
    """One row as a JSON object."""
    return encode_request(path, json.dumps({name: values[0] for name, values in columns.items()}).encode())


def wrapped_record(path: str, columns: Columns) -> bytes:
    """One row as a JSON object under the name of BentoML's parameter."""
    return encode_request(path, json.dumps({"record": {name: values[0] for name, values in columns.items()}}).encode())


def dataframe_split(path: str, columns: Columns) -> bytes:
    """MLflow's usual shape."""
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return encode_request(path, json.dumps({"dataframe_split": {"columns": list(columns), "data": rows}}).encode())


def open_inference(path: str, columns: Columns) -> bytes:
    """The Open Inference Protocol's JSON: one tensor a column."""
    inputs = [tensor(name, values) | {"data": values} for name, values in columns.items()]
    return encode_request(path, json.dumps({"inputs": inputs}).encode())


def binary_tensors(path: str, columns: Columns) -> bytes:
    """The Open Inference Protocol with its binary tensor extension, for the response too.

    The JSON header comes first, then each tensor's bytes in the order of the inputs: numbers little-endian, BYTES
    elements each after their length (uint32, little-endian).
    https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/extension_binary_tensor_data.md
    """
    inputs, blobs = [], []
    for name, values in columns.items():
        blob = _strings(values) if name in VOCABULARIES else np.asarray(values, "<f4").tobytes()
        inputs.append(tensor(name, values) | {"parameters": {"binary_data_size": len(blob)}})
        blobs.append(blob)
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    fields = {"Content-Type": "application/octet-stream", _BINARY: str(len(header))}
    return encode_request(path, header + b"".join(blobs), fields)


def tensor(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """A tensor's description, without its data."""
    return {"name": name, "shape": [len(values)], "datatype": "BYTES" if name in VOCABULARIES else "FP32"}


def record_scores(response: Response) -> list[float]:
    """Scores from ``{"score": 0.5}``."""
    return [json.loads(response.body)["score"]]


def predictions_scores(response: Response) -> list[float]:
    """Scores from ``{"predictions": [0.5]}``."""
    return list(json.loads(response.body)["predictions"])


def open_inference_scores(response: Response) -> list[float]:
    """Scores from the first output tensor, JSON or binary."""
    length = response.header(_BINARY.lower().encode())
    head = response.body[: int(length)] if length else response.body
    output: Mapping[str, Any] = json.loads(head)["outputs"][0]
    if not length or "data" in output:
        return list(output["data"])
    size = output["parameters"]["binary_data_size"]
    kind = {"FP32": "<f4", "FP64": "<f8"}[output["datatype"]]
    values: list[float] = np.frombuffer(response.body[int(length) : int(length) + size], kind).tolist()
    return values


def no_scores(response: Response) -> list[float]:
    """Scores from the empty handler's response."""
    return []


def _strings(values: Sequence[str]) -> bytes:
    encoded = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(one)) + one for one in encoded)
