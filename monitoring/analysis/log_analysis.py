"""A look at the logged rows of closed windows: what profiles cannot tell, and what labels say. Pure.

    multivariate   a classifier that tells the newest run from training rows, and by which features
    segment        drift within declared parts of the traffic, each against its own past
    labels         drift of what came true
    estimate       performance without labels, window by window, beside the truth once labels have come
    quality        the labelled loss of each window and segment, with limits that hold at every look

It is made of values and gives a value; a Ray task runs it (rayloop/stages/log_analysis_job.py), never a request's path.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import Field

from cluster.errors import DataError
from cluster.values import AlarmKind, Frozen, Task
from features.definitions import Column
from monitoring.analysis.multivariate_drift import Multivariate, compare
from monitoring.analysis.segment_drift import Past, labels_moved, segment_drift, values_of
from monitoring.detection.detector import WindowResult, day
from monitoring.drift_policy import DriftPolicy, LookPolicy
from monitoring.performance.estimator import LEAST_ROWS, Estimator, Metrics, loss_name, losses, observed
from monitoring.performance.loss_bounds import Labelled, Limits, limits, worse
from monitoring.samples.logged_rows import Rows

NAMED = 3
WHOLE = ""
"""The segment that is all traffic."""


class Asked(Frozen):
    """What is to be looked at: ``windows``, starts in ascending order, of a version; the newest run begins at ``since``.

    ``ordinary`` are AUCs that the reference's own runs reach, once they are known.
    """

    model: str
    version: str
    windows: tuple[float, ...] = Field(min_length=1)
    since: float
    policy: DriftPolicy
    ordinary: tuple[float, ...] = ()

    @property
    def window(self) -> float:
        return self.windows[-1]

    @property
    def until(self) -> float:
        return self.window + self.policy.window_s

    @property
    def look(self) -> LookPolicy:
        return self.policy.look or LookPolicy()


class WindowQuality(Frozen):
    """Performance in one window, of all traffic or of a segment ("carrier = AA").

    ``reference`` is the mean loss of held-out rows; ``limits`` are None with too few labels. ``estimated`` is by method.
    """

    version: str
    window: float
    segment: str = WHOLE
    labelled: Labelled
    limits: Limits | None = None
    reference: float | None = None
    worse: bool = False
    observed: Metrics = Field(default_factory=dict)
    estimated: dict[str, Metrics] = Field(default_factory=dict)


class Finding(Frozen):
    """Something to call out, of a window; ``name`` tells apart what can be found at once of one kind."""

    kind: AlarmKind
    window: float
    reason: str
    features: dict[str, float] = Field(default_factory=dict)
    name: str = ""


class Wanted(Frozen):
    """An answered row whose label would tell much. ``worth`` is the loss that is expected of it."""

    id: str
    worth: float


class Looked(Frozen):
    """What was seen. ``faults`` says which parts could not be looked at, and why."""

    version: str
    window: float
    since: float
    rows: int
    multivariate: Multivariate | None = None
    segments: dict[str, WindowResult] = Field(default_factory=dict)
    labels: WindowResult | None = None
    quality: tuple[WindowQuality, ...] = ()
    wanted: tuple[Wanted, ...] = ()
    findings: tuple[Finding, ...] = ()
    faults: tuple[str, ...] = ()


def look(asked: Asked, task: Task, columns: Sequence[Column], past: Past, live: Rows) -> Looked:
    """Look at ``live``, answered rows of the windows asked for, as ``past`` rows of the version's frame were."""
    run, faults = live.between(asked.since, asked.until), []
    estimator, apart = None, None
    try:
        estimator = Estimator(task, past.held_out, columns)
    except DataError as error:
        faults.append(f"performance is not estimated: {error}")
    try:
        apart = compare(past.train, run, columns, asked.policy, asked.look, asked.ordinary)
    except DataError as error:
        faults.append(f"nothing tells windows apart: {error}")
    segments = segment_drift(past, run, task, columns, asked.policy, asked.look)
    moved = labels_moved(past, run, task, asked.policy, asked.look)
    quality = tuple(_quality(asked, task, past, live, estimator))
    looked = Looked(
        version=asked.version,
        window=asked.window,
        since=asked.since,
        rows=len(run),
        multivariate=apart,
        segments=segments,
        labels=moved,
        quality=quality,
        wanted=_wanted(asked, live.between(asked.window, asked.until), estimator),
        faults=tuple(faults),
    )
    estimated = _estimate_fell(asked, task, past, estimator, quality)
    return looked.model_copy(update={"findings": (*_findings(looked, asked), *estimated)})


def _quality(asked: Asked, task: Task, past: Past, live: Rows, estimator: Estimator | None) -> Iterator[WindowQuality]:
    parts = [(WHOLE, "", ""), *((f"{c} = {v}", c, v) for c, v in values_of(past, asked.look))]
    alpha = asked.look.alpha / len(parts)
    windows = [(start, live.between(start, start + asked.policy.window_s)) for start in asked.windows]
    for name, column, value in parts:
        reference = _reference(task, past.held_out.with_value(column, value) if name else past.held_out)
        for start, rows in windows:
            here = rows.with_value(column, value) if name else rows
            if not len(here):
                continue
            labelled = Labelled.of(losses(task, here), len(here))
            around = limits(labelled, alpha)
            yield WindowQuality(
                version=asked.version,
                window=start,
                segment=name,
                labelled=labelled,
                limits=around if math.isfinite(around.low) else None,
                reference=reference,
                worse=reference is not None and worse(labelled, reference, alpha, asked.look.margin),
                observed=observed(task, here),
                estimated={} if name or estimator is None else _estimates(asked, start, here, estimator),
            )


def _reference(task: Task, rows: Rows) -> float | None:
    known = rows.labelled
    return float(losses(task, known).mean()) if len(known) >= LEAST_ROWS else None


def _estimates(asked: Asked, start: float, rows: Rows, estimator: Estimator) -> dict[str, Metrics]:
    """The method that learns anew costs seconds: only the newest window is worth them, and one that has rows enough."""
    plain = estimator.plain(rows)
    if start != asked.window or len(rows) < asked.policy.min_rows:
        return plain
    return plain | estimator.adapted(rows, asked.look.sample)


def _estimate_fell(
    asked: Asked, task: Task, past: Past, estimator: Estimator | None, quality: Sequence[WindowQuality]
) -> Iterator[Finding]:
    """The newest window's estimated loss, against that of every held-out window and the margin over their mean."""
    newest = next((q for q in quality if not q.segment and q.window == asked.window), None)
    if estimator is None or newest is None or not newest.estimated or newest.labelled.rows < asked.policy.min_rows:
        return
    before = [
        _loss_of(task, next(iter(estimator.plain(rows).values()))) for rows in past.held_out_windows(asked.policy)
    ]
    if len(before) < 2:
        return
    method, metrics = list(newest.estimated.items())[-1]
    now, usual = _loss_of(task, metrics), float(np.mean(before))
    if now > max(max(before), usual * (1.0 + asked.look.margin)):
        name = "error rate" if task.kind == "multiclass" else loss_name(task)
        told = f"{method} estimates a {name} of {now:.3g}; {usual:.3g} is usual, {max(before):.3g} the most of {len(before)} held-out windows"
        yield Finding(
            kind="estimate",
            window=asked.window,
            reason=f"{day(asked.window)}, {newest.labelled.rows:,} rows: {told}",
            features={name: now / usual if usual else 0.0},
        )


def _loss_of(task: Task, metrics: Metrics) -> float:
    return 1.0 - metrics["accuracy"] if task.kind == "multiclass" else metrics[loss_name(task)]


def _wanted(asked: Asked, newest: Rows, estimator: Estimator | None) -> tuple[Wanted, ...]:
    unlabelled = newest.of(~np.isfinite(newest.labels))
    if estimator is None or not len(unlabelled) or not asked.look.to_label:
        return ()
    worth = estimator.worth(unlabelled)
    most = np.argsort(-worth, kind="stable")[: asked.look.to_label]
    return tuple(Wanted(id=str(unlabelled.ids[i]), worth=float(worth[i])) for i in most)


def _findings(looked: Looked, asked: Asked) -> Iterator[Finding]:
    when = f"{day(looked.since)} to {day(looked.window)}" if looked.since < looked.window else day(looked.window)
    apart = looked.multivariate
    if apart is not None and apart.drifted:
        ranked = dict(apart.separation.ranked[:NAMED])
        by = ", ".join(f"{name} ({share:.0%})" for name, share in ranked.items())
        told = f"a classifier tells these rows from training with AUC {apart.separation.auc:.2f} (p = {apart.p_value:.2g}), by {by}"
        yield Finding(kind="multivariate", window=looked.window, reason=f"{when}: {told}", features=ranked)
    for name, result in looked.segments.items():
        if result.drifted:
            yield _moved("segment", name, result, f"{when}, {result.rows:,} rows of {name}")
    if looked.labels is not None and looked.labels.drifted:
        yield _moved("labels", "", looked.labels, f"{when}, {looked.labels.rows:,} labels")
    for one in looked.quality:
        if one.worse and one.limits is not None and one.reference:
            where = f" of {one.segment}" if one.segment else ""
            told = f"mean loss {one.labelled.mean:.3g}, above {one.limits.low:.3g} for sure; {one.reference:.3g} on held-out rows"
            yield Finding(
                kind="quality",
                window=one.window,
                name=one.segment,
                reason=f"{day(one.window)}, {one.labelled.n:,} labels{where} ({one.labelled.share:.0%} have come): {told}",
                features={"loss": one.limits.low / one.reference},
            )


def _moved(kind: AlarmKind, name: str, result: WindowResult, where: str) -> Finding:
    ratios = {column: result.columns[column].ratio for column in result.drifted}
    told = "; ".join(
        f"{column}: {result.columns[column].distances.statistic:.2f} of rows moved, p = {result.columns[column].p_value:.2g}"
        for column in result.drifted[:NAMED]
    )
    return Finding(kind=kind, window=result.window, name=name, reason=f"{where}: {told}", features=ratios)
