"""The command line of the serving benchmark: rounds over all servers, with results written after each round."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import results
from benchmarks.options import listed
from benchmarks.progress import ProgressPrinter
from benchmarks.serving import boosted, comparisons, measures, model, samples
from benchmarks.serving.client import ROOT, load
from benchmarks.serving.environments import environment, pinned
from benchmarks.serving.measures import Measurements
from benchmarks.serving.processes import server
from benchmarks.serving.rayloop import NAME, ServingCluster
from benchmarks.serving.server_measurements import (
    ServingWorkload,
    closed_plan,
    measure_rayloop,
    measure_server,
    model_alone,
)
from benchmarks.serving.subjects import EMPTY, PEERS_ALL, Peer, Subject, answers, running
from cluster.node.ports import free_port

AREA = "serving"
SERVER_SECTIONS = ("one_row", "canary", "open_loop", "shadow", "copies", "reporting", "tensors", "trees", "changes")
OWN = ("batch", "verdicts")
"""Sections whose rows come from ``rows()`` of a module with the same name."""

_ABOUT = """\
One row of the table is one comparison: rayloop's value, the peer's, their ratio, the target, and whether it is met.
Everything was measured in one run, one server up at a time, in rounds; a value is the median of the rounds.
docs/benchmarks.md describes the method and what makes it fair."""
_ROUNDS, _SECONDS = 3, 5.0
_START_S = 20.0


def main() -> None:
    """Run the chosen sections and write their results."""
    arguments = _arguments(sys.argv[1:])
    arguments.host = results.machine()
    sections = frozenset(arguments.only)
    if sections & frozenset(SERVER_SECTIONS):
        _measure_servers(sections & frozenset(SERVER_SECTIONS), arguments)
    for name in [name for name in OWN if name in sections]:
        _own(name, arguments)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    every = (*SERVER_SECTIONS, *OWN)
    parser.add_argument("--only", type=listed(every), default=every, help=f"some of {','.join(every)}; others are kept")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="how often each server is measured")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="length of one measurement")
    names = tuple(dict.fromkeys(peer.folder for peer in PEERS_ALL))
    parser.add_argument("--peers", type=listed(names), default=names, help=f"some of {','.join(names)}; for trials")
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="folder of the results")
    return parser.parse_args(words)


def _measure_servers(sections: frozenset[str], arguments: argparse.Namespace) -> None:
    home = Path(tempfile.mkdtemp(prefix="rayloop-benchmark-"))
    progress = ProgressPrinter("before")
    measurements = Measurements(progress)
    try:
        bundles = [model.write_bundle(home / "champion", 1), model.write_bundle(home / "challenger", 2)]
        if "trees" in sections:
            trees, difference = boosted.write_bundle(home / "trees")
            bundles.append(trees)
            measurements.add(NAME, measures.PARITY, difference)
        work = ServingWorkload.of(sections, arguments.seconds, bundles[0])
        rayloop = ServingCluster(home / "rayloop", bundles)
        peers = [peer for peer in _required_peers(work) if peer.folder in arguments.peers]
        for peer in [peer for peer in peers if not peer.ray]:
            with measurements.running(peer.name):
                environment(peer.folder, progress)
        for turn in range(arguments.rounds):
            progress.prefix = f"round {turn + 1} of {arguments.rounds}"
            _round(turn, rayloop, peers, work, measurements, progress)
            page = results.write(
                AREA, comparisons.rows(measurements, sections), _versions(), _ABOUT, arguments.out, arguments.host
            )
        progress(f"written to {page}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _round(
    turn: int,
    rayloop: ServingCluster,
    peers: list[Peer],
    work: ServingWorkload,
    measurements: Measurements,
    progress: ProgressPrinter,
) -> None:
    """Measure each server once; every other round in reverse, so that machine drift affects all alike."""
    if work.wants("one_row", "canary"):
        _measure_load_generator(work, measurements)
    if work.wants("tensors"):
        model_alone(work, measurements)
    order: list[Peer | None] = [None, *peers]
    for peer in order if turn % 2 == 0 else order[::-1]:
        if peer is None:
            progress(f"{NAME} starts")
            with rayloop.running() as subject:
                measure_rayloop(rayloop, subject, work, measurements)
        elif not measurements.failure(peer.name):
            progress(f"{peer.name} starts")
            with measurements.running(peer.name), running(peer, work.folder, progress) as subject:
                measure_server(subject, work, measurements)


def _required_peers(work: ServingWorkload) -> list[Peer]:
    """The peers that the sections compare with."""
    if work.wants("one_row", "canary"):
        return list(PEERS_ALL)
    return [peer for peer in PEERS_ALL if peer.name != EMPTY] if work.wants("open_loop") else []


def _measure_load_generator(work: ServingWorkload, measurements: Measurements) -> None:
    port = free_port()
    subject = Subject(comparisons.GENERATOR, port, "/", samples.record, samples.record_scores)
    requests = [samples.record("/", part) for part in samples.split(work.rows, 1)]
    command = [sys.executable, "-m", "benchmarks.serving.responder", str(port)]
    log = work.folder.parent / "responder.log"
    with server(command, os.environ, ROOT, log, lambda: answers(port, requests[0]), _START_S):
        report = load(closed_plan(subject, requests, work.seconds))
    measurements.add(comparisons.GENERATOR, measures.RATE, report.per_second)


def _own(name: str, arguments: argparse.Namespace) -> None:
    """A section in a module of its own, when it is there."""
    module = f"benchmarks.serving.{name}"
    if importlib.util.find_spec(module) is None:
        print(f"no section {name} yet", flush=True)
        return
    rows = [results.Row.model_validate(record) for record in importlib.import_module(module).rows()]
    print(f"written to {results.write(AREA, rows, _versions(), _ABOUT, arguments.out, arguments.host)}", flush=True)


def _versions() -> dict[str, str]:
    own = {name: version(name) for name in ("ray", "onnxruntime", "uvloop")}
    return own | dict(pinned(folder) for folder in dict.fromkeys(peer.folder for peer in PEERS_ALL if not peer.ray))


if __name__ == "__main__":
    main()
