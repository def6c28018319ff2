"""Evidence for a move: the same rows, answered by both clusters."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import numpy as np
import polars as pl

from cluster.door.moves import CLUSTER_HEADER, FIRST, SECOND
from cluster.door.probe import door_host, unverified_context
from cluster.errors import DataError, RayloopError
from cluster.names import CHAMPION, predictions_table
from cluster.settings import Settings
from cluster.storage.tables import Tables
from deployments.http_messages import VARIANT_HEADER
from features.definitions import FeatureSet
from features.types import ID
from rayloop.simulation.load_client import request_bodies
from rayloop.stages.skew_check import newest_rows

_TIMEOUT_S = 30.0


class Answer(NamedTuple):
    """An answer, as far as it must be the same from both clusters, and its latency."""

    content: str
    """Status, and outputs or error."""
    failed: bool
    latency_ms: float


class Side(NamedTuple):
    """Answers of one cluster."""

    name: str
    errors: int
    p50_ms: float
    p99_ms: float


class Comparison(NamedTuple):
    """The same rows, answered by both clusters."""

    rows: int
    sides: tuple[Side, Side]
    differences: tuple[tuple[str, str], ...]
    """Content of the answers that differ, the first cluster's and the second's."""

    def describe(self) -> Iterator[str]:
        """Describe the result as a table, with the first difference."""
        yield f"{'cluster':<8}{'requests':>10}{'errors':>8}{'p50 ms':>9}{'p99 ms':>9}"
        for side in self.sides:
            yield f"{side.name:<8}{self.rows:>10}{side.errors:>8}{side.p50_ms:>9.1f}{side.p99_ms:>9.1f}"
        if not self.differences:
            yield f"{self.rows} of {self.rows} answers are equal, bit for bit"
            return
        yield f"{len(self.differences)} of {self.rows} answers differ; the first of them:"
        for side, content in zip(self.sides, self.differences[0], strict=True):
            yield f"  {side.name}: {content[:200]}"


def compare_clusters(
    settings: Settings, model: str, features: FeatureSet, rows: int, headers: Mapping[str, str]
) -> Comparison:
    """Send the newest rows of the prediction log through this host's door, to each cluster.

    Args:
        settings: Log and door.
        model: Name of the model; the door must reach it in both clusters.
        features: Features of the version that both serve.
        rows: Number of rows.
        headers: Headers with a credential.

    Raises:
        DataError: The log has no rows.
        RayloopError: A cluster does not answer when it is asked.
    """
    bodies = request_bodies(features, [uuid4().hex] * rows, _logged_rows(settings, model, features, rows))
    scheme, context = ("https", unverified_context()) if settings.door_certificate else ("http", None)
    host = door_host(settings)
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.serve_port}/v2/models/{model}/infer"
    with _client(context, headers) as client:
        return compare(bodies, lambda cluster, body: _ask(client, url, cluster, body))


def compare(bodies: Sequence[dict[str, Any]], ask: Callable[[str, dict[str, Any]], Answer]) -> Comparison:
    """Ask both clusters for the same, in turn.

    A difference counts if it is there again: features may change between two questions.

    Args:
        bodies: Bodies of requests.
        ask: Asks a cluster, FIRST or SECOND.
    """
    answers: dict[str, list[Answer]] = {FIRST: [], SECOND: []}
    differences = []
    for number, body in enumerate(bodies):
        # Each cluster is the first to be asked for every second row.
        order = (FIRST, SECOND) if number % 2 else (SECOND, FIRST)
        for _ in range(2):
            pair = {cluster: ask(cluster, body | {"id": uuid4().hex}) for cluster in order}
            if pair[FIRST].content == pair[SECOND].content:
                break
        else:
            differences.append((pair[FIRST].content, pair[SECOND].content))
        for cluster, answer in pair.items():
            answers[cluster].append(answer)
    return Comparison(len(bodies), (_side(FIRST, answers), _side(SECOND, answers)), tuple(differences))


def _side(name: str, answers: Mapping[str, Sequence[Answer]]) -> Side:
    latencies = [answer.latency_ms for answer in answers[name]]
    p50, p99 = np.percentile(latencies, (50, 99))
    return Side(name, sum(answer.failed for answer in answers[name]), float(p50), float(p99))


def _logged_rows(settings: Settings, model: str, features: FeatureSet, rows: int) -> pl.DataFrame:
    tables = Tables(settings)
    log = tables.latest(predictions_table(model))
    if log is None or not log.rows:
        raise DataError("data.log_empty", model=model)
    parts = tables.parts(log)[1]
    batches = (pl.DataFrame(batch) for part in parts for batch in part.read([ID, "at", "features"]))
    newest = newest_rows(batches, rows)
    requested = newest.select(pl.col("features").struct.unnest()).select(c.name for c in features.request)
    # A log that is shorter is sent again.
    return pl.concat([requested] * -(-rows // requested.height)).head(rows)


def _client(context: ssl.SSLContext | None, headers: Mapping[str, str]) -> httpx.Client:
    # The champion answers, and the rows are no evidence for a rollout.
    own = {**headers, VARIANT_HEADER: CHAMPION}
    return httpx.Client(verify=context or False, headers=own, timeout=_TIMEOUT_S, trust_env=False)


def _ask(client: httpx.Client, url: str, cluster: str, body: dict[str, Any]) -> Answer:
    began = time.perf_counter()
    try:
        answer = client.post(url, json=body, headers={CLUSTER_HEADER: cluster})
    except httpx.HTTPError as error:
        return Answer(type(error).__name__, True, (time.perf_counter() - began) * 1000)
    latency_ms = (time.perf_counter() - began) * 1000
    if answer.headers.get(CLUSTER_HEADER) != cluster:
        raise RayloopError("rayloop.move_not_reached", cluster=cluster, url=url)
    failed = answer.status_code != 200
    content = answer.json()
    seen = content.get("code") if failed else [content["model_version"], content["outputs"]]
    return Answer(f"{answer.status_code} {json.dumps(seen)}", failed, latency_ms)
