"""A client that sends requests and labels: Open Inference Protocol over HTTP, one row per request."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from operator import add
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import polars as pl

from deployments.protocol.open_inference import row_tensor
from features.definitions import Column, FeatureSet

_DATATYPE = {"number": "FP64", "category": "BYTES", "timestamp": "INT64", "tensor": "FP32"}
_TIMEOUT_S = 30.0
_LABELS_A_REQUEST = 500


class LoadStats(NamedTuple):
    """What the client measured."""

    requests: int
    failed: int
    """Requests that were not answered with 200."""
    seconds: float
    latencies_ms: tuple[float, ...]
    failures: tuple[str, ...] = ()
    """Descriptions of the first failures."""

    def __add__(self, other: object) -> LoadStats:
        assert isinstance(other, LoadStats)
        return LoadStats(*map(add, self, other))

    def percentile_ms(self, q: float) -> float:
        """Return a percentile of the latencies; NaN without requests."""
        return float(np.percentile(self.latencies_ms, q)) if self.latencies_ms else float("nan")


NO_REQUESTS = LoadStats(0, 0, 0.0, ())


class LoadClient:
    """Sends requests to a model's endpoint over several connections at the same time."""

    def __init__(self, endpoint: str, model: str, connections: int, headers: Mapping[str, str] | None = None) -> None:
        self._url = f"{endpoint}/v2/models/{model}"
        self._headers = headers
        self._connections = connections

    def predict(self, features: FeatureSet, ids: Sequence[str], rows: pl.DataFrame) -> LoadStats:
        """Send one request per row; the row's id is the request's id and routing key."""
        return asyncio.run(self._send("infer", request_bodies(features, ids, rows)))

    def label(self, ids: Sequence[str], labels: Sequence[Any], known_us: Sequence[int]) -> LoadStats:
        """Send labels of answered requests."""
        entries = [{"id": i, "label": y, "time": t} for i, y, t in zip(ids, labels, known_us, strict=True)]
        parts = [entries[at : at + _LABELS_A_REQUEST] for at in range(0, len(entries), _LABELS_A_REQUEST)]
        return asyncio.run(self._send("feedback", [{"labels": part} for part in parts]))

    async def _send(self, path: str, bodies: list[dict[str, Any]]) -> LoadStats:
        if not bodies:
            return NO_REQUESTS
        queue = iter(bodies)
        latencies: list[float] = []
        failures: list[str] = []
        began = time.perf_counter()

        async def work(http: aiohttp.ClientSession) -> None:
            for body in queue:
                start = time.perf_counter()
                failure = await _post(http, f"{self._url}/{path}", body)
                latencies.append((time.perf_counter() - start) * 1000)
                failures.extend([failure] if failure else [])

        connector = aiohttp.TCPConnector(limit=self._connections)
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers) as http:
            await asyncio.gather(*(work(http) for _ in range(self._connections)))
        return LoadStats(len(bodies), len(failures), time.perf_counter() - began, tuple(latencies), tuple(failures[:3]))


async def _post(http: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> str:
    """Return an empty text when the answer is 200, else what went wrong."""
    try:
        async with http.post(url, json=body) as answer:
            text = await answer.text()
            return "" if answer.status == 200 else f"{answer.status} {text[:200]}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"{type(error).__name__} {error}"


def request_bodies(features: FeatureSet, ids: Sequence[str], rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Return a request's body for each row.

    Args:
        features: The model's features.
        ids: Ids of the requests.
        rows: The request columns.
    """
    columns = [(c, _cells(rows.get_column(c.name), c)) for c in features.request]
    return [_infer_body(id, [(c, cells[i]) for c, cells in columns]) for i, id in enumerate(ids)]


def _infer_body(id: str, cells: list[tuple[Column, Any]]) -> dict[str, Any]:
    return {"id": id, "inputs": [row_tensor(column, value, _DATATYPE[column.kind]) for column, value in cells]}


def _cells(values: pl.Series, column: Column) -> list[Any]:
    return values.dt.epoch("us").to_list() if column.kind == "timestamp" else values.to_list()


def example_curl(features: FeatureSet, endpoint: str, model: str, row: pl.DataFrame, *, access: bool) -> str:
    """Return a shell command that requests a prediction for the first row; with ``access`` it sends an API key."""
    cells = [(c, _cells(row.get_column(c.name), c)[0]) for c in features.request]
    body = json.dumps(_infer_body("hello", cells))
    key = ' -H "Authorization: Bearer $KEY"' if access else ""
    return f"curl -s {endpoint}/v2/models/{model}/infer{key} -H 'content-type: application/json' -d '{body}'"
