"""A purchase history replayed through a rollout whose labels come 90 days late: canary, promotion, verdict after it.

The clock is simulated; everything between the log and the journal is the product: policy from the label delay, traffic
split, prediction log, collector, criteria, state machine, probation. Requests score whether a customer buys again
within 90 days. The champion knows a customer's true log-odds up to noise, and so does a sound challenger, with noise of
its own. The harmful one has learned that repeat purchases are a quarter as likely as they are; its scores are close
to the champion's where purchases are rare, so no criterion of health tells. In a third kind of history, which ends ten
days after the first labels, the challenger is sound, and all labels of rows from after the promotion are inverted, as
when a pipeline changes: no version is to blame.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from statistics import median
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.results import Row, Target, row
from cluster.names import Variant
from cluster.row_losses import row_loss
from cluster.values import ModelVersion, Task
from deployments.analysis.evidence_collector import EvidenceCollector
from deployments.analysis.paired_predictions import LabelWaits
from deployments.label_delay import follow_label_delay
from deployments.rollout.multi_challenger import decide, judge_all
from deployments.rollout.probation import apply_late_verdict, judge_probation
from deployments.rollout.state_machine import RolloutState, apply_decision, begin, journal_entry, replay
from deployments.rollout_policy import DAY_S, RolloutPolicy
from deployments.serve_schema import TrafficSplit
from deployments.telemetry.prediction_log import PredictionBatch, label_rows, prediction_rows
from deployments.traffic_split import assign_variant

SEEDS, FEW_SEEDS = 20, 2
REQUESTS_PER_HOUR = 200
DELAY_S = 90 * DAY_S
MOST_DAYS = 10
HARM = 0.2
TASK = Task(kind="binary", label="bought_again")
WORK = "purchases with labels 90 days late"

_HOUR_S = 3600.0
_START_S = 1_767_225_600.0
"""2026-01-01."""
_CUSTOMERS = 50_000
_LOGIT, _SPREAD, _NOISE = -3.0, 1.0, 0.15
_CALIBRATION_ROWS, _MOST_SHIFT = 400_000, 4.0
_TIMESTAMP = pa.timestamp("us", tz="UTC")


class Outcome(NamedTuple):
    """How a rollout ended."""

    journal: tuple[str, ...]
    """Actions, without holds."""
    promoted_after_days: float
    decided_after_days: float
    """From the first label to the verdict after the promotion."""
    labeled: int
    check: str
    """Check that the labels failed last; empty for none."""


class _Request(NamedTuple):
    """A request, with what each variant would answer, and in which time, ms."""

    id: str
    key: str
    at_s: float
    champion: np.ndarray
    challenger: np.ndarray
    champion_ms: float
    challenger_ms: float


class _Drawn(NamedTuple):
    """Requests with the scores of both versions; their labels follow."""

    ids: list[str]
    champion: np.ndarray
    challenger: np.ndarray


class Purchases:
    """Requests and labels of a generated history, in the order in which they come.

    Args:
        seed: Seed of the history.
        shift: What the challenger adds to the log-odds.
        inverted: Whether labels of rows from after the promotion are inverted.
    """

    def __init__(self, seed: int, shift: float, inverted: bool) -> None:
        self._chance, self._shift, self._sent, self._inverted = np.random.default_rng(seed), shift, 0, inverted
        self._labels: list[tuple[float, dict[str, float]]] = []

    def serve(self, state: RolloutState, at_s: float) -> pa.Table:
        """Answer the requests of an hour, and remember their labels. Returns the rows of the log."""
        n, drawn, split = REQUESTS_PER_HOUR, self._draw(REQUESTS_PER_HOUR, at_s), _split(state)
        latencies = 20.0 * self._chance.lognormal(0.0, 0.3, (n, 2))
        batches = []
        for i, id in enumerate(drawn.ids):
            scores = drawn.champion[i : i + 1], drawn.challenger[i : i + 1]
            request = _Request(id, self._customer(), at_s + i * _HOUR_S / n, *scores, *latencies[i])
            batches.append(_answer(state, request, assign_variant(split, request.key) is not None))
        return prediction_rows(batches, f"replica:{at_s}")

    def sample(self, state: RolloutState, at_s: float) -> pa.Table:
        """Have the promoted version answer a day. Returns the rows of which the former champion scored copies."""
        n = int(self._chance.binomial(24 * REQUESTS_PER_HOUR, state.policy.probation_share))
        drawn = self._draw(n, at_s, inverted=self._inverted)
        promoted, former = state.answering_version, state.champion
        batch = PredictionBatch(
            requests=drawn.ids,
            keys=[self._customer() for _ in range(n)],
            forced=[False] * n,
            sizes=[1] * n,
            frame=_features(n, at_s),
            task=TASK,
            champion_version=promoted,
            version=promoted,
            assigned="champion",
            variant="champion",
            at_us=round(at_s * 1e6),
            champion_latency_ms=20.0,
            rollout=state.id,
            share=0.0,
            champion_share=1.0,
            challenger_version=former,
            champion=drawn.challenger,
            challenger=drawn.champion,
        )
        return prediction_rows([batch], f"replica:{at_s}")

    def labels_until(self, at_s: float) -> Iterator[pa.Table]:
        """Labels that have become known."""
        while self._labels and self._labels[0][0] <= at_s:
            known_s, values = self._labels.pop(0)
            times = pa.array([None] * len(values), _TIMESTAMP)
            rows = pa.table({"id": list(values), "label": list(values.values()), "time": times})
            yield label_rows(rows, round(known_s * 1e6), f"labels:{known_s}")

    def _draw(self, n: int, at_s: float, inverted: bool = False) -> _Drawn:
        """Draw requests, and remember their labels."""
        truth = self._chance.normal(_LOGIT, _SPREAD, n)
        champion, challenger = (truth + self._chance.normal(0.0, _NOISE, n) for _ in range(2))
        ids = [f"order-{self._sent + i}" for i in range(n)]
        self._sent += n
        labels = ((self._chance.random(n) < _sigmoid(truth)) != inverted).astype(float)
        self._labels.append((at_s + DELAY_S, dict(zip(ids, labels.tolist(), strict=True))))
        return _Drawn(ids, _sigmoid(champion), _sigmoid(challenger + self._shift))

    def _customer(self) -> str:
        return f"customer-{self._chance.integers(_CUSTOMERS)}"


def rows(small: bool, progress: Callable[[str], None]) -> Iterator[Row]:
    """Replay sound and harmful challengers."""
    seeds = range(FEW_SEEDS if small else SEEDS)
    for harm, inverted in ((HARM, False), (0.0, False), (0.0, True)):
        outcomes = []
        for seed in seeds:
            outcomes.append(replay_history(seed, harm, inverted))
            progress(f"{WORK}, harm {harm:.0%}, inverted {inverted}, seed {seed}: {outcomes[-1]}")
        yield from _describe_inverted(outcomes) if inverted else _describe(harm, outcomes)


def _describe(harm: float, outcomes: list[Outcome]) -> Iterator[Row]:
    promoted = sum("promote" in outcome.journal for outcome in outcomes)
    expected, name = ("rollback", "rolled back in time") if harm else ("confirm", "confirmed, none rolled back")
    ended = [outcome for outcome in outcomes if outcome.journal[-1] == expected]
    in_time = [outcome for outcome in ended if not harm or outcome.decided_after_days <= MOST_DAYS]
    kept = sum("rollback" not in outcome.journal and "promote" in outcome.journal for outcome in outcomes)
    days = sorted(outcome.decided_after_days for outcome in ended)
    note = (
        f"{promoted} promoted on health, after {median(o.promoted_after_days for o in outcomes):.2g} days (median); "
        f"{len(ended)} {name}, {median(days):.2g} days after the first labels (median; at most {max(days):.2g}), with "
        f"{median(o.labeled for o in ended):,.0f} labeled rows"
        if ended
        else f"{promoted} promoted on health, none {name}"
    )
    count, what = (len(in_time), f"rolled back within {MOST_DAYS} days") if harm else (kept, "kept")
    target = Target(of="value", sign="=", limit=len(outcomes))
    kind = f"a challenger with a harm of {harm:.0%}" if harm else "a sound challenger"
    yield row(f"{WORK}: {kind}", f"{what}, of {len(outcomes)}", float(count), target=target, note=note)


def _describe_inverted(outcomes: list[Outcome]) -> Iterator[Row]:
    expired = [outcome for outcome in outcomes if outcome.journal[-1] == "expire"]
    checks = Counter(outcome.check for outcome in outcomes)
    named = ", ".join(f"{check or 'none'} in {count}" for check, count in checks.most_common())
    note = f"{len(expired)} expired and told a person to decide; the check that failed: {named}"
    target = Target(of="value", sign="=", limit=len(outcomes))
    kind = "a sound challenger, labels inverted after the promotion"
    what = f"neither rolled back nor confirmed, of {len(outcomes)}"
    yield row(f"{WORK}: {kind}", what, float(len(expired)), target=target, note=note)


def replay_history(seed: int, harm: float, inverted: bool = False) -> Outcome:
    """Replay one history, from the start of the rollout to the verdict of labels.

    Args:
        seed: Seed of the history.
        harm: How much worse the challenger is, as a fraction of the champion's log loss.
        inverted: Whether labels of rows from after the promotion are inverted.
    """
    purchases = Purchases(seed, shift_for(harm), inverted)
    limit_s = DELAY_S + MOST_DAYS * DAY_S if inverted else None
    policy = follow_label_delay(RolloutPolicy(probation_s=limit_s), DELAY_S)
    state, now = begin(f"r{seed}", "purchases", "1", ("2",), policy, _START_S), _START_S
    journal = [journal_entry(state, "start", now, {})]
    collector = EvidenceCollector(state.id, ("2",), waits=LabelWaits(policy.label_wait_s, DELAY_S))
    while state.active:
        collector.add_predictions(purchases.serve(state, now))
        now += _HOUR_S
        evidence = collector.evidence(TASK)
        verdicts = judge_all(state, evidence, state.step_age_s(now))
        state, entry = apply_decision(state, decide(state, verdicts, evidence), now)
        journal += [entry] * (entry.action != "hold")
    promoted_s, check = now, ""
    while state.on_probation:
        collector.add_predictions(purchases.sample(state, now))
        now += DAY_S
        labels = list(purchases.labels_until(now))
        for part in labels:
            collector.add_labels(part)
        verdict = judge_probation(state, collector.evidence(TASK)["2"], now)
        check = verdict.check or check
        state, entry = apply_late_verdict(state, verdict, now)
        journal += [entry] * (entry.action != "hold")
    assert replay("purchases", journal, policy).status == state.status
    labeled = int(journal[-1].evidence.get("labelled", 0.0))
    promoted_days, decided_days = (promoted_s - _START_S) / DAY_S, (now - _START_S - DELAY_S) / DAY_S
    return Outcome(tuple(entry.action for entry in journal), promoted_days, decided_days, labeled, check)


@cache
def shift_for(harm: float) -> float:
    """What a challenger adds to the log-odds to have this harm, as a fraction of the champion's log loss."""
    chance = np.random.default_rng(0)
    truth = chance.normal(_LOGIT, _SPREAD, _CALIBRATION_ROWS)
    labels = (chance.random(_CALIBRATION_ROWS) < _sigmoid(truth)).astype(float)
    noisy = truth + chance.normal(0.0, _NOISE, _CALIBRATION_ROWS)
    loss = row_loss(TASK, _sigmoid(noisy), labels).mean()
    low, high = 0.0, _MOST_SHIFT
    for _ in range(14 if harm else 0):
        middle = (low + high) / 2.0
        worse = row_loss(TASK, _sigmoid(noisy - middle), labels).mean()
        low, high = (middle, high) if worse / loss - 1.0 < harm else (low, middle)
    return -low


def _answer(state: RolloutState, request: _Request, to_challenger: bool) -> PredictionBatch:
    variant: Variant = "challenger" if to_challenger else "champion"
    return PredictionBatch(
        requests=[request.id],
        keys=[request.key],
        forced=[False],
        sizes=[1],
        frame=_features(1, request.at_s),
        task=TASK,
        champion_version="1",
        version="2" if to_challenger else "1",
        assigned=variant,
        variant=variant,
        at_us=round(request.at_s * 1e6),
        champion_latency_ms=request.champion_ms,
        challenger_latency_ms=request.challenger_ms if to_challenger else None,
        rollout=state.id,
        share=state.share,
        champion_share=1.0 - state.share,
        challenger_version="2" if to_challenger else None,
        champion=request.champion,
        challenger=request.challenger if to_challenger else None,
    )


def _features(rows: int, at_s: float) -> pa.Table:
    return pa.table({"amount": [1.0] * rows, "as_of": pa.array([round(at_s * 1e6)] * rows, _TIMESTAMP)})


def _split(state: RolloutState) -> TrafficSplit:
    version = ModelVersion(model=state.model, version="2", run_id="r", bundle_uri="")
    return TrafficSplit(rollout=state.id, challengers=(version,), share=state.share, timeout_s=1.0)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))
