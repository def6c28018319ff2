"""The plan of an open load, and the account of its requests: none is lost, whatever breaks.

Pure. Times are seconds of the monotonic clock, which all hosts of a network share.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import NamedTuple

from benchmarks.serving.plan import arrivals, quantile

OK = "200"


class LoadPlan(NamedTuple):
    """POST requests to ``url`` at random times (Poisson), ``rate`` per second; each may take ``timeout_s``.

    ``authority`` is the file of the certificates that the client trusts; empty without TLS.
    """

    url: str
    rate: float
    seconds: float = 600.0
    seed: int = 0
    timeout_s: float = 5.0
    body: str = "{}"
    headers: dict[str, str] = {}  # noqa: RUF012 - a default that nothing changes
    authority: str = ""
    keys: int = 0
    """With so many routing keys, requests are predictions with a key and an id each; their answers are recorded."""
    name: str = "load"
    """The beginning of these ids."""
    feedback_url: str = ""
    """Where a label goes for each answered prediction; empty: none is sent."""

    def offsets(self) -> list[float]:
        """When each request is due, in seconds after the start."""
        return arrivals(self.rate, self.seconds, self.seed)

    def prediction(self, number: int) -> tuple[str, str]:
        """Return id and routing key of a request; keys are drawn, so that none is bound to one host's requests."""
        return f"{self.name}-{number}", f"k{Random(f'{self.seed}:{number}').randrange(self.keys)}"

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> LoadPlan:
        return cls(**json.loads(text))


class Record(NamedTuple):
    """One request: due, sent and ended when, and its outcome: a status, or a kind of failure.

    Of an answered prediction also who answered what.
    """

    number: int
    due: float
    sent: float
    ended: float
    outcome: str
    version: str = ""
    variant: str = ""
    score: float | None = None

    @property
    def latency_s(self) -> float:
        """From when the request was due: a stall of the client or the server counts for all that wait."""
        return self.ended - self.due

    def to_line(self) -> str:
        return json.dumps(self)


class LabelRecord(NamedTuple):
    """The label of one prediction, sent once, and the outcome of that."""

    number: int
    value: float
    sent: float
    ended: float
    outcome: str

    def to_line(self) -> str:
        return json.dumps({"label": self})


class Account(NamedTuple):
    """What became of each planned request; ``missing`` ones have no record, because the client itself broke."""

    planned: int
    records: list[Record]
    labels: tuple[LabelRecord, ...] = ()

    @classmethod
    def of_lines(cls, plan: LoadPlan, lines: Iterable[str]) -> Account:
        """Read a client's output: a record a line, and last how many requests it sent, if it came to its end.

        Raises:
            ValueError: A request has two records, or one that was not planned has one.
        """
        values = [json.loads(line) for line in lines]
        sent = [value for value in values if isinstance(value, int)]
        records = sorted(Record(*value) for value in values if isinstance(value, list))
        planned = sent[0] if sent else len(plan.offsets())
        numbers = Counter(record.number for record in records)
        if wrong := [number for number, count in numbers.items() if count > 1 or not 0 <= number < planned]:
            raise ValueError(f"requests {wrong} have two records or no plan")
        labels = tuple(LabelRecord(*value["label"]) for value in values if isinstance(value, dict))
        return cls(planned, records, labels)

    @property
    def missing(self) -> int:
        return self.planned - len(self.records)

    @property
    def answered(self) -> dict[str, int]:
        """Number of answers by status."""
        return dict(Counter(record.outcome for record in self.records if record.outcome.isdecimal()))

    @property
    def failed(self) -> dict[str, int]:
        """Number of requests without an answer, by kind."""
        return dict(Counter(record.outcome for record in self.records if not record.outcome.isdecimal()))

    def between(self, begin: float, end: float) -> Account:
        """Return the account of the requests that were due in [begin, end)."""
        records = [record for record in self.records if begin <= record.due < end]
        return Account(len(records), records)

    def latency_s(self, share: float) -> float:
        """Return the quantile of the latencies of answers with status 200."""
        return quantile(sorted(record.latency_s for record in self.records if record.outcome == OK), share)

    def outage_s(self) -> float:
        """Return the longest time between two answers with status 200; infinite if fewer than two came."""
        ends = sorted(record.ended for record in self.records if record.outcome == OK)
        return max((later - earlier for earlier, later in itertools.pairwise(ends)), default=float("inf"))
