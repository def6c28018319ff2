"""Simulated log rows and labels of a rollout, judged by the production verdict as they arrive. Pure, seeded.

A row has a true signal, which a variant knows up to noise. A binary label is drawn with the signal as its log-odds; a
label of a regression is the signal and noise. A challenger that is worse has more noise, one that is better has less.
Keys are assigned by the traffic split itself; some come back. Labels take a while, and some never come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pyarrow as pa

from cluster.names import CHALLENGER, CHAMPION
from cluster.values import Task
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.evidence_collector import SAMPLE_ROWS, EvidenceCollector
from deployments.analysis.validity.validity_evidence import Assignment, HeldOut, Suspects
from deployments.analysis.verdict import Verdict, judge
from deployments.protocol.arrow_columns import TIMESTAMP
from deployments.rollout_policy import RolloutPolicy
from deployments.traffic_split import find_slice

TASKS = {"classification": Task(kind="binary", label="y"), "regression": Task(kind="regression", label="y")}
NOISE: Mapping[str, float] = {"better": 0.2, "equal": 0.5, "worse": 1.0}
"""Spread of the error of a challenger's knowledge of the signal; the champion's is that of an equal one."""
LABEL_NOISE = 0.7
POSITIVES = 0.4
"""Share of positive labels before any drift."""
LABELED = 0.9
"""Share of rows whose label comes."""
RETURNING = 0.2
"""Share of requests whose key came before."""
PASS_US = 60_000_000
ROWS_OF_CHALLENGER = 20
"""Requests of the challenger between two looks, on average."""
VERSION = "2"


@dataclass
class Batch:
    """Rows that arrive together; a sabotage changes the columns in place, or keeps some of the rows."""

    ids: np.ndarray
    keys: np.ndarray
    at_us: np.ndarray
    challenger: np.ndarray
    """Whether the row is logged as the challenger's."""
    answer: np.ndarray
    champion_score: np.ndarray
    challenger_score: np.ndarray
    """NaN where the challenger did not score."""
    labels: np.ndarray
    """NaN for a label that never comes."""
    delays_us: np.ndarray
    logged: np.ndarray
    """Whether the row is in the log."""
    repeated: np.ndarray
    """Whether the row is logged twice."""
    reported: bool = False
    """Whether replicas report the rows that are not in the log."""
    extra: tuple[np.ndarray, np.ndarray] | None = None
    """Ids and values of labels that come a second time, at the end of the batch."""

    @property
    def erred(self) -> np.ndarray:
        """Rows on which the challenger's error is among its larger ones; the champion's where it did not score."""
        scores = np.where(np.isnan(self.challenger_score), self.champion_score, self.challenger_score)
        error = np.abs(np.nan_to_num(self.labels) - scores)
        return np.asarray(error > np.quantile(error, 0.7))


Sabotage = Callable[[Batch, np.random.Generator], None]


@dataclass(frozen=True)
class Plan:
    """A simulated rollout."""

    task: Task
    challenger: str
    """Key of NOISE."""
    share: float
    looks: int = 40
    sabotage: Sabotage | None = None
    drift: bool = False
    """Whether the signal shifts, and becomes harder to know for both variants, from a third of the rollout on."""

    @property
    def rows(self) -> int:
        """Requests between two looks."""
        return round(ROWS_OF_CHALLENGER / self.share)

    @property
    def policy(self) -> RolloutPolicy:
        return RolloutPolicy(steps=(self.share, 1.0), latency_quantile=None, deadline_s=1e9)


@dataclass
class _Stream:
    """Labels on their way."""

    times: list[np.ndarray] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)

    def add(self, times: np.ndarray, ids: np.ndarray, values: np.ndarray) -> None:
        sent = np.isfinite(values)
        self.times.append(times[sent])
        self.ids.append(ids[sent])
        self.values.append(values[sent])

    def arrived(self, now_us: int) -> pa.Table:
        """Take the labels that have arrived."""
        times, ids, values = (np.concatenate(part) for part in (self.times, self.ids, self.values))
        due = times <= now_us
        self.times, self.ids, self.values = [times[~due]], [ids[~due]], [values[~due]]
        order = np.argsort(times[due], kind="stable")
        received = pa.array(times[due][order].astype(np.int64)).cast(TIMESTAMP)
        return pa.table({"id": list(ids[due][order]), "label": values[due][order], "received": received})


def play(plan: Plan, seed: int) -> Verdict:
    """Judge after each batch, until the first verdict that is not to hold, or the last batch."""
    verdict = Verdict(kind="hold", reason="", figures={})
    for _, verdict in looks(plan, seed):
        if verdict.kind != "hold":
            break
    return verdict


def looks(plan: Plan, seed: int) -> Iterator[tuple[RolloutEvidence, Verdict]]:
    """Evidence and verdict after each batch."""
    chance, name = np.random.default_rng(seed), f"r{seed}"
    collector, stream = EvidenceCollector(name, (VERSION,)), _Stream()
    collector.set_history(*_history())
    shares = (POSITIVES,) if plan.task.kind == "binary" else ()
    held_out = HeldOut(squared_error=LABEL_NOISE**2 + NOISE["equal"] ** 2, class_shares=shares)
    differing = Suspects()
    for look in range(plan.looks):
        batch = _batch(plan, chance, name, look)
        scores = batch.champion_score.copy(), batch.challenger_score.copy()
        if plan.sabotage is not None:
            plan.sabotage(batch, chance)
        stream.add(batch.at_us + batch.delays_us, batch.ids, batch.labels)
        if batch.extra is not None:
            stream.add(np.full(len(batch.extra[0]), (look + 2) * PASS_US), *batch.extra)
        collector.add_predictions(_table(batch, name, plan.share))
        collector.add_labels(stream.arrived((look + 1) * PASS_US))
        collector.add_lost(_lost_requests(batch, name, plan.share))
        evidence = collector.evidence(plan.task, "loss", held_out)[VERSION]
        differing = differing.add(_differing(batch, scores))
        assert evidence.validity is not None
        checked = evidence.validity.model_copy(update={"rescored": (look + 1) * SAMPLE_ROWS, "differing": differing})
        evidence = evidence.model_copy(update={"validity": checked})
        yield evidence, judge(evidence, plan.share, 0.0, plan.policy)


@cache
def _history() -> tuple[pa.Table, pa.Table]:
    """Prediction and label log of the ten days before, whose labels came as those of a sound rollout do."""
    chance, rows = np.random.default_rng(0), 3_000
    at = np.linspace(-10 * 86_400e6, 0.0, rows)
    received, sent = at + chance.exponential(PASS_US, rows), chance.random(rows) < LABELED
    ids = np.array([f"before-{i}" for i in range(rows)], object)
    times = [pa.array(values.astype(np.int64)).cast(TIMESTAMP) for values in (at, received[sent])]
    predictions = {"id": list(ids), "at": times[0], "rollout": pa.nulls(rows, pa.string())}
    return pa.table(predictions), pa.table({"id": list(ids[sent]), "received": times[1]})


def _differing(batch: Batch, scores: tuple[np.ndarray, np.ndarray]) -> list[str]:
    """Ids of rows, of a sample that is scored again, whose logged scores are not those that the versions computed."""
    sample = np.flatnonzero(batch.logged)[:SAMPLE_ROWS]
    same = np.ones(len(sample), bool)
    for logged, computed in zip((batch.champion_score, batch.challenger_score), scores, strict=True):
        same &= np.isnan(logged[sample]) | (logged[sample] == computed[sample])
    return list(batch.ids[sample][~same])


def _lost_requests(batch: Batch, rollout: str, share: float) -> dict[Assignment, int]:
    if not batch.reported:
        return {}
    lost = ((arm, int((~batch.logged & mask).sum())) for arm, mask in
            ((CHAMPION, ~batch.challenger), (CHALLENGER, batch.challenger)))  # fmt: skip
    return {Assignment(rollout, share, 1.0 - share, arm, VERSION): count for arm, count in lost}


def _batch(plan: Plan, chance: np.random.Generator, rollout: str, look: int) -> Batch:
    rows, drifted = plan.rows, plan.drift and look >= plan.looks // 3
    first = look * rows
    numbers = np.arange(first, first + rows)
    returning = chance.random(rows) < RETURNING * (look > 0)
    numbers[returning] = chance.integers(0, max(first, 1), int(returning.sum()))
    keys = np.array([f"user-{number}" for number in numbers], object)
    challenger = np.array([find_slice(rollout, key, plan.share) is not None for key in keys])
    signal = chance.normal(-0.5 + 0.5 * drifted, 1.2, rows)
    hidden = 0.4 * drifted * chance.normal(0.0, 1.0, rows)
    ours, theirs = (signal + chance.normal(0.0, NOISE[name], rows) for name in ("equal", plan.challenger))
    if plan.task.kind == "binary":
        labels = (chance.random(rows) < _sigmoid(signal + hidden)).astype(float)
        ours, theirs = _sigmoid(ours), _sigmoid(theirs)
    else:
        labels = 10.0 + signal + hidden + chance.normal(0.0, LABEL_NOISE, rows)
        ours, theirs = 10.0 + ours, 10.0 + theirs
    labels[chance.random(rows) > LABELED] = np.nan
    return Batch(
        ids=np.array([f"q{first + i}" for i in range(rows)], object),
        keys=keys,
        at_us=look * PASS_US + np.sort(chance.integers(0, PASS_US, rows)),
        challenger=challenger,
        answer=np.where(challenger, theirs, ours),
        champion_score=ours,
        challenger_score=np.where(challenger, theirs, np.nan),
        labels=labels,
        delays_us=chance.exponential(PASS_US, rows),
        logged=np.ones(rows, bool),
        repeated=np.zeros(rows, bool),
    )


def _table(batch: Batch, rollout: str, share: float) -> pa.Table:
    index = np.flatnonzero(batch.logged)
    index = np.concatenate([index, np.flatnonzero(batch.logged & batch.repeated)])
    arm = np.where(batch.challenger[index], CHALLENGER, CHAMPION)
    count, nulls = len(index), pa.nulls(len(index), pa.string())
    return pa.table(
        {
            "id": list(batch.ids[index]),
            "row": np.zeros(count, np.int64),
            "key": list(batch.keys[index]),
            "forced": np.zeros(count, bool),
            "rollout": [rollout] * count,
            "share": np.full(count, share),
            "champion_share": np.full(count, 1.0 - share),
            "assigned": arm,
            "variant": arm,
            "error": nulls,
            "champion_error": nulls,
            "at": pa.array(batch.at_us[index]).cast(TIMESTAMP),
            "latency_ms": np.full(count, 2.0),
            "score": batch.answer[index],
            "champion_score": pa.array(batch.champion_score[index], from_pandas=True),
            "challenger_score": pa.array(batch.challenger_score[index], from_pandas=True),
        }
    )


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-values)))
