"""``rayloop trace``: from one prediction to everything that led to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.errors import DataError
from cluster.names import predictions_table
from cluster.registry import Registry
from cluster.settings import Settings
from cluster.storage.tables import Tables
from features.attributions.explanation import RowExplanation

_TAGS = (("snapshot", "rayloop.snapshot"), ("features", "rayloop.features"), ("code", "rayloop.code"))


def show_trace(settings: Settings, model: str, request: str, print_line: Callable[[str], None]) -> None:
    """Print a request's answer with its features, and the version, run, snapshot and code behind it.

    Raises:
        DataError: The prediction log has no such request.
    """
    rows = Tables(settings).read(predictions_table(model), where=("request", request))
    if not rows.num_rows:
        raise DataError("data.request_not_logged", model=model, request=request)
    for row in rows.to_pylist():
        for line in describe_answer(row):
            print_line(line)
    registry = Registry(settings)
    for number in sorted(set(rows["version"].to_pylist())):
        version = registry.version(model, number)
        print_line(f"version   {version}")
        print_line(f"run       {settings.mlflow_server}/#/runs/{version.run_id}")
        for label, tag in _TAGS:
            print_line(f"{label:<9} {version.tags.get(tag, 'unknown')}")
        print_line(f"bundle    {version.bundle_uri}")


def describe_answer(row: dict[str, Any]) -> list[str]:
    """Describe a row of the prediction log: request, answer, fallback, copy and stored reasons if any, features."""
    lines = [f"request   {row['id']}, answered {row['at']:%Y-%m-%d %H:%M:%S} UTC, features as of {row['as_of']}"]
    score = row.get("score") if row.get("score") is not None else row.get("probabilities")
    if row["latency_ms"] is None:
        lines.append(f"answer    none, HTTP 500: v{row['version']} failed: {row['champion_error']}")
    else:
        lines.append(f"answer    {score} by the {row['variant']}, v{row['version']}, in {row['latency_ms']:.2f} ms")
    if row.get("copied") and row["challenger_version"]:
        lines.append(f"copy      {row['copied']} by challenger v{row['challenger_version']}{_copy_result(row)}")
    elif row.get("error"):
        lines.append(f"fallback  challenger v{row['challenger_version']} failed: {row['error']}")
    lines += _stored_reasons(row)
    return lines + [f"  {name} = {value}" for name, value in (row["features"] or {}).items()]


def _stored_reasons(row: dict[str, Any]) -> list[str]:
    """A line for each reason of a stored explanation."""
    if not row.get("explanation"):
        return []
    explanation = RowExplanation.from_stored(row["explanation"])
    return [f"reason    {one.text} ({one.contribution:+.3g} {explanation.unit})" for one in explanation.reasons]


def _copy_result(row: dict[str, Any]) -> str:
    """The score of a copy, or why it has none."""
    score = (
        row.get("challenger_score") if row.get("challenger_score") is not None else row.get("challenger_probabilities")
    )
    return f": {row['error']}" if score is None else f": {score}"
