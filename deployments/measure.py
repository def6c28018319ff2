"""Measure: one rollout's log rows to evidence. Labels join predictions by row id, whichever comes first. Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.contracts import CHALLENGER, CHAMPION, Task
from deployments.evidence import Arm, Evidence, Moments, Paired, RolloutEvidence, losses

MAX_LABELS = 500_000
"""Labels kept to be joined. Beyond it the oldest go; those of rows that no challenger saw are never needed."""


def columns_read(task: Task) -> tuple[str, ...]:
    """The log's columns that evidence is computed from."""
    name = _scores(task.kind == "multiclass")
    always = ("id", "row", "rollout", "share", "assigned", "variant", "latency_ms", "error", "champion_error")
    return (*always, f"champion_{name}", f"challenger_{name}")


def _scores(multiclass: bool) -> str:
    return "probabilities" if multiclass else "score"


class _Pair(NamedTuple):
    share: float
    champion: float | list[float]
    challenger: float | list[float]


class RolloutLog:
    """What one rollout's evidence is computed from. The newest label of a row counts, and only it."""

    def __init__(self, rollout: str) -> None:
        self.rollout = rollout
        self._arms: dict[tuple[float, str], Arm] = defaultdict(Arm)
        self._pairs: dict[str, _Pair] = {}
        self._labels: dict[str, tuple[int, float]] = {}

    def add_predictions(self, rows: pa.Table) -> None:
        """Take in log rows (log.predictions); those of other rollouts are passed over."""
        mine = rows.filter(pc.fill_null(pc.equal(rows.column("rollout"), self.rollout), False))
        for share in pc.unique(mine.column("share")).to_pylist():
            at_share = mine.filter(pc.equal(mine.column("share"), share))
            for variant in (CHAMPION, CHALLENGER):
                dealt = at_share.filter(pc.equal(at_share.column("assigned"), variant))
                self._arms[share, variant] += _arm(dealt, variant)
        self._add_pairs(mine)

    def add_labels(self, rows: pa.Table) -> None:
        """Take in label rows (log.labels)."""
        received = rows.column("received").cast(pa.int64()).to_pylist()
        for id, label, at in zip(rows["id"].to_pylist(), rows["label"].to_pylist(), received, strict=True):
            known = self._labels.pop(id, (at, label))
            self._labels[id] = (at, label) if at >= known[0] else known
        while len(self._labels) > MAX_LABELS:
            del self._labels[next(iter(self._labels))]

    def evidence(self, task: Task) -> RolloutEvidence:
        """All that is known now, by share."""
        labelled: dict[float, list[tuple[_Pair, float]]] = defaultdict(list)
        for id, pair in self._pairs.items():
            if id in self._labels:
                labelled[pair.share].append((pair, self._labels[id][1]))
        shares = sorted({share for share, _ in self._arms})
        return RolloutEvidence(by_share={share: self._at(share, task, labelled[share]) for share in shares})

    def _at(self, share: float, task: Task, labelled: list[tuple[_Pair, float]]) -> Evidence:
        paired = Paired()
        if labelled:
            truth = np.array([label for _, label in labelled])
            champion = losses(task, np.array([pair.champion for pair, _ in labelled]), truth)
            challenger = losses(task, np.array([pair.challenger for pair, _ in labelled]), truth)
            paired = Paired.of(champion, challenger)
        return Evidence(champion=self._arms[share, CHAMPION], challenger=self._arms[share, CHALLENGER], paired=paired)

    def _add_pairs(self, rows: pa.Table) -> None:
        name = _scores("champion_probabilities" in rows.column_names)
        champion, challenger = rows.column(f"champion_{name}"), rows.column(f"challenger_{name}")
        both = rows.filter(pc.and_(champion.is_valid(), challenger.is_valid()))
        columns = [both.column(c).to_pylist() for c in ("id", "share", f"champion_{name}", f"challenger_{name}")]
        for id, share, a, b in zip(*columns, strict=True):
            self._pairs[id] = _Pair(share, a, b)


def _arm(rows: pa.Table, variant: str) -> Arm:
    """Counts of the requests dealt to one variant; the first row stands for its request."""
    firsts = rows.filter(pc.equal(rows.column("row"), 0))
    failed, champion_failed = firsts.column("error").is_valid(), firsts.column("champion_error").is_valid()
    errors = pc.and_not(failed, champion_failed) if variant == CHALLENGER else champion_failed
    answered = firsts.filter(pc.equal(firsts.column("variant"), variant))
    latency = answered.column("latency_ms").drop_null().to_numpy()
    return Arm(requests=firsts.num_rows, errors=pc.sum(errors).as_py() or 0, latency_ms=Moments.of(latency))
