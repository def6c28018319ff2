"""Score the rows that a retrained version answered by the version that it replaced."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import RolloutError
from cluster.registry import Registry
from cluster.row_losses import row_loss
from cluster.storage.tables import Tables
from cluster.values import Decision
from deployments.rollout.journal import RolloutJournal
from features.manifest import Manifest
from monitoring.analysis.log_analysis import AnalysisRequest, AnalysisResult
from monitoring.retraining.retrain_gain import PairedLosses, WindowGain
from monitoring.samples.logged_rows import LoggedRows
from trainers.scoring.python_scorer import score_bundle

RETRAINED_BECAUSE = "rayloop.retrained_because"
"""Tag of a version: the alarm, the trigger or the person's reason that called for it."""


def with_gains(
    result: AnalysisResult,
    registry: Registry,
    tables: Tables,
    request: AnalysisRequest,
    answered: pa.Table,
    live: LoggedRows,
) -> AnalysisResult:
    """Add the losses of each window against those of the replaced version, if the version is a retrained one.

    Args:
        result: The analysis so far.
        registry: MLflow.
        tables: Iceberg tables.
        request: Model, version and windows.
        answered: The logged rows, as they are in the log.
        live: The same rows with their labels.
    """
    try:
        promotion = _promotion(registry, tables, request)
        gains = () if promotion is None else _measure(registry, request, promotion, answered, live)
    except Exception as error:
        # A store that is away, or a bundle that is gone, costs this figure and not the analysis, whose alarms matter.
        fault = f"the gain of retraining is not measured: {error}"
        return result.model_copy(update={"faults": (*result.faults, fault)})
    return result.model_copy(update={"gains": gains})


def _promotion(registry: Registry, tables: Tables, request: AnalysisRequest) -> Decision | None:
    """The journal's entry with which a retrained version took over; None for other versions."""
    if RETRAINED_BECAUSE not in registry.version(request.model, request.version).tags:
        return None
    decisions = RolloutJournal(request.model, tables).decisions()
    return next((d for d in reversed(decisions) if d.action == "promote" and request.version in d.challengers), None)


def _measure(
    registry: Registry, request: AnalysisRequest, promotion: Decision, answered: pa.Table, live: LoggedRows
) -> tuple[WindowGain, ...]:
    served, replaced = (
        registry.fetch(registry.version(request.model, version)) for version in (request.version, promotion.champion)
    )
    manifest = Manifest.load(served)
    if manifest.feature_hash != Manifest.load(replaced).feature_hash:
        raise RolloutError("rollout.gain_features_differ", version=request.version, replaced=promotion.champion)
    after = pc.greater_equal(answered["at"].cast(pa.int64()), round(1e6 * promotion.at)).to_numpy()
    counted = np.isfinite(live.labels) & after
    rows, keys = live.select(counted), np.asarray(answered["key"].to_pylist(), object)[counted]
    if not len(rows):
        return ()
    loss = row_loss(manifest.task, rows.scores, rows.labels)
    replaced_scores = score_bundle(replaced, rows.frame).astype(np.float64)
    replaced_loss = row_loss(manifest.task, replaced_scores, rows.labels)
    gains = []
    for window in request.windows:
        here = (rows.times >= window) & (rows.times < window + request.policy.window_s)
        if here.any():
            losses = PairedLosses.from_losses(loss[here], replaced_loss[here], keys[here].astype(str))
            gains.append(
                WindowGain(
                    version=request.version,
                    replaced=promotion.champion,
                    promoted=promotion.at,
                    window=window,
                    losses=losses,
                )
            )
    return tuple(gains)
