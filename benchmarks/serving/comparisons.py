"""Measures as rows of the results, each compared with its target."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.results import Row, Target, row
from benchmarks.serving import measures as m
from benchmarks.serving.boosted import TREES
from benchmarks.serving.measures import Measurements
from benchmarks.serving.rayloop import NAME, SHADOW_SHARE
from benchmarks.serving.server_measurements import CONNECTIONS, ENCODED, MODEL, OPEN_RATE, TENSOR_ROWS
from benchmarks.serving.subjects import COMPOSED, EMPTY, PEERS_ALL

GENERATOR = "responder"

_ONE_ROW = f"1 row, JSON, everything on, {CONNECTIONS} connections"
_CANARY = f"{_ONE_ROW}, 10 % canary"
_OPEN = f"latency at {OPEN_RATE:g} requests/s, open loop"
_NOT_RUN = "could not be run: "


def rows(measurements: Measurements, sections: frozenset[str]) -> list[Row]:
    """Return the rows of the measured sections, in the order of the results page."""
    builders = {
        "one_row": _one_row, "canary": _canary, "open_loop": _open_loop, "shadow": _shadow, "copies": _copies,
        "reporting": _reporting, "tensors": _tensors, "trees": _trees, "changes": _changes,
    }  # fmt: skip
    table = [each for section, make in builders.items() if section in sections for each in make(measurements)]
    if sections & {"one_row", "canary"}:
        table += [*_everything_on(measurements), _measure_load_generator(measurements)]
    return table


def _one_row(measurements: Measurements) -> Iterator[Row]:
    names = [peer.name for peer in PEERS_ALL if peer.name not in (EMPTY, COMPOSED)]
    yield from _rates(measurements, _ONE_ROW, m.RATE, names, _least(3.0))
    yield from _rates(measurements, _ONE_ROW, m.RATE, [EMPTY], _least(0.6))


def _canary(measurements: Measurements) -> Iterator[Row]:
    names = [peer.name for peer in PEERS_ALL if peer.name not in (EMPTY, COMPOSED)]
    yield from _rates(measurements, _CANARY, m.CANARY, names, _least(2.0), "without a canary")
    share = measurements.median(NAME, m.CHALLENGED)
    yield from _rates(
        measurements, _CANARY, m.CANARY, [COMPOSED], _least(2.0), f"the challenger answered {share or 0.0:.1%}"
    )


def _open_loop(measurements: Measurements) -> Iterator[Row]:
    below = Target(of="ratio", sign="<", limit=1.0)
    for measure in (m.P50, m.P99):
        for peer in PEERS_ALL:
            if peer.name != EMPTY:
                late = " and ".join(f"{measurements.median(name, m.LATE) or 0.0:.2f} ms" for name in (NAME, peer.name))
                note = f"the load left up to {late} late (p99)" if measure == m.P99 else ""
                yield _compared(measurements, f"{_OPEN}: {measure[:3]}", "ms", measure, peer.name, measure, below, note)


def _shadow(measurements: Measurements) -> Iterator[Row]:
    yield _mark_failed(measurements, m.SHADOWED, row(
        f"{_OPEN}: p99 while a challenger gets copies of {SHADOW_SHARE:.0%}", "ms",
        measurements.median(NAME, m.SHADOWED),
        "rayloop without it", measurements.median(NAME, m.UNSHADOWED), Target(of="ratio", sign="≤", limit=1.1),
    ))  # fmt: skip


def _copies(measurements: Measurements) -> Iterator[Row]:
    loads = (
        (f"{_CANARY} with copies of the other requests", "requests/s", m.COPIED, m.UNCOPIED, m.COPIES, _least(0.97)),
        (
            f"{_OPEN}: p99, 10 % canary with copies of the other requests", "ms", m.COPIED_P99, m.UNCOPIED_P99,
            m.OPEN_COPIES, Target(of="ratio", sign="≤", limit=1.05),
        ),
    )  # fmt: skip
    for work, unit, ours, without, counter, target in loads:
        copied = measurements.median(NAME, counter) or 0.0
        values = [", ".join(f"{value:,.4g}" for value in measurements.values(NAME, name)) for name in (ours, without)]
        note = f"{copied:.1%} of the requests were copied, the others dropped; with {values[0]}, without {values[1]}"
        yield _mark_failed(measurements, ours, row(
            work, unit, measurements.median(NAME, ours), "rayloop's canary without copies",
            measurements.median(NAME, without), target, note,
        ))  # fmt: skip
    for load, ours, without in (
        ("full load", m.COPIED_CPU, m.UNCOPIED_CPU), (_OPEN, m.OPEN_COPIED_CPU, m.OPEN_UNCOPIED_CPU),
    ):  # fmt: skip
        yield _mark_failed(measurements, ours, row(
            f"CPU time of all processes, 10 % canary with copies of the other requests: {load}", "ms a request",
            measurements.median(NAME, ours), "rayloop's canary without copies", measurements.median(NAME, without),
        ))  # fmt: skip


def _reporting(measurements: Measurements) -> Iterator[Row]:
    yield _mark_failed(measurements, m.REPORTING, row(
        "cost of prediction log and live profile", "requests/s", measurements.median(NAME, m.REPORTING),
        "rayloop without them", measurements.median(NAME, m.SILENT), _least(0.9),
    ))  # fmt: skip
    yield _mark_failed(measurements, m.REPORTING, row(
        "cost of the live profile", "requests/s", measurements.median(NAME, m.REPORTING),
        "rayloop with its log alone", measurements.median(NAME, m.LOGGING), _least(0.95),
    ))  # fmt: skip


def _tensors(measurements: Measurements) -> Iterator[Row]:
    lost = measurements.median(NAME, m.LOST)
    note = "" if lost is None else f"{lost:.1%} of the rows were dropped from the prediction log"
    work, ours = f"{TENSOR_ROWS} rows a request, OIP binary tensors", measurements.median(NAME, m.TENSORS)
    for yardstick, target in ((MODEL, _least(0.8)), (ENCODED, None)):
        value = measurements.median(yardstick, m.TENSORS)
        yield _mark_failed(measurements, m.TENSORS, row(work, "rows/s", ours, yardstick, value, target, note))


def _trees(measurements: Measurements) -> Iterator[Row]:
    trees, mlp = measurements.median(NAME, m.TREES), measurements.median(NAME, m.BESIDE_TREES)
    values = [", ".join(f"{v:,.4g}" for v in measurements.values(NAME, name)) for name in (m.TREES, m.BESIDE_TREES)]
    yield _mark_failed(measurements, m.TREES, row(
        f"{_ONE_ROW}: LightGBM, {TREES} trees", "requests/s", trees, "rayloop with the MLP", mlp, _least(0.7),
        f"the trees {values[0]}, the MLP {values[1]}",
    ))  # fmt: skip
    yield row(
        f"LightGBM, {TREES} trees: largest difference of the graph's scores from the library's", "probability",
        measurements.median(NAME, m.PARITY), target=Target(of="value", sign="≤", limit=1e-5),
    )  # fmt: skip


def _changes(measurements: Measurements) -> Iterator[Row]:
    works = {m.WEIGHTS: "weight change to its last effect, under load", m.ABORT: "abort to its last effect, under load"}
    for measure, work in works.items():
        values = measurements.values(NAME, measure)
        note = f"of {len(values)}, the worst {max(values):,.0f} ms" if values else "not measured"
        limit = Target(of="value", sign="≤", limit=1000.0)
        yield _mark_failed(
            measurements, measure, row(work, "ms", measurements.median(NAME, measure), target=limit, note=note)
        )


def _everything_on(measurements: Measurements) -> Iterator[Row]:
    """Show that the log and the profile were on, by the worst round."""
    works = {
        m.LOGGED: "prediction log, rows per answered request",
        m.PROFILED: "live profile, rows per answered request",
    }
    for measure, work in works.items():
        values = measurements.values(NAME, measure)
        worst = max(values, key=lambda value: abs(value - 1.0)) if values else None
        yield row(work, "rows/answer", worst, target=Target(of="value", sign="=", limit=1.0), note="the worst round")


def _measure_load_generator(measurements: Measurements) -> Row:
    """Show that the load generator is much faster than the servers it measures."""
    names = [NAME, *(peer.name for peer in PEERS_ALL)]
    rates = {name: rate for name in names if (rate := measurements.median(name, m.RATE)) is not None}
    fastest = max(rates, key=rates.__getitem__, default="")
    return row(
        "the load itself, against a bare responder", "requests/s", measurements.median(GENERATOR, m.RATE),
        f"fastest server: {fastest}", rates.get(fastest), _least(2.0), "no figure of rayloop",
    )  # fmt: skip


def _rates(
    measurements: Measurements, work: str, measure: str, peers: list[str], target: Target, note: str = ""
) -> Iterator[Row]:
    """A row for each peer, the best first."""
    ordered = sorted(peers, key=lambda name: -(measurements.median(name, m.RATE) or 0.0))
    for place, name in enumerate(ordered):
        notes = ["the best peer"] if not place and len(ordered) > 1 else []
        yield _compared(
            measurements, work, "requests/s", measure, name, m.RATE, target, "; ".join(notes + [note] * bool(note))
        )


def _compared(
    measurements: Measurements, work: str, unit: str, ours: str, peer: str, theirs: str, target: Target, note: str = ""
) -> Row:
    value = measurements.median(peer, theirs)
    if value is None:
        note = f"{_NOT_RUN}{measurements.failure(peer) or 'not measured'}"
    elif wrong := measurements.notes(peer, theirs) or measurements.failure(peer):
        note = f"{note}; {peer}: {wrong}".removeprefix("; ")
    return _mark_failed(measurements, ours, row(work, unit, measurements.median(NAME, ours), peer, value, target, note))


def _mark_failed(measurements: Measurements, measure: str, comparison: Row) -> Row:
    """Mark a row as not met if rayloop failed requests, regardless of its speed."""
    wrong = measurements.failure(NAME) or measurements.notes(NAME, measure)
    if not wrong:
        return comparison
    note = f"{comparison.note}; rayloop: {wrong}".removeprefix("; ")
    return comparison.model_copy(update={"met": False if comparison.met is not None else None, "note": note})


def _least(ratio: float) -> Target:
    return Target(of="ratio", sign="≥", limit=ratio)
