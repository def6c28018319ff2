"""Measure: one rollout's log rows to evidence. Labels join predictions by row id, whichever comes first. Pure.

Each challenger is measured on the requests that were dealt to it or to the champion: those of other challengers tell
nothing about it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.names import CHALLENGER, CHAMPION
from cluster.row_losses import Metric, row_loss
from cluster.values import Task
from deployments.analysis.evidence import Arm, Evidence, RolloutEvidence
from deployments.analysis.key_counts import Keys, key_hash
from deployments.analysis.latency_samples import Timing
from deployments.analysis.paired_moments import Paired
from deployments.analysis.paired_predictions import Label, Pair, Pairs

MAX_LABELS = 500_000
"""Labels kept to be joined. Beyond it the oldest go; those of rows that no challenger saw are never needed."""

MOMENT_US = 2_000_000
"""Requests that came within one such stretch may have failed of one cause: a stall, a start, a cut."""

_WHOLE = -1.0
"""Stands for all shares together."""


def columns_read(task: Task) -> tuple[str, ...]:
    """The log's columns that evidence is computed from; an older log may lack some of them."""
    name = _scores(task.kind == "multiclass")
    dealt = ("id", "row", "key", "forced", "rollout", "share", "assigned", "variant", "error", "champion_error")
    timed = ("at", "latency_ms", f"{CHAMPION}_latency_ms", f"{CHALLENGER}_latency_ms")
    several = ("champion_share", "challenger_version")
    return (*dealt, *timed, *several, f"{CHAMPION}_{name}", f"{CHALLENGER}_{name}")


def _scores(multiclass: bool) -> str:
    return "probabilities" if multiclass else "score"


class RolloutLog:
    """What the evidence on a rollout's challengers is computed from. The newest label of a row counts, and only it."""

    def __init__(self, rollout: str, challengers: Sequence[str]) -> None:
        self.rollout = rollout
        self._contests = {version: _Contest() for version in challengers}
        self._labels: dict[str, Label] = {}

    def add_predictions(self, rows: pa.Table) -> None:
        """Take in log rows (log.predictions); those of other rollouts, and of testers, are passed over."""
        mine = _untested(rows.filter(pc.fill_null(pc.equal(rows.column("rollout"), self.rollout), False)))
        for version, contest in self._contests.items():
            contest.add(_contested(_keyed(_against(mine, version))), self._labels)

    def add_labels(self, rows: pa.Table) -> None:
        """Take in label rows (log.labels)."""
        received = rows.column("received").cast(pa.int64()).to_pylist()
        for id, label, at in zip(rows["id"].to_pylist(), rows["label"].to_pylist(), received, strict=True):
            known = self._labels.pop(id, (at, label))
            self._labels[id] = (at, label) if at >= known[0] else known
            for contest in self._contests.values():
                contest.pairs.label(id, self._labels[id])
        while len(self._labels) > MAX_LABELS:
            del self._labels[next(iter(self._labels))]

    def evidence(self, task: Task, metric: Metric = "loss") -> dict[str, RolloutEvidence]:
        """All that is known now, by challenger, then by share and as a whole."""
        return {version: contest.evidence(task, metric) for version, contest in self._contests.items()}


class _Contest:
    """What is known of one challenger and the champion."""

    def __init__(self) -> None:
        self._arms: dict[tuple[float, str], Arm] = defaultdict(Arm)
        self._keys: dict[float, Keys] = defaultdict(Keys)
        self._moments: dict[float, Keys] = defaultdict(Keys)
        self._timing = Timing()
        self.pairs = Pairs()

    def add(self, mine: pa.Table, labels: Mapping[str, Label]) -> None:
        """Take in rows that were dealt to one of the two, with the labels that came first; shares are those of the two."""
        firsts = mine.filter(pc.equal(mine.column("row"), 0))
        for share in pc.unique(firsts.column("share")).to_pylist():
            at_share = firsts.filter(pc.equal(firsts.column("share"), share))
            for variant in (CHAMPION, CHALLENGER):
                dealt = at_share.filter(pc.equal(at_share.column("assigned"), variant))
                latency = self._timing.new(at_share, variant)
                self._arms[share, variant] += _arm(dealt, variant).model_copy(update={"latency": latency})
                self._add_clusters(share, variant, dealt)
        self._add_pairs(mine, labels)

    def evidence(self, task: Task, metric: Metric) -> RolloutEvidence:
        """By share and as a whole."""
        labelled: dict[float, list[tuple[Pair, float]]] = defaultdict(list)
        for pair, label in self.pairs.labelled():
            labelled[pair.share].append((pair, label))
        shares = sorted({share for share, _ in self._arms})
        by_share = {share: self._at(share, _paired(task, metric, labelled[share])) for share in shares}
        joined = [one for share in shares for one in labelled[share]]
        whole = sum(by_share.values(), Evidence())
        whole = self._joined(whole, _paired(task, metric, joined))
        return RolloutEvidence(by_share=by_share, whole=whole, given_up=self.pairs.given_up)

    def _at(self, share: float, paired: Paired) -> Evidence:
        champion, challenger = (self._clustered(self._arms[share, v], share, v) for v in (CHAMPION, CHALLENGER))
        return Evidence(champion=champion, challenger=challenger, paired=paired)

    def _joined(self, total: Evidence, paired: Paired) -> Evidence:
        """The sum over the shares, a key that came at several of them being one."""
        return Evidence(
            champion=self._clustered(total.champion, _WHOLE, CHAMPION),
            challenger=self._clustered(total.challenger, _WHOLE, CHALLENGER),
            paired=paired,
        )

    def _clustered(self, arm: Arm, scope: float, variant: str) -> Arm:
        keys, moments = self._keys[scope], self._moments[scope]
        found = {"keys": keys.dealt(variant), "of_key": keys.alike(variant), "of_moment": moments.alike(variant)}
        return arm.model_copy(update=found)

    def _add_clusters(self, share: float, variant: str, dealt: pa.Table) -> None:
        failed, keys = _failed(dealt, variant).to_pylist(), dealt["key"].to_pylist()
        moments = [str(at // MOMENT_US) for at in dealt["at"].cast(pa.int64()).to_pylist()]
        for scope in (share, _WHOLE):
            self._keys[scope].add(variant, zip(keys, failed, strict=True))
            self._moments[scope].add(variant, zip(moments, failed, strict=True))

    def _add_pairs(self, rows: pa.Table, labels: Mapping[str, Label]) -> None:
        name = _scores("champion_probabilities" in rows.column_names)
        champion, challenger = rows.column(f"champion_{name}"), rows.column(f"challenger_{name}")
        both = rows.filter(pc.and_(champion.is_valid(), challenger.is_valid()))
        columns = [both.column(c).to_pylist() for c in ("id", "key", "share", f"champion_{name}", f"challenger_{name}")]
        for id, key, share, a, b, at in zip(*columns, both.column("at").cast(pa.int64()).to_pylist(), strict=True):
            self.pairs.add(id, Pair(share, key_hash(key), a, b, at), labels.get(id))


def _paired(task: Task, metric: Metric, labelled: list[tuple[Pair, float]]) -> Paired:
    if not labelled:
        return Paired()
    truth = np.array([label for _, label in labelled])
    champion = row_loss(task, np.array([pair.champion for pair, _ in labelled]), truth, metric)
    challenger = row_loss(task, np.array([pair.challenger for pair, _ in labelled]), truth, metric)
    return Paired.of(champion, challenger, np.array([pair.key for pair, _ in labelled]))


def _untested(rows: pa.Table) -> pa.Table:
    """Without requests whose variant a tester forced: nobody dealt them, and they are no sample of the traffic."""
    if "forced" not in rows.column_names:
        return rows
    return rows.filter(pc.invert(pc.fill_null(rows.column("forced"), False)))


def _against(rows: pa.Table, version: str) -> pa.Table:
    """Without requests that another challenger was asked about. A log of old names none: there was one."""
    if "challenger_version" not in rows.column_names:
        return rows
    return rows.filter(pc.fill_null(pc.equal(rows.column("challenger_version"), version), True))


def _contested(rows: pa.Table) -> pa.Table:
    """With the share of the challenger in what it and the champion get; in a log of old they get all."""
    if "champion_share" not in rows.column_names:
        return rows
    share, at = rows.column("share"), rows.column_names.index("share")
    champion = pc.coalesce(rows.column("champion_share"), pc.subtract(1.0, share))
    return rows.set_column(at, "share", pc.divide(share, pc.add(share, champion)))


def _keyed(rows: pa.Table) -> pa.Table:
    """Where a log of old names no key, each row is a key of its own."""
    ids = rows.column("id")
    if "key" not in rows.column_names:
        return rows.append_column("key", ids)
    at = rows.column_names.index("key")
    return rows.set_column(at, "key", pc.coalesce(rows.column("key"), ids))


def _failed(dealt: pa.Table, variant: str) -> pa.ChunkedArray:
    return dealt.column("error" if variant == CHALLENGER else "champion_error").is_valid()


def _arm(dealt: pa.Table, variant: str) -> Arm:
    """Counts of the requests dealt to one variant, given the first row of each."""
    failed, champion_failed = _failed(dealt, variant), dealt.column("champion_error").is_valid()
    errors = pc.and_not(failed, champion_failed) if variant == CHALLENGER else failed
    return Arm(requests=dealt.num_rows, errors=pc.sum(errors).as_py() or 0, failures=pc.sum(failed).as_py() or 0)
