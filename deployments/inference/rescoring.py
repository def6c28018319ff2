"""Scores logged rows again by the bundles of their versions: a logged score must be what its version computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.names import CHALLENGER, CHAMPION
from cluster.settings import Settings
from cluster.values import ModelVersion
from deployments.inference.predictor import Predictor, fetch_bundle
from deployments.telemetry.prediction_log import feature_frame, from_ipc
from features.python_models.bundle import PythonRecord

TOLERANCE = 1e-4
"""Largest difference of a score, absolute or relative. A row alone and the same row in a batch may differ in the last
bits of float32, because sums are then taken in another order."""


class RescoredRows(NamedTuple):
    """Rows that were scored again."""

    rows: int
    differing: list[str]
    """Ids of those whose scores are not the logged ones."""


def rescore(data: bytes, champion: ModelVersion, challengers: list[ModelVersion], settings: Settings) -> RescoredRows:
    """Score rows again. A challenger is left out if its features are not the champion's, which are the logged ones.

    Python models are left out: only their deployments score with them.

    Args:
        data: Rows of the prediction log, with their features, as an Arrow IPC stream.
        champion: The champion.
        challengers: Challengers on trial.
        settings: Where bundles are.
    """
    if PythonRecord.of(champion) is not None:
        return RescoredRows(0, [])
    challengers = [each for each in challengers if PythonRecord.of(each) is None]
    predictors = {each.version: Predictor(fetch_bundle(each, settings)) for each in (champion, *challengers)}
    return compare_scores(from_ipc(data), champion.version, predictors)


def compare_scores(rows: pa.Table, champion: str, predictors: Mapping[str, Predictor]) -> RescoredRows:
    """Compare logged scores with those that the versions compute now.

    Args:
        rows: Rows of the prediction log, with their features.
        champion: The champion's version.
        predictors: Predictors, by version.
    """
    features = predictors[champion].manifest.feature_hash
    parts = [(rows, CHAMPION, predictors[champion])]
    for version, predictor in predictors.items():
        if version != champion and predictor.manifest.feature_hash == features:
            mine = rows.filter(pc.fill_null(pc.equal(rows.column("challenger_version"), version), False))
            parts.append((mine, CHALLENGER, predictor))
    differing = dict.fromkeys(id for part in parts for id in _differing(*part))
    return RescoredRows(rows.num_rows, list(differing))


def _differing(rows: pa.Table, variant: str, predictor: Predictor) -> list[str]:
    name = f"{variant}_{'probabilities' if predictor.manifest.task.wide else 'score'}"
    scored = rows.filter(rows.column(name).is_valid())
    if not scored.num_rows:
        return []
    logged = np.array(scored.column(name).to_pylist(), np.float64).reshape(scored.num_rows, -1)
    again = predictor.predict(feature_frame(scored)).reshape(scored.num_rows, -1)
    same = np.isclose(again, logged, rtol=TOLERANCE, atol=TOLERANCE).all(axis=1)
    return [id for id, equal in zip(scored.column("id").to_pylist(), same, strict=True) if not equal]
