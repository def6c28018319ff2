"""Read from the stores what a history needs: ``python -m tests.hosts.store_reader MODEL PREFIX`` prints it as JSON."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc

from cluster.names import (
    CHALLENGER,
    CHAMPION,
    journal_table,
    labels_table,
    lost_rows_table,
    predictions_table,
    rollout_actor,
)
from cluster.registry import Registry
from cluster.settings import load_settings
from cluster.storage.tables import Tables
from deployments.rollout_policy import RolloutPolicy
from tests.hosts.history.events import Commit, Entry, History, LabelRow, PredictionRow

_KEY = "rayloop.key"


def read_stores(model: str, tables: Tables, registry: Registry, prefix: str = "") -> History:
    """Return the part of a history that the stores hold; requests, labels, orders and faults are its clients'.

    Args:
        model: Name of the model.
        tables: Tables of its project.
        registry: Registry of its versions.
        prefix: Of the log, only rows of ids that begin so.
    """
    journal = tuple(_journal(model, tables))
    aliases = {alias: registry.version_by_alias(model, alias) for alias in (CHAMPION, CHALLENGER)}
    versions = {alias: version.version for alias, version in aliases.items() if version is not None}
    lost = _rows(tables, lost_rows_table(model))
    return History(
        journal=journal,
        commits=tuple(_commits(model, tables)),
        aliases=versions,
        rows=tuple(map(_prediction, _rows(tables, predictions_table(model), prefix))),
        label_rows=tuple(LabelRow(r["id"], r["batch"], r["label"]) for r in _rows(tables, labels_table(model), prefix)),
        lost_predictions=sum(row["predictions"] for row in lost),
        lost_labels=sum(row["labels"] for row in lost),
        first_champion=journal[0].champion if journal else versions.get(CHAMPION, ""),
    )


def _rows(tables: Tables, name: str, prefix: str = "") -> list[dict[str, Any]]:
    if not tables.exists(name):
        return []
    rows = tables.read(name)
    return list((rows.filter(pc.starts_with(rows["id"], prefix)) if prefix else rows).to_pylist())


def _keys(tables: Tables, name: str) -> Iterator[str]:
    """Keys of the table's appends, in the order of their commits."""
    if tables.exists(name):
        for snapshot in tables.load(name).snapshots():
            properties = snapshot.summary.additional_properties if snapshot.summary else {}
            if _KEY in properties:
                yield properties[_KEY]


def _commits(model: str, tables: Tables) -> Iterator[Commit]:
    for key in _keys(tables, journal_table(model)):
        yield Commit("journal", rollout_actor(model), int(key.partition(":")[0]), key)
    for table in (predictions_table(model), labels_table(model)):
        for key in _keys(tables, table):
            writer, epoch, _ = key.rsplit(":", 2)
            yield Commit(table, writer, int(epoch), key)


def _journal(model: str, tables: Tables) -> Iterator[Entry]:
    """Entries in the order of their commits; one that no commit explains comes last, and has no epoch."""
    rows = defaultdict(list)
    for row in _rows(tables, journal_table(model)):
        rows[row["sequence"]].append(row)
    for key in _keys(tables, journal_table(model)):
        epoch, number = map(int, key.split(":"))
        if rows[number]:
            yield _entry(rows[number].pop(0), epoch)
    for row in (row for left in rows.values() for row in left):
        yield _entry(row, 0)


def _entry(row: dict[str, Any], epoch: int) -> Entry:
    policy = RolloutPolicy.model_validate_json(row["policy"], extra="ignore") if row["policy"] else None
    return Entry(
        sequence=row["sequence"],
        epoch=epoch,
        rollout=row["rollout"],
        action=row["action"],
        share=row["share"],
        champion=row["champion"],
        challengers=tuple(row["challenger"].split(",")),
        reason=row["reason"],
        at_gate="gate" in json.loads(row["evidence"]),
        steps=policy.steps if policy else (),
        gates=policy.gates if policy else (),
    )


def _prediction(row: dict[str, Any]) -> PredictionRow:
    return PredictionRow(
        id=row["id"],
        batch=row["batch"],
        key=row["key"],
        rollout=row["rollout"],
        share=row["share"] or 0.0,
        forced=row["forced"],
        assigned=row["assigned"],
        variant=row["variant"],
        version=row["version"],
        challenger=row["challenger_version"],
        error=row["error"],
        score=row["score"],
    )


if __name__ == "__main__":
    stores = load_settings()
    print(read_stores(sys.argv[1], Tables(stores), Registry(stores), sys.argv[2]).to_json())
