"""Computes evidence from one rollout's log rows. Labels join predictions by row id, in either order of arrival. Pure.

Each challenger is measured on the requests that were assigned to it or to the champion: those of other challengers say
nothing about it. A request of the champion, of which it scored a copy, counts for its losses and errors; for the split,
for latency, and for the comparison of errors with the champion's, it is the champion's alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.names import CHALLENGER, CHAMPION
from cluster.row_losses import Metric, row_loss
from cluster.values import Task
from deployments.analysis.clipped_differences import ClippedDifferences
from deployments.analysis.evidence import ComparisonEvidence, RolloutEvidence, VariantStats
from deployments.analysis.group_decisions import (
    FEATURES,
    GroupDecisions,
    count_decisions,
    group_rows,
    limit_columns,
)
from deployments.analysis.key_counts import KeyCounter, key_hash
from deployments.analysis.latency_samples import LatencyCollector
from deployments.analysis.paired_moments import PairedMoments
from deployments.analysis.paired_predictions import (
    UNKNOWN_DELAY,
    Label,
    LabelWaits,
    PairedPrediction,
    PairedPredictions,
)
from deployments.analysis.predicted_moments import PredictedMoments
from deployments.analysis.score_agreement import ScoreAgreement
from deployments.analysis.scored_rows import ScoredRows
from deployments.analysis.validity.label_history import label_history
from deployments.analysis.validity.labeled_sample import score_column
from deployments.analysis.validity.validity_collector import SeenKeys, ValidityCollector
from deployments.analysis.validity.validity_evidence import NOTHING_HELD_OUT, Assignment, HeldOut
from deployments.traffic_split import slice_start
from features.disparity import DisparityLimit

MAX_LABELS = 500_000
"""Labels kept for the join; beyond it the oldest are dropped."""

REPLAY_ROWS = 20_000
"""Rows of the tables that are added between two parts of the labels."""

SAMPLE_ROWS, SAMPLE_ROWS_OF_BATCH = 64, 8
"""Rows that wait to be scored again: at most, and of one batch."""

TIME_BUCKET_US = 2_000_000
"""Microseconds. Requests within one bucket may have failed of one cause: a stall, a restart, a lost connection."""

_ALL_SHARES = -1.0
"""Key of the totals over all shares."""

_COPIES = "copies"
"""In place of a variant: in the statistics, copies; in the clusters, all requests that the challenger scored."""


def evidence_columns(task: Task, group_columns: Sequence[str] = ()) -> tuple[str, ...]:
    """Columns of the prediction log that evidence is computed from; an older log may lack some of them.

    Args:
        task: Task of the model.
        group_columns: Logged features whose values are groups.
    """
    name = "probabilities" if task.kind == "multiclass" else "score"
    assigned = ("id", "row", "key", "forced", "rollout", "share", "assigned", "variant", "error", "champion_error")
    timed = ("at", "latency_ms", f"{CHAMPION}_latency_ms", f"{CHALLENGER}_latency_ms")
    several = ("champion_share", "challenger_version", "version", "copied")
    groups = [f"{FEATURES}.{column}" for column in group_columns]
    return (*assigned, *timed, *several, name, f"{CHAMPION}_{name}", f"{CHALLENGER}_{name}", *groups)


class EvidenceCollector:
    """Collects log rows and labels of one rollout into evidence. Only the newest label of a row counts.

    Args:
        rollout: Id of the rollout.
        challengers: Versions that it started with.
        since_us: Rows from before this time are set aside, microseconds since the epoch.
        waits: How long rows wait for their labels.
        limits: Limits of differences between groups.
    """

    def __init__(
        self,
        rollout: str,
        challengers: Sequence[str],
        since_us: int = 0,
        waits: LabelWaits = UNKNOWN_DELAY,
        limits: tuple[DisparityLimit, ...] = (),
    ) -> None:
        self.rollout, self.since_us, self.group_columns = rollout, since_us, limit_columns(limits)
        self._seen_keys = SeenKeys()
        self._sample: list[pa.Table] = []
        starts = [slice_start(index, len(challengers)) for index in range(len(challengers))]
        self._collectors = {
            version: _PairwiseCollector(version, ValidityCollector(rollout, start), waits, limits)
            for version, start in zip(challengers, starts, strict=True)
        }
        self._labels: dict[str, Label] = {}

    def add_predictions(self, rows: pa.Table) -> None:
        """Add rows of the prediction log; rows of other rollouts and of testers are ignored."""
        rollout_rows = _without_forced(rows.filter(pc.fill_null(pc.equal(rows.column("rollout"), self.rollout), False)))
        if self.since_us:
            at_us = rollout_rows.column("at").cast(pa.int64())
            rollout_rows = rollout_rows.filter(pc.greater_equal(at_us, self.since_us))
        canary, probation = _divide(rollout_rows, list(self._collectors))
        self._keep_sample(canary)
        for version, collector in self._collectors.items():
            collector.validity.check_assignment(_for_challenger(canary, version))
        keyed = self._seen_keys.mark_first(_with_keys(canary))
        for version, collector in self._collectors.items():
            collector.add(_pairwise_shares(_for_challenger(keyed, version)), self._labels)
            if probation.num_rows:
                answered = probation.filter(pc.equal(probation.column("version"), version))
                collector.add_probation(_with_keys(answered), self._labels)

    def add_labels(self, rows: pa.Table) -> None:
        """Add rows of the label log."""
        received = rows.column("received").cast(pa.int64()).to_pylist()
        for id, label, at in zip(rows["id"].to_pylist(), rows["label"].to_pylist(), received, strict=True):
            known = self._labels.pop(id, (at, label))
            self._labels[id] = (at, label) if at >= known[0] else known
            for collector in self._collectors.values():
                collector.pairs.add_label(id, self._labels[id])
        newest = {id: self._labels[id] for id in rows["id"].to_pylist()}
        for collector in self._collectors.values():
            collector.validity.add_labels(list(newest.items()))
        while len(self._labels) > MAX_LABELS:
            del self._labels[next(iter(self._labels))]

    def add_log(self, predictions: pa.Table, labels: pa.Table) -> None:
        """Add what the tables have in the order in which it came: which rows still wait depends on it."""
        rows, labels, start = predictions.sort_by("at"), labels.sort_by("received"), 0
        received = labels.column("received").to_numpy()
        for part in (rows.slice(first, REPLAY_ROWS) for first in range(0, rows.num_rows, REPLAY_ROWS)):
            end = int(np.searchsorted(received, part["at"].to_numpy()[0], side="right"))
            self.add_labels(labels.slice(start, end - start))
            self.add_predictions(part)
            start = end
        self.add_labels(labels.slice(start))

    def set_history(self, predictions: pa.Table, labels: pa.Table) -> None:
        """Compute how labels came before the rollout, from the rows of both logs."""
        mine = pc.fill_null(pc.equal(predictions.column("rollout"), self.rollout), False)
        begin = pc.min(predictions.filter(mine).column("at"))
        before = predictions.filter(pc.less(predictions.column("at"), begin) if begin.is_valid else pc.invert(mine))
        history = label_history(before, labels)
        for collector in self._collectors.values():
            collector.validity.history = history

    def take_sample(self) -> pa.Table | None:
        """Take the rows that were kept to be scored again, with their features; None without any."""
        sample, self._sample = self._sample, []
        return pa.concat_tables(sample) if sample else None

    def add_lost(self, requests: Mapping[Assignment, int]) -> None:
        """Count requests that were answered and not logged."""
        for assignment, count in requests.items():
            for version, collector in self._collectors.items():
                mine = assignment.assigned == CHAMPION or assignment.challenger_version == version
                if assignment.rollout == self.rollout and mine:
                    collector.validity.add_lost(assignment, count)

    def _keep_sample(self, rows: pa.Table) -> None:
        """Keep the first rows of a batch, as it comes from a replica; rows of the tables come without features."""
        room = SAMPLE_ROWS - sum(table.num_rows for table in self._sample)
        if rows.num_rows and room > 0 and "features" in rows.column_names:
            self._sample.append(rows.slice(0, min(room, SAMPLE_ROWS_OF_BATCH)))

    def evidence(
        self, task: Task, metric: Metric = "loss", held_out: HeldOut = NOTHING_HELD_OUT
    ) -> dict[str, RolloutEvidence]:
        """Evidence so far, by challenger.

        Args:
            task: Task of the model.
            metric: Cost of a prediction.
            held_out: The champion's figures on held-out rows.
        """
        return {version: collector.evidence(task, metric, held_out) for version, collector in self._collectors.items()}


class _PairwiseCollector:
    """Statistics of one challenger and the champion."""

    def __init__(
        self, version: str, validity: ValidityCollector, waits: LabelWaits, limits: tuple[DisparityLimit, ...]
    ) -> None:
        self._version, self.validity = version, validity
        self._limits, self._columns = limits, limit_columns(limits)
        self._stats: dict[tuple[float, str], VariantStats] = defaultdict(VariantStats)
        self._keys: dict[tuple[float, bool], KeyCounter] = defaultdict(KeyCounter)
        self._time_buckets: dict[tuple[float, bool], KeyCounter] = defaultdict(KeyCounter)
        self._latency = LatencyCollector()
        self._scored = ScoredRows()
        self.pairs = PairedPredictions(waits)

    def add(self, rollout_rows: pa.Table, labels: Mapping[str, Label]) -> None:
        """Add rows that were assigned to one of the two, and the labels that arrived before them."""
        firsts = rollout_rows.filter(pc.equal(rollout_rows.column("row"), 0))
        for share in pc.unique(firsts.column("share")).to_pylist():
            at_share = firsts.filter(pc.equal(firsts.column("share"), share))
            assigned = {v: at_share.filter(pc.equal(at_share.column("assigned"), v)) for v in (CHAMPION, CHALLENGER)}
            for variant, rows in assigned.items():
                latency = self._latency.collect(at_share, variant)
                self._stats[share, variant] += _variant_stats(rows, variant).model_copy(update={"latency": latency})
                self._add_clusters(share, variant, rows, _failure_mask(rows, variant))
            copies = _copies(_scored_by(at_share, self._version))
            self._stats[share, _COPIES] += _copy_stats(copies)
            scored = pa.concat_tables([assigned[CHALLENGER], copies])
            failed = pc.and_(_failure_mask(scored, CHALLENGER), pc.invert(_is_unanswered(scored)))
            self._add_clusters(share, _COPIES, scored, failed)
        self._add_pairs(_scored_by(rollout_rows, self._version), labels)
        self.validity.add(_own_scores(rollout_rows, self._version), labels)

    def add_probation(self, rows: pa.Table, labels: Mapping[str, Label]) -> None:
        """Add rows that this version answered after its promotion, and the former champion scored, too."""
        self._stats[1.0, CHALLENGER] += VariantStats()
        exchanged = _as_challenger(rows)
        self._add_pairs(exchanged, labels, compare_scores=False)
        self.validity.add_probation(exchanged, labels)

    def evidence(self, task: Task, metric: Metric, held_out: HeldOut) -> RolloutEvidence:
        labeled: dict[float, list[tuple[PairedPrediction, float]]] = defaultdict(list)
        for pair, label in self.pairs.labeled_pairs():
            labeled[pair.share].append((pair, label))
        shares = sorted({share for share, _ in self._stats})
        by_share = {}
        for share in shares:
            stats = ComparisonEvidence(
                champion=self._stats[share, CHAMPION],
                challenger=self._stats[share, CHALLENGER],
                copies=self._stats[share, _COPIES],
            )
            losses = _compare_losses(task, metric, labeled[share], self._scored.agreement(task, metric, share))
            losses = losses.model_copy(update={"groups": self._group_decisions(task, labeled[share], share)})
            by_share[share] = self._complete(stats, share, losses)
        joined = [pair for share in shares for pair in labeled[share]]
        # In the sum over the shares, each key that occurred at several of them counts once.
        total = sum(by_share.values(), ComparisonEvidence())
        losses = _compare_losses(task, metric, joined, self._scored.agreement(task, metric))
        losses = losses.model_copy(update={"groups": self._group_decisions(task, joined)})
        overall = self._complete(total, _ALL_SHARES, losses)
        return RolloutEvidence(
            by_share=by_share,
            overall=overall,
            expired_rows=self.pairs.expired_rows,
            validity=self.validity.evidence(task, held_out),
            late_validity=self.validity.late_evidence(task, held_out),
        )

    def _group_decisions(
        self, task: Task, labeled: Sequence[tuple[PairedPrediction, float]], share: float | None = None
    ) -> GroupDecisions:
        """Decisions by group: on labeled rows for rates that need labels, else on the first rows that both scored."""
        if not self._limits:
            return GroupDecisions()
        of_all = tuple(limit for limit in self._limits if limit.rate == "positive")
        of_labeled = [limit for limit in self._limits if limit.rate != "positive"]
        pairs, labels = [pair for pair, _ in labeled], np.array([label for _, label in labeled])
        unlabeled = self._scored.decisions(of_all, self._columns, task, share)
        return unlabeled + count_decisions(of_labeled, self._columns, task, pairs, labels)

    def _complete(self, total: ComparisonEvidence, scope: float, losses: ComparisonEvidence) -> ComparisonEvidence:
        challenger = self._with_clusters(total.challenger, scope, CHALLENGER)
        scored = self._with_clusters(total.copies, scope, _COPIES)
        added = {
            "keys": 0,
            "key_clusters": scored.key_clusters.less(challenger.key_clusters),
            "time_clusters": scored.time_clusters.less(challenger.time_clusters),
        }
        variants = {
            "champion": self._with_clusters(total.champion, scope, CHAMPION),
            "challenger": challenger,
            "copies": scored.model_copy(update=added),
        }
        return losses.model_copy(update=variants)

    def _with_clusters(self, stats: VariantStats, scope: float, variant: str) -> VariantStats:
        keys, moments = self._counters(scope, variant)
        clusters = {
            "keys": keys.key_count(variant),
            "key_clusters": keys.cluster_stats(variant),
            "time_clusters": moments.cluster_stats(variant),
        }
        return stats.model_copy(update=clusters)

    def _add_clusters(self, share: float, variant: str, rows: pa.Table, failures: pa.ChunkedArray) -> None:
        failed, keys = failures.to_pylist(), rows["key"].to_pylist()
        moments = [str(at // TIME_BUCKET_US) for at in rows["at"].cast(pa.int64()).to_pylist()]
        for scope in (share, _ALL_SHARES):
            of_keys, of_moments = self._counters(scope, variant)
            of_keys.add(variant, zip(keys, failed, strict=True))
            of_moments.add(variant, zip(moments, failed, strict=True))

    def _counters(self, scope: float, variant: str) -> tuple[KeyCounter, KeyCounter]:
        """Those of keys and of time buckets; copies have their own, which take no places from the split's keys."""
        copies = variant == _COPIES
        return self._keys[scope, copies], self._time_buckets[scope, copies]

    def _add_pairs(self, rows: pa.Table, labels: Mapping[str, Label], compare_scores: bool = True) -> None:
        name = score_column(rows)
        champion, challenger = rows.column(f"champion_{name}"), rows.column(f"challenger_{name}")
        both = rows.filter(pc.and_(champion.is_valid(), challenger.is_valid()))
        columns = [both.column(c).to_pylist() for c in ("id", "key", "share", f"champion_{name}", f"challenger_{name}")]
        columns += [both.column("at").cast(pa.int64()).to_pylist(), group_rows(both, self._columns)]
        for id, key, share, a, b, at, groups in zip(*columns, strict=True):
            pair = PairedPrediction(share, key_hash(key), a, b, at, groups)
            self.pairs.add(id, pair, labels.get(id))
            if compare_scores:
                self._scored.add(pair)


def _compare_losses(
    task: Task, metric: Metric, labeled: list[tuple[PairedPrediction, float]], agreement: ScoreAgreement
) -> ComparisonEvidence:
    if not labeled:
        return ComparisonEvidence(agreement=agreement)
    truth, keys = np.array([label for _, label in labeled]), np.array([pair.key for pair, _ in labeled])
    scores = [np.array([pair.champion for pair, _ in labeled]), np.array([pair.challenger for pair, _ in labeled])]
    champion, challenger = (row_loss(task, of_variant, truth, metric) for of_variant in scores)
    return ComparisonEvidence(
        paired=PairedMoments.from_losses(champion, challenger, keys),
        predicted=PredictedMoments.from_scores(task, scores[0], scores[1], metric),
        early=ClippedDifferences.from_losses(task, champion, challenger, metric),
        agreement=agreement,
    )


def _without_forced(rows: pa.Table) -> pa.Table:
    """Drop requests whose variant a tester forced: the split did not assign them."""
    if "forced" not in rows.column_names:
        return rows
    return rows.filter(pc.invert(pc.fill_null(rows.column("forced"), False)))


def _divide(rows: pa.Table, challengers: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Rows of the rollout itself, and those of a probation: copies of these went to the former champion."""
    if "challenger_version" not in rows.column_names or "version" not in rows.column_names:
        return rows, rows.slice(0, 0)
    scored_by = rows.column("challenger_version")
    former = pc.and_(scored_by.is_valid(), pc.invert(pc.is_in(scored_by, pa.array(challengers, scored_by.type))))
    return rows.filter(pc.invert(former)), rows.filter(former)


def _as_challenger(rows: pa.Table) -> pa.Table:
    """Exchange the variants of a probation's rows: in the comparison, the promoted version is still the challenger."""
    name = score_column(rows)
    exchanged = {f"{CHAMPION}_{name}": f"{CHALLENGER}_{name}", f"{CHALLENGER}_{name}": f"{CHAMPION}_{name}"}
    renamed = rows.rename_columns([exchanged.get(column, column) for column in rows.column_names])
    share = pa.array([1.0] * rows.num_rows, pa.float64())
    return renamed.set_column(renamed.column_names.index("share"), "share", share)


def _for_challenger(rows: pa.Table, version: str) -> pa.Table:
    """Drop requests that were assigned to another challenger."""
    if "challenger_version" not in rows.column_names:
        return rows
    own = pc.fill_null(pc.equal(rows.column("challenger_version"), version), True)
    return rows.filter(pc.or_(own, pc.equal(rows.column("assigned"), CHAMPION)))


def _scored_by(rows: pa.Table, version: str) -> pa.Table:
    """Drop requests that another challenger scored. A log from before rollouts with several challengers names none."""
    if "challenger_version" not in rows.column_names:
        return rows
    return rows.filter(pc.fill_null(pc.equal(rows.column("challenger_version"), version), True))


def _own_scores(rows: pa.Table, version: str) -> pa.Table:
    """Drop the scores, not the rows, of another challenger that was sent copies of the champion's requests."""
    if "challenger_version" not in rows.column_names:
        return rows
    own = pc.fill_null(pc.equal(rows.column("challenger_version"), version), True)
    name = f"{CHALLENGER}_{score_column(rows)}"
    scores = rows.column(name)
    masked = pc.if_else(own, scores, pa.scalar(None, scores.type))
    return rows.set_column(rows.column_names.index(name), name, masked)


def _copies(rows: pa.Table) -> pa.Table:
    """Requests of which the challenger was sent a copy. A log from before copies has none."""
    if "copied" not in rows.column_names:
        return rows.slice(0, 0)
    return rows.filter(pc.is_in(rows.column("copied"), pa.array(["scored", "failed", "unanswered"])))


def _pairwise_shares(rows: pa.Table) -> pa.Table:
    """Replace shares with pairwise shares; in an older log without champion shares, the two get all requests."""
    if "champion_share" not in rows.column_names:
        return rows
    share, at = rows.column("share"), rows.column_names.index("share")
    champion = pc.coalesce(rows.column("champion_share"), pc.subtract(1.0, share))
    return rows.set_column(at, "share", pc.divide(share, pc.add(share, champion)))


def _with_keys(rows: pa.Table) -> pa.Table:
    """Use the row id as key where an old log has no routing key."""
    ids = rows.column("id")
    if "key" not in rows.column_names:
        return rows.append_column("key", ids)
    return rows.set_column(rows.column_names.index("key"), "key", pc.coalesce(rows.column("key"), ids))


def _failure_mask(assigned: pa.Table, variant: str) -> pa.ChunkedArray:
    return assigned.column("error" if variant == CHALLENGER else "champion_error").is_valid()


def _variant_stats(assigned: pa.Table, variant: str) -> VariantStats:
    """Counts of the requests assigned to one variant, given the first row of each."""
    failed, champion_failed = _failure_mask(assigned, variant), assigned.column("champion_error").is_valid()
    errors = pc.and_not(failed, champion_failed) if variant == CHALLENGER else failed
    return VariantStats(
        requests=assigned.num_rows, errors=pc.sum(errors).as_py() or 0, failures=pc.sum(failed).as_py() or 0
    )


def _copy_stats(copies: pa.Table) -> VariantStats:
    """Counts of copies, given the first row of each; the champion has answered all of them."""
    outcomes = Counter(copies["copied"].to_pylist()) if "copied" in copies.column_names else Counter[str]()
    failed = outcomes["failed"]
    return VariantStats(requests=copies.num_rows, errors=failed, failures=failed, unanswered=outcomes["unanswered"])


def _is_unanswered(rows: pa.Table) -> pa.ChunkedArray | pa.Array:
    if "copied" not in rows.column_names:
        return pa.repeat(False, rows.num_rows)
    return pc.fill_null(pc.equal(rows.column("copied"), "unanswered"), False)
