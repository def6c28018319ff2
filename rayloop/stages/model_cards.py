"""The model card of a candidate, logged with its run whether it passes the gate or not."""

from __future__ import annotations

import time

import pyarrow as pa

from cluster.registry import Run
from cluster.times import format_utc
from features.split import PARTS, TRAIN
from features.types import AS_OF, LABEL
from rayloop.context import ProjectContext
from rayloop.frame_view import FrameView
from rayloop.stages.candidate import CandidateBuild
from rayloop.stages.evaluate_candidate import CandidateEvaluation
from trainers.card import model_card
from trainers.card.html import render_card
from trainers.evaluation.assessment import CandidateEvidence
from trainers.scoring import onnx_scorer
from trainers.selection.auto_parameters import TRAIN_FIELDS

CARD_PATH = "card"


def log_card(run: Run, build: CandidateBuild, evaluation: CandidateEvaluation) -> None:
    """Store card.html and card.json with the run."""
    card = make_card(run.id, build, evaluation)
    texts = {model_card.CARD_JSON: card.model_dump_json(indent=1), model_card.CARD_PAGE: render_card(card)}
    run.log_texts({f"{CARD_PATH}/{name}": text for name, text in texts.items()})


def make_card(run_id: str, build: CandidateBuild, evaluation: CandidateEvaluation) -> model_card.ModelCard:
    """Collect the facts of a model card."""
    context, frame = build.context, build.frame
    project, fit_result = context.project, evaluation.fit_result
    parts = tuple(_part_facts(frame, split, project.task.kind != "multiclass") for split in PARTS)
    features = _feature_facts(context, frame)
    model = {"kind": fit_result.spec.name, "temperature": fit_result.temperature, **fit_result.spec.parameters}
    if build.recipe.start is not None:
        model["started_from"] = f"v{build.recipe.start.version.version}"
    settings = fit_result.config.model_dump(mode="json")
    if fit_result.spec.is_auto:
        model["minutes"] = fit_result.spec.minutes
        settings = {name: value for name, value in settings.items() if name in TRAIN_FIELDS}
    return model_card.ModelCard(
        model=project.name,
        name=build.name,
        made_at=time.time(),
        purpose=project.purpose,
        task=project.task,
        parts=parts,
        features=features,
        recipe=build.recipe.as_json() if fit_result.spec.is_fixed else {"model": model, "train": settings},
        precision=str(evaluation.exported_model),
        compression=evaluation.compression,
        latency=evaluation.latency,
        size=evaluation.size,
        train_metrics=fit_result.train_metrics,
        validation_metrics=fit_result.metrics,
        checks=evaluation.report.checks,
        assessment=evaluation.assessment,
        curve=_curve(evaluation.evidence),
        limits=(*project.limits, *model_card.derive_limits(parts, features, evaluation.assessment)),
        lineage=model_card.CardLineage(
            run_id=run_id,
            snapshot=frame.snapshot,
            feature_hash=project.features.content_hash,
            code_version=context.code_version,
            fingerprint=build.fingerprint,
            champion=evaluation.champion,
        ),
        synthetic_rows=fit_result.synthetic_rows,
        weak_labels=frame.weak_labels,
        selection=fit_result.selection,
        override="" if evaluation.report.passed else build.override_gate,
    )


def _part_facts(frame: FrameView, split: str, mean: bool) -> model_card.SplitFacts:
    rows = frame.rows_of(split)
    when = pa.compute.min_max(rows[AS_OF].cast(pa.timestamp("us", "UTC")).cast(pa.int64())).as_py()
    return model_card.SplitFacts(
        name=split,
        rows=rows.num_rows,
        start=format_utc(when["min"] / 1e6),
        end=format_utc(when["max"] / 1e6),
        label_mean=float(rows[LABEL].to_numpy().mean()) if mean else None,
        purged=frame.purged.total(split),
    )


def _feature_facts(context: ProjectContext, frame: FrameView) -> tuple[model_card.FeatureFacts, ...]:
    features, train = context.project.features, frame.rows_of(TRAIN)
    origins = {c.name: "request" for c in features.request}
    origins |= {c.name: f"view {view.name} of {view.source}" for view in features.views for c in view.columns}
    return tuple(
        model_card.FeatureFacts(
            name=c.name, kind=c.kind, origin=origins.get(c.name, "derived"), missing=_missing(train[c.name])
        )
        for c in features.columns
    )


def _missing(values: pa.ChunkedArray) -> float:
    """Share of missing values: nulls, and NaN of a number."""
    absent = pa.compute.is_null(values, nan_is_null=pa.types.is_floating(values.type))
    return float(pa.compute.mean(absent).as_py() or 0.0)


def _curve(evidence: CandidateEvidence) -> tuple[tuple[float, float, int], ...]:
    if evidence.task.kind == "regression":
        return ()
    bins = onnx_scorer.calibration_curve(evidence.task, evidence.test.scores, evidence.test.labels)
    return tuple((each.score, each.share, each.rows) for each in bins)
