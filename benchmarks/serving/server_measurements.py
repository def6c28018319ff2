"""Measurements of a running server: correctness first, then speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from benchmarks.serving import measures as m
from benchmarks.serving import model, samples
from benchmarks.serving.client import load, loading, send_request
from benchmarks.serving.measures import Measurements
from benchmarks.serving.plan import LoadPlan, Report
from benchmarks.serving.processes import ServerFailed
from benchmarks.serving.rayloop import NAME, SHARE, VERSION, ServingCluster
from benchmarks.serving.samples import Columns
from benchmarks.serving.subjects import EMPTY, Encode, Scores, Subject
from cluster.names import CHALLENGER
from cluster.values import ModelVersion

CONNECTIONS = 16
OPEN_CONNECTIONS = 64
OPEN_RATE = 200.0
"""Requests per second of the open load."""
TENSOR_ROWS = 1024
TOLERANCE = 1e-5
MODEL, ENCODED = "the model alone in a loop, one thread", "encoding and model in a loop, one thread"

_WARM_UP_S = 2.0
_IDLE_PERCENT = 15.0
"""Percent of all cores below which the machine counts as idle; an idle cluster takes some 10."""
_QUIET_SECONDS = 3
_SETTLE_WITHIN_S = 30.0
_CHECKED = 64
_DISTINCT = 512
_TENSOR_REQUESTS = 16
_CHANGE_AT_S = 1.5
_CHANGE_S = 4.0
_OK = 200


class ServingWorkload(NamedTuple):
    """The work, the same for every server: sections, seconds per measurement, the model's folder and rows."""

    sections: frozenset[str]
    seconds: float
    folder: Path
    rows: Columns

    @classmethod
    def of(cls, sections: frozenset[str], seconds: float, folder: Path) -> ServingWorkload:
        return cls(sections, seconds, folder, samples.sample(_DISTINCT, 1))

    def wants(self, *sections: str) -> bool:
        return not self.sections.isdisjoint(sections)


def measure_server(subject: Subject, work: ServingWorkload, measurements: Measurements) -> int:
    """Check and measure a server with one row per request. Returns the number of answered requests."""
    answered = check(subject, work)
    _wait_until_idle()
    if work.wants("one_row", "canary"):
        answered += _closed(subject, work, measurements, m.RATE).total
    if work.wants("open_loop") and subject.name != EMPTY:
        answered += _open(subject, work, measurements)
    return answered


def measure_rayloop(
    rayloop: ServingCluster, subject: Subject, work: ServingWorkload, measurements: Measurements
) -> None:
    """Measure rayloop in all sections; check the log against the responses before reporting is switched off."""
    answered = measure_server(subject, work, measurements)
    if work.wants("canary", "changes"):
        rayloop.start_rollout()
        _wait_until_idle()
        if work.wants("canary"):
            answered += _canary(rayloop, subject, work, measurements)
        if work.wants("changes"):
            answered += _changes(rayloop, subject, work, measurements)
        else:
            rayloop.abort_rollout()
    if work.wants("shadow"):
        answered += _shadow(rayloop, subject, work, measurements)
    if work.wants("copies"):
        answered += _copies(rayloop, subject, work, measurements)
    if work.wants("trees"):
        answered += _trees(rayloop, subject, work, measurements)
    logged, profiled = rayloop.reported(answered)
    measurements.add(NAME, m.LOGGED, logged / answered)
    measurements.add(NAME, m.PROFILED, profiled / answered)
    if work.wants("tensors"):
        with measurements.measuring(NAME, m.TENSORS):
            _tensors(rayloop, subject, work, measurements, logged)
    if work.wants("reporting"):
        _reporting(rayloop, subject, work, measurements)


def _wait_until_idle() -> None:
    """Wait until background startup work is done: the machine is idle for a while, or a deadline passes."""
    deadline, quiet = time.monotonic() + _SETTLE_WITHIN_S, 0
    while quiet < _QUIET_SECONDS and time.monotonic() < deadline:
        quiet = quiet + 1 if psutil.cpu_percent(1.0) < _IDLE_PERCENT else 0


def check(subject: Subject, work: ServingWorkload) -> int:
    """Check that the server returns the model's scores. Returns the number of requests. Raises ServerFailed."""
    parts = samples.split({name: values[:_CHECKED] for name, values in work.rows.items()}, 1)
    for part in parts:
        _check(subject, part, subject.encode, subject.scores, work)
    return len(parts)


def model_alone(work: ServingWorkload, measurements: Measurements) -> None:
    """Measure the same rows without a server, as the reference of the tensor section."""
    columns = samples.sample(TENSOR_ROWS, 2)
    measurements.add(MODEL, m.TENSORS, model.alone(work.folder, columns, work.seconds))
    measurements.add(ENCODED, m.TENSORS, model.encoded(work.folder, columns, work.seconds))


def closed_plan(subject: Subject, requests: list[bytes], seconds: float) -> LoadPlan:
    return LoadPlan(subject.port, requests, CONNECTIONS, _WARM_UP_S, seconds, header=subject.header)


def _open_plan(subject: Subject, work: ServingWorkload) -> LoadPlan:
    plan = closed_plan(subject, _requests(subject, work), 2.0 * work.seconds)
    return plan._replace(connections=OPEN_CONNECTIONS, rate=OPEN_RATE)


def _requests(subject: Subject, work: ServingWorkload) -> list[bytes]:
    return [subject.encode(subject.path, part) for part in samples.split(work.rows, 1)]


def _closed(subject: Subject, work: ServingWorkload, measurements: Measurements, measure: str) -> Report:
    report = load(closed_plan(subject, _requests(subject, work), work.seconds))
    measurements.add(subject.name, measure, report.per_second)
    _note_failures(report, subject, measure, measurements)
    return report


def _open(subject: Subject, work: ServingWorkload, measurements: Measurements) -> int:
    report = load(_open_plan(subject, work))
    measurements.add(subject.name, m.P50, report.p50_ms)
    measurements.add(subject.name, m.P99, report.p99_ms)
    measurements.add(subject.name, m.LATE, report.late_ms)
    for measure in (m.P50, m.P99):
        _note_failures(report, subject, measure, measurements)
    return report.total


def _canary(rayloop: ServingCluster, subject: Subject, work: ServingWorkload, measurements: Measurements) -> int:
    report = _closed(subject, work, measurements, m.CANARY)
    measurements.add(NAME, m.CHALLENGED, report.by_header.get(CHALLENGER, (0, 0.0))[0] / max(1, report.total))
    if rayloop.share() != SHARE:
        measurements.note(NAME, m.CANARY, f"the challenger's share became {rayloop.share():g}")
    return report.total


def _shadow(rayloop: ServingCluster, subject: Subject, work: ServingWorkload, measurements: Measurements) -> int:
    """Alternate the open load without and with a shadow."""
    answered = 0
    for shadowed in (False, True, True, False):
        if shadowed:
            rayloop.start_rollout(shadow=True)
        _wait_until_idle()
        report = load(_open_plan(subject, work))
        if shadowed:
            rayloop.abort_rollout()
        measure = m.SHADOWED if shadowed else m.UNSHADOWED
        measurements.add(NAME, measure, report.p99_ms)
        _note_failures(report, subject, measure, measurements)
        answered += report.total
    return answered


def _copies(rayloop: ServingCluster, subject: Subject, work: ServingWorkload, measurements: Measurements) -> int:
    """Alternate a canary without and with copies, under both loads; the first canary of a cluster is not measured."""
    loads = (
        (
            closed_plan(subject, _requests(subject, work), 2.0 * work.seconds),
            (m.UNCOPIED, m.COPIED), (m.UNCOPIED_CPU, m.COPIED_CPU), m.COPIES,
        ),
        (
            _open_plan(subject, work),
            (m.UNCOPIED_P99, m.COPIED_P99), (m.OPEN_UNCOPIED_CPU, m.OPEN_COPIED_CPU), m.OPEN_COPIES,
        ),
    )  # fmt: skip
    rayloop.start_rollout(copies=1.0)
    answered = sum(load(plan).total for plan, *_ in loads)
    rayloop.abort_rollout()
    for copies in (0.0, 1.0, 1.0, 0.0):
        rayloop.start_rollout(copies=copies)
        before = 0
        for plan, names, cpu_names, counter in loads:
            _wait_until_idle()
            spent = rayloop.cpu_seconds()
            report, measure = load(plan), names[copies > 0.0]
            spent = rayloop.cpu_seconds() - spent
            measurements.add(NAME, cpu_names[copies > 0.0], 1e3 * spent / report.total)
            measurements.add(NAME, measure, report.p99_ms if plan.rate else report.per_second)
            _note_failures(report, subject, measure, measurements)
            answered += report.total
            if copies:
                _wait_until_idle()
                copied = rayloop.copied()
                measurements.add(NAME, counter, (copied - before) / report.total)
                before = copied
        rayloop.abort_rollout()
    return answered


def _trees(rayloop: ServingCluster, subject: Subject, work: ServingWorkload, measurements: Measurements) -> int:
    """Alternate the model and one of trees, under full load."""
    answered = 0
    for version in (rayloop.champion, rayloop.trees, rayloop.trees, rayloop.champion):
        rayloop.set_champion(version)
        is_trees = version == rayloop.trees
        answered += check(subject, work._replace(folder=rayloop.bundle(version)))
        _wait_until_idle()
        measure = m.TREES if is_trees else m.BESIDE_TREES
        answered += _closed(subject, work, measurements, measure).total
    return answered


def _changes(rayloop: ServingCluster, subject: Subject, work: ServingWorkload, measurements: Measurements) -> int:
    """Abort, then change a weight and back, each under its own load."""
    answered = _change(subject, work, measurements, m.ABORT, CHALLENGER, rayloop.abort_rollout)
    by_version = subject._replace(header=VERSION)
    there, back = rayloop.challenger, rayloop.champion
    for old, new in ((back, there), (there, back)):
        answered += _change(by_version, work, measurements, m.WEIGHTS, old.version, _setting(rayloop, new))
    return answered


def _setting(rayloop: ServingCluster, version: ModelVersion) -> Callable[[], None]:
    return lambda: rayloop.set_champion(version)


def _change(
    subject: Subject,
    work: ServingWorkload,
    measurements: Measurements,
    measure: str,
    old: str,
    change: Callable[[], None],
) -> int:
    """Milliseconds from the call until the last response of ``old``, by the load's header."""
    with loading(closed_plan(subject, _requests(subject, work), _CHANGE_S)) as running:
        running.wait_for_first()
        time.sleep(_CHANGE_AT_S)
        call_time = time.monotonic()
        change()
        report = running.report()
    if old not in report.by_header:
        raise ServerFailed(f"no answer came from {old} before it was to change")
    measurements.add(NAME, measure, max(0.0, report.by_header[old][1] - call_time) * 1e3)
    _note_failures(report, subject, measure, measurements)
    return report.total


def _tensors(
    rayloop: ServingCluster, subject: Subject, work: ServingWorkload, measurements: Measurements, logged: int
) -> None:
    columns = samples.sample(_TENSOR_REQUESTS * TENSOR_ROWS, 2)
    parts = samples.split(columns, TENSOR_ROWS)
    _check(subject, parts[0], samples.binary_tensors, samples.open_inference_scores, work)
    requests = [samples.binary_tensors(subject.path, part) for part in parts]
    report = load(closed_plan(subject, requests, work.seconds))
    measurements.add(NAME, m.TENSORS, report.per_second * TENSOR_ROWS)
    _note_failures(report, subject, m.TENSORS, measurements)
    sent = (1 + report.total) * TENSOR_ROWS
    measurements.add(NAME, m.LOST, 1.0 - (rayloop.reported(logged + sent)[0] - logged) / sent)


def _reporting(rayloop: ServingCluster, subject: Subject, work: ServingWorkload, measurements: Measurements) -> None:
    """Alternate on and off, so that machine drift affects both."""
    turns = ((m.REPORTING, True, True), (m.LOGGING, True, False), (m.SILENT, False, False))
    for measure, report, profile in (*turns, *reversed(turns)):
        rayloop.deploy(report, profile)
        _closed(subject, work, measurements, measure)


def _check(subject: Subject, columns: Columns, encode: Encode, scores: Scores, work: ServingWorkload) -> None:
    response = send_request(subject.port, encode(subject.path, columns))
    if response.status != _OK:
        raise ServerFailed(f"status {response.status}: {response.body[:300].decode(errors='replace')}")
    if subject.name == EMPTY:
        return
    try:
        actual = np.array(scores(response), np.float64)
    except (LookupError, TypeError, ValueError) as error:
        raise ServerFailed(f"an answer of another shape: {response.body[:300]!r}") from error
    expected = model.scores(work.folder, columns)
    if actual.shape != expected.shape or not np.allclose(actual, expected, rtol=0.0, atol=TOLERANCE):
        raise ServerFailed(f"it scores {actual[:3].tolist()}, the model says {expected[:3].tolist()}")


def _note_failures(report: Report, subject: Subject, measure: str, measurements: Measurements) -> None:
    for what, count in report.failures.items():
        measurements.note(subject.name, measure, f"{count} x {what}")
