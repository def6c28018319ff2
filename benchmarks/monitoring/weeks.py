"""Estimated performance against the truth, flights by week."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.monitoring import flights
from benchmarks.monitoring.flights import FEATURES, Part
from benchmarks.monitoring.programs import ProgramFailed, run_peer
from benchmarks.results import Row, Target, row
from benchmarks.serving.environments import InstallFailed
from monitoring.performance.cbpe import Calibrator, classifier_performance
from monitoring.performance.dle import LossModel, observed_loss
from monitoring.samples.domain_classifier import DomainClassifier

PEER = "nannyml"
CLASSIFIER = {"accuracy": "accuracy", "auc": "roc_auc", "f1": "f1"}
"""rayloop's names of metrics, and the peer's."""
REGRESSOR = {"mae": "mae", "rmse": "rmse"}
Series = dict[str, list[float]]


def rows(progress: Callable[[str], None]) -> Iterator[Row]:
    progress("flights: models and predictions")
    reference, live = flights.parts()
    weeks = live.weeks()
    yield from _compared(
        "classifier", *_classifier(reference, live, weeks, progress), CLASSIFIER, reference, live, progress
    )
    yield from _compared("regressor", *_regressor(reference, live, weeks), REGRESSOR, reference, live, progress)


def _classifier(
    reference: Part, live: Part, weeks: dict[str, np.ndarray], progress: Callable[[str], None]
) -> tuple[Series, dict[str, Series]]:
    plain = Calibrator(reference.scores, reference.late)
    truth, cbpe, pape = [], [], []
    for monday, at in weeks.items():
        progress(f"week of {monday}")
        scores = live.scores[at]
        weights = DomainClassifier(reference.features, live.features[at]).density_ratio()
        adaptive = Calibrator(reference.scores, reference.late, weights)
        truth.append(classifier_performance(scores, live.late[at]))
        cbpe.append(classifier_performance(scores, plain(scores)))
        pape.append(classifier_performance(scores, adaptive(scores)))
    return _series(truth, CLASSIFIER), {"CBPE": _series(cbpe, CLASSIFIER), "PAPE": _series(pape, CLASSIFIER)}


def _regressor(reference: Part, live: Part, weeks: dict[str, np.ndarray]) -> tuple[Series, dict[str, Series]]:
    model = LossModel(reference.features, reference.predictions, reference.delay)
    truth = [observed_loss(live.predictions[at], live.delay[at]) for at in weeks.values()]
    estimates = [model.estimate(live.features[at], live.predictions[at]) for at in weeks.values()]
    return _series(truth, REGRESSOR), {"DLE": _series(estimates, REGRESSOR)}


def _series(records: list[dict[str, float]], metrics: dict[str, str]) -> Series:
    return {metric: [one[metric] for one in records] for metric in metrics}


def _compared(
    kind: str,
    truth: Series,
    methods: dict[str, Series],
    metrics: dict[str, str],
    reference: Part,
    live: Part,
    progress: Callable[[str], None],
) -> Iterator[Row]:
    """A row for each metric and method."""
    note, theirs = "", {}
    try:
        theirs = _peer(kind, list(metrics.values()), reference, live, progress)
    except (ProgramFailed, InstallFailed) as error:
        note = f"{PEER} could not be run: {error}"
    for metric, peer_metric in metrics.items():
        peer_error = _error(theirs[peer_metric], truth[metric]) if theirs else None
        for method, estimates in methods.items():
            work = f"estimated {metric} of the {kind}, {len(truth[metric])} weeks of flights: {method}"
            spread = f"the truth's standard deviation over weeks is {np.std(truth[metric]):.3g}"
            unit = "mean absolute error" + (" (minutes)" if kind == "regressor" else "")
            limit = Target(of="ratio", sign="≤", limit=1.0)
            yield row(work, unit, _error(estimates[metric], truth[metric]), PEER, peer_error, limit, note or spread)


def _peer(kind: str, metrics: list[str], reference: Part, live: Part, progress: Callable[[str], None]) -> Series:
    progress(f"{PEER}: {kind}")
    with tempfile.TemporaryDirectory() as room:
        paths = {"reference": Path(room) / "reference.csv", "live": Path(room) / "live.csv"}
        reference.frame(kind).write_csv(paths["reference"])
        live.frame(kind).write_csv(paths["live"])
        plan = {"metrics": metrics, "features": list(FEATURES)} | {name: str(path) for name, path in paths.items()}
        estimates: Series = run_peer(PEER, kind, plan, progress)
    if len(estimates["weeks"]) != len(live.weeks()):
        raise ProgramFailed(f"it cut the rows into {len(estimates['weeks'])} weeks, not {len(live.weeks())}")
    return estimates


def _error(estimates: list[float], truth: list[float]) -> float:
    return float(np.mean(np.abs(np.array(estimates) - np.array(truth))))
