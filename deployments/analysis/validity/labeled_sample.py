"""A sample of rows that a version and the champion scored, and their labels as they come. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.names import CHALLENGER, CHAMPION
from cluster.values import Task
from deployments.analysis.key_counts import key_hash
from deployments.analysis.paired_predictions import Label
from deployments.analysis.validity.label_history import LabelHistory
from deployments.analysis.validity.row_sample import RowArrays, RowSample
from deployments.analysis.validity.sample_evidence import sample_evidence
from deployments.analysis.validity.validity_evidence import HeldOut, Suspects, ValidityEvidence


class LabeledSample:
    """Rows of the prediction log with the newest label of each; empty at first."""

    def __init__(self) -> None:
        self._sample: RowSample | None = None
        self._outputs = 1
        self._repeated = self._changed = Suspects()
        self._newest: tuple[object, ValidityEvidence] | None = None

    def add(self, rows: pa.Table, labels: Mapping[str, Label]) -> None:
        """Add rows with pairwise shares and keys (evidence_collector.py), and the labels that came before them."""
        if not rows.num_rows:
            return
        name = score_column(rows)
        champion, challenger = (rows.column(f"{variant}_{name}").to_pylist() for variant in (CHAMPION, CHALLENGER))
        if self._sample is None:
            score = next((score for score in (*champion, *challenger) if score is not None), None)
            if score is None:
                # How many scores a row has is not known yet.
                return
            self._outputs = len(score) if isinstance(score, list) else 1
            self._sample = RowSample(self._outputs)
        self._newest = None
        ids = rows.column("id").to_pylist()
        keys = np.array([key_hash(key) for key in rows.column("key").to_pylist()], np.uint64)
        new = self._find_new(self._sample, ids, keys)
        known = [labels.get(id) for id in ids]
        arrays = RowArrays(
            ids=np.array(ids, object),
            keys=keys,
            shares=rows.column("share").to_numpy(),
            challenger=np.array(pc.equal(rows.column("assigned"), CHALLENGER)),
            at_us=rows.column("at").cast(pa.int64()).to_numpy(),
            champion=_scores(champion, self._outputs),
            challenger_scores=_scores(challenger, self._outputs),
            labels=np.array([np.nan if label is None else label[1] for label in known], np.float64),
            received_us=np.array([np.nan if label is None else label[0] for label in known], np.float64),
        )
        self._sample.add(arrays.select(new))

    def add_labels(self, labels: Sequence[tuple[str, Label]]) -> None:
        """Add labels, each the newest of its row; those of rows outside the sample are ignored."""
        known = [(id, label) for id, label in labels if self._sample is not None and id in self._sample]
        if not known or self._sample is None:
            return
        self._newest = None
        changed = [id for id, (_, value) in known if self._sample.label(id) not in (None, value)]
        self._changed = self._changed.add(changed)
        self._sample.set_labels([id for id, _ in known], [v for _, (_, v) in known], [at for _, (at, _) in known])

    def evidence(self, task: Task, held_out: HeldOut, history: LabelHistory | None) -> ValidityEvidence:
        """Summarize the sample (sample_evidence.py)."""
        if self._sample is None:
            return ValidityEvidence()
        about = (task, held_out, history)
        if self._newest is None or self._newest[0] != about:
            evidence = sample_evidence(self._sample.arrays(), *about)
            suspects = {"repeated_rows": self._repeated, "changed_labels": self._changed}
            self._newest = about, evidence.model_copy(update=suspects)
        return self._newest[1]

    def _find_new(self, sample: RowSample, ids: list[str], keys: np.ndarray) -> np.ndarray:
        """Mask of the rows whose keys are in the sample, and whose ids are not yet."""
        new, in_batch, repeated = sample.keeps(keys), set[str](), []
        for i in np.flatnonzero(new):
            if ids[i] in sample or ids[i] in in_batch:
                new[i] = False
                repeated.append(ids[i])
            in_batch.add(ids[i])
        self._repeated = self._repeated.add(repeated)
        return new


def score_column(rows: pa.Table) -> str:
    """Name of the column of scores of rows of the prediction log, without the variant."""
    return "probabilities" if "champion_probabilities" in rows.column_names else "score"


def _scores(values: list[float | list[float] | None], outputs: int) -> np.ndarray:
    """Scores as an array [rows, outputs], NaN where there are none."""
    missing = [np.nan] * outputs if outputs > 1 else np.nan
    return np.array([missing if value is None else value for value in values], np.float64).reshape(-1, outputs)
