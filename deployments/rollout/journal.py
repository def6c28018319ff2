"""The rollout journal: Decision rows in Iceberg, in the order of their numbers. Clocks may step; numbers do not."""

from __future__ import annotations

import json

import pyarrow as pa
from pydantic import Field

from cluster.names import journal_table
from cluster.storage.tables import Tables
from cluster.times import epoch_microseconds
from cluster.values import Decision, Stored
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.rollout.state_machine import RolloutState, replay
from deployments.rollout_policy import RolloutPolicy

_SCHEMA = pa.schema(
    {
        "rollout": pa.string(),
        "at": TIMESTAMP,
        "action": pa.string(),
        "share": pa.float64(),
        **dict.fromkeys(("reason", "champion", "challenger", "evidence", "policy"), pa.string()),
        "schema_version": pa.int64(),
        "sequence": pa.int64(),
    }
)


class _Row(Stored, stored_as="rollout journal entry"):
    """A row of the table. A null means that the table lacked the column when the row was written."""

    rollout: str
    at: int
    """Microseconds since the epoch."""
    action: str
    share: float
    reason: str
    champion: str
    challenger: str
    evidence: str
    policy: str | None = None
    schema_version: int = Field(default=3, ge=1)
    """3 has the action "invalid". Other entries are written as 2: the release before reads a journal without it."""
    sequence: int | None = None
    """Position in the journal, from 1. Rows of 0.1 lack it: they come first, in the order of ``at``."""

    @property
    def order(self) -> tuple[int, int]:
        """Sort key of the journal."""
        return (0, self.at) if self.sequence is None else (1, self.sequence)

    @property
    def decision(self) -> Decision:
        fields = self.model_dump(include=set(Decision.model_fields))
        parsed = {"at": self.at / 1e6, "evidence": json.loads(self.evidence)}
        return Decision.model_validate(fields | parsed | {"challengers": tuple(self.challenger.split(","))})


class RolloutJournal:
    """Journal of one model's rollouts; only the controller writes.

    Args:
        model: Name of the model.
        tables: Tables of the project, with the writer's claim.
        epoch: Epoch of the claim.
    """

    def __init__(self, model: str, tables: Tables, epoch: int = 0) -> None:
        self._model = model
        self._name = journal_table(model)
        self._tables = tables
        self._epoch = epoch
        self._newest: int | None = None
        """Number of the newest entry; None while the table must be asked."""

    def record(self, decision: Decision, policy: RolloutPolicy) -> None:
        """Append an entry; one that starts a rollout contains the policy."""
        newest, self._newest = self._newest, None
        if newest is None:
            newest = max((row.sequence or 0 for row in self._rows()), default=0)
        row = _Row(
            **decision.model_dump(exclude={"at", "challengers", "evidence"}),
            at=epoch_microseconds(decision.at),
            # One column of text, as it was when a rollout had one challenger; versions are numbers.
            challenger=",".join(decision.challengers),
            evidence=json.dumps(decision.evidence),
            policy=policy.model_dump_json() if decision.action == "start" else None,
            sequence=newest + 1,
        )
        # Adds the columns that a table of an earlier release lacks.
        version = 3 if row.action == "invalid" else 2
        rows = pa.Table.from_pylist([row.model_dump() | {"schema_version": version}], _SCHEMA)
        self._tables.append(self._name, rows, key=f"{self._epoch}:{row.sequence}", evolve=True)
        self._newest = newest + 1

    def decisions(self) -> list[Decision]:
        """Return all entries, oldest first."""
        return [row.decision for row in self._rows()]

    def last_state(self) -> RolloutState | None:
        """Return the state of the newest rollout after its last entry; None before the first rollout."""
        rows = self._rows()
        starts = [i for i, row in enumerate(rows) if row.action == "start"]
        if not starts:
            return None
        newest = rows[starts[-1] :]
        return replay(self._model, [row.decision for row in newest], _read_policy(newest[0].policy or ""))

    def _rows(self) -> list[_Row]:
        if not self._tables.exists(self._name):
            return []
        rows = self._tables.read(self._name)
        times = rows.column("at").cast(pa.int64())
        counted = rows.set_column(rows.column_names.index("at"), "at", times).to_pylist()
        values = ({name: value for name, value in row.items() if value is not None} for row in counted)
        return sorted((_Row.from_stored(row) for row in values), key=lambda row: row.order)


def _read_policy(text: str) -> RolloutPolicy:
    """Read a policy. A rollout keeps the tests it began with: two kinds of bounds together would exceed alpha.

    Policies of 0.2 name neither ``alpha_parts`` nor ``copies``; theirs were equal, and none.
    """
    earlier = {"alpha_parts": "equal", "copies": 0.0}
    return RolloutPolicy.model_validate(earlier | json.loads(text), extra="ignore")
