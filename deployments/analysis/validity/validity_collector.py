"""Collects what the checks of evidence need from one challenger's log rows and labels. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cluster.names import CHALLENGER, CHAMPION
from cluster.values import Task
from deployments.analysis.evidence import pairwise_share
from deployments.analysis.key_counts import key_hash
from deployments.analysis.paired_predictions import Label
from deployments.analysis.validity.label_history import LabelHistory
from deployments.analysis.validity.labeled_sample import LabeledSample, score_column
from deployments.analysis.validity.validity_evidence import Assignment, HeldOut, Suspects, ValidityEvidence
from deployments.traffic_split import find_slice

FIRST_KEY = "first_key"
"""Column that says whether the rollout had no earlier row of the key."""
MAX_SEEN = 200_000
_HASHES = 2**64


class SeenKeys:
    """Which keys a rollout has had; beyond MAX_SEEN, those of a sample by hash, which is not that of the split."""

    def __init__(self, most: int = MAX_SEEN) -> None:
        self._most, self._limit = most, _HASHES
        self._seen: set[int] = set()

    def mark_first(self, rows: pa.Table) -> pa.Table:
        """Append the column FIRST_KEY to rows with keys."""
        first = []
        for key in rows.column("key").to_pylist():
            hashed = key_hash(key)
            is_first = hashed < self._limit and hashed not in self._seen
            first.append(is_first)
            if is_first:
                self._seen.add(hashed)
        while len(self._seen) > self._most:
            self._limit //= 2
            self._seen = {hashed for hashed in self._seen if hashed < self._limit}
        return rows.append_column(FIRST_KEY, pa.array(first, pa.bool_()))


class ValidityCollector:
    """Evidence about the rows of one challenger and of the champion.

    Args:
        rollout: Id of the rollout, which salts the split.
        start: Start of the challenger's slice.
    """

    def __init__(self, rollout: str, start: float) -> None:
        self._rollout, self._start = rollout, start
        self.history: LabelHistory | None = None
        """How labels came before the rollout; None if that is not known."""
        self._canary, self._probation = LabeledSample(), LabeledSample()
        self._misassigned = self._inconsistent = Suspects()
        self._first_keys: dict[float, list[int]] = defaultdict(lambda: [0, 0])
        self._lost: dict[float, list[int]] = defaultdict(lambda: [0, 0])

    def check_assignment(self, rows: pa.Table) -> None:
        """Compute the variant of each request again from its key, and the share that was in force."""
        if "key" not in rows.column_names:
            return
        firsts = rows.filter(pc.and_(pc.equal(rows.column("row"), 0), rows.column("key").is_valid()))
        columns = [firsts.column(name).to_pylist() for name in ("id", "key", "share", "assigned")]
        self._misassigned = self._misassigned.add(
            [
                id
                for id, key, share, assigned in zip(*columns, strict=True)
                if (find_slice(self._rollout, key, share, (self._start,)) is None) != (assigned == CHAMPION)
            ]
        )

    def add(self, rows: pa.Table, labels: Mapping[str, Label]) -> None:
        """Add rows with pairwise shares and keys (evidence_collector.py), and the labels that came before them."""
        self._count_first_keys(rows)
        self._inconsistent = self._inconsistent.add(_inconsistent(rows, score_column(rows)))
        self._canary.add(rows, labels)

    def add_probation(self, rows: pa.Table, labels: Mapping[str, Label]) -> None:
        """Add rows from after the promotion, with the promoted version as the challenger."""
        self._probation.add(rows, labels)

    def add_labels(self, labels: Sequence[tuple[str, Label]]) -> None:
        """Add labels, each the newest of its row; those of rows outside the samples are ignored."""
        self._canary.add_labels(labels)
        self._probation.add_labels(labels)

    def add_lost(self, assignment: Assignment, requests: int) -> None:
        """Count requests that were answered and not logged."""
        share = pairwise_share(assignment.share, assignment.champion_share)
        self._lost[share][assignment.assigned == CHALLENGER] += requests

    def evidence(self, task: Task, held_out: HeldOut) -> ValidityEvidence:
        """The evidence so far about the rows of the rollout."""
        counted = {
            "misassigned": self._misassigned,
            "inconsistent": self._inconsistent,
            "first_keys": {share: (a, b) for share, (a, b) in sorted(self._first_keys.items())},
            "lost": {share: (a, b) for share, (a, b) in sorted(self._lost.items())},
        }
        return self._canary.evidence(task, held_out, self.history).model_copy(update=counted)

    def late_evidence(self, task: Task, held_out: HeldOut) -> ValidityEvidence:
        """The evidence so far about rows from after the promotion."""
        return self._probation.evidence(task, held_out, self.history)

    def _count_first_keys(self, rows: pa.Table) -> None:
        firsts = rows.filter(rows.column(FIRST_KEY))
        for share, assigned in zip(firsts["share"].to_pylist(), firsts["assigned"].to_pylist(), strict=True):
            self._first_keys[share][assigned == CHALLENGER] += 1


def _inconsistent(rows: pa.Table, name: str) -> list[str]:
    """Ids of rows whose answer is not the score of the variant that answered."""
    if name not in rows.column_names:
        return []
    columns = [rows.column(c).to_pylist() for c in ("id", "variant", name, f"champion_{name}", f"challenger_{name}")]
    return [
        id
        for id, variant, answer, champion, challenger in zip(*columns, strict=True)
        if answer != (challenger if variant == CHALLENGER else champion)
    ]
