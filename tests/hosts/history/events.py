"""What clients saw of a cluster, what its stores hold at the end, and which faults there were. Pure.

Times are seconds of the monotonic clock, which all hosts of a network share. The wall clock, which faults step, is no
part of a history: the order of the journal and of commits is that in which the tables have them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

OK = "200"


class Request(NamedTuple):
    """A prediction of one row that a client asked for, under an id that no other request has."""

    id: str
    key: str
    """Routing key."""
    host: str
    """Whose door it was sent to."""
    sent: float
    ended: float
    outcome: str
    """Status of the answer, or why there is none."""
    version: str = ""
    variant: str = ""
    """Variant that answered; empty without an answer."""
    score: float | None = None


class Label(NamedTuple):
    """A label that a client sent, once, for a row of its own."""

    id: str
    """Row id: of a request with one row, the request's."""
    value: float
    host: str
    sent: float
    ended: float
    outcome: str


class Order(NamedTuple):
    """A person's order to a rollout."""

    action: str
    """"abort" or "promote"."""
    reason: str
    """No other order has it."""
    rollout: str
    sent: float
    ended: float
    acknowledged: bool
    """Whether the command succeeded; if not, it may have taken effect all the same."""


class Entry(NamedTuple):
    """An entry of the rollout journal."""

    sequence: int
    epoch: int
    """Of the controller that wrote it."""
    rollout: str
    action: str
    share: float
    champion: str
    challengers: tuple[str, ...]
    reason: str
    at_gate: bool = False
    """Of a pause: whether a gate caused it."""
    steps: tuple[float, ...] = ()
    """The policy's, of a start."""
    gates: tuple[float, ...] = ()


class PredictionRow(NamedTuple):
    """A row of the prediction log."""

    id: str
    batch: str
    key: str
    rollout: str | None
    share: float
    """Of each challenger; 0 without a rollout."""
    forced: bool
    assigned: str
    """Variant by the split."""
    variant: str
    """Variant that answered."""
    version: str
    challenger: str | None
    """Version that the challenger's share went to."""
    error: str | None
    """Why the challenger failed."""
    score: float | None


class LabelRow(NamedTuple):
    """A row of the label log."""

    id: str
    batch: str
    value: float


class Commit(NamedTuple):
    """A commit of a table that has one writer at a time."""

    table: str
    writer: str
    epoch: int
    key: str


class Fault(NamedTuple):
    """A fault, and when it began and was over: services that had to be started again included."""

    kind: str
    host: str
    began: float
    ended: float


class History(NamedTuple):
    """All of it. Journal and commits are in the order in which the tables got them."""

    requests: tuple[Request, ...] = ()
    labels: tuple[Label, ...] = ()
    orders: tuple[Order, ...] = ()
    journal: tuple[Entry, ...] = ()
    commits: tuple[Commit, ...] = ()
    aliases: Mapping[str, str] = {}
    """Version by alias."""
    rows: tuple[PredictionRow, ...] = ()
    label_rows: tuple[LabelRow, ...] = ()
    lost_predictions: int = 0
    """Rows that the cluster counts as lost."""
    lost_labels: int = 0
    faults: tuple[Fault, ...] = ()
    hosts: tuple[str, ...] = ()
    """Hosts that answer requests when all is well."""
    first_champion: str = ""
    """The version that was served before the journal's first entry."""

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> History:
        """Read a history that ``to_json`` wrote."""
        values: dict[str, Any] = json.loads(text)
        for name, kind in _EVENTS.items():
            values[name] = tuple(kind(*map(_tuples, event)) for event in values[name])
        return cls(**values | {"hosts": tuple(values["hosts"])})


_EVENTS: dict[str, Any] = {
    "requests": Request,
    "labels": Label,
    "orders": Order,
    "journal": Entry,
    "commits": Commit,
    "rows": PredictionRow,
    "label_rows": LabelRow,
    "faults": Fault,
}


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
