"""The rollout journal: contracts.Decision rows in Iceberg, oldest first."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from cluster.names import journal_table
from cluster.storage.tables import Tables
from cluster.values import Decision
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.rollout.state_machine import RolloutState, replay
from deployments.rollout_policy import RolloutPolicy

_SCHEMA = pa.schema(
    [
        ("rollout", pa.string()),
        ("at", TIMESTAMP),
        ("action", pa.string()),
        ("share", pa.float64()),
        ("reason", pa.string()),
        ("champion", pa.string()),
        ("challenger", pa.string()),
        ("evidence", pa.string()),
        ("policy", pa.string()),
    ]
)


class Journal:
    """Decisions of one model's rollouts. One controller writes; anybody reads."""

    def __init__(self, model: str, tables: Tables) -> None:
        self._model = model
        self._name = journal_table(model)
        self._tables = tables

    def record(self, decision: Decision, policy: RolloutPolicy) -> None:
        """Append an entry. The policy goes with the entry that starts a rollout."""
        row = decision.model_dump()
        row["at"] = round(decision.at * 1e6)
        # One column of text, as it was when a rollout had one challenger; versions are numbers.
        row["challenger"] = ",".join(row.pop("challengers"))
        row["evidence"] = json.dumps(decision.evidence)
        row["policy"] = policy.model_dump_json() if decision.action == "start" else None
        self._tables.append(self._name, pa.Table.from_pylist([row], _SCHEMA))

    def decisions(self) -> list[Decision]:
        """All entries, oldest first."""
        return [_decision(row) for row in self._rows()]

    def last(self) -> RolloutState | None:
        """The newest rollout as its entries leave it."""
        rows = self._rows()
        started = [i for i, row in enumerate(rows) if row["action"] == "start"]
        if not started:
            return None
        newest = rows[started[-1] :]
        policy = RolloutPolicy.model_validate_json(newest[0]["policy"])
        return replay(self._model, [_decision(row) for row in newest], policy)

    def _rows(self) -> list[dict[str, Any]]:
        if not self._tables.exists(self._name):
            return []
        rows = self._tables.read(self._name)
        moments = rows.column("at").cast(pa.int64())
        timed = rows.set_column(rows.column_names.index("at"), "at", moments).sort_by("at")
        return list(timed.to_pylist())


def _decision(row: dict[str, Any]) -> Decision:
    fields = {name: row[name] for name in Decision.model_fields if name in row}
    read = {"at": row["at"] / 1e6, "evidence": json.loads(row["evidence"])}
    return Decision.model_validate(fields | read | {"challengers": tuple(row["challenger"].split(","))})
