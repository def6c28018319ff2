"""The command line of the serving benchmark: rounds of visits, a results file after each."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks import results
from benchmarks.serving import comparisons, measures, model, samples
from benchmarks.serving.client import ROOT, load
from benchmarks.serving.environments import environment, pinned
from benchmarks.serving.measures import Measures
from benchmarks.serving.processes import server
from benchmarks.serving.rayloop import NAME, Rayloop
from benchmarks.serving.subjects import EMPTY, PEERS_ALL, Peer, Subject, answers, running
from benchmarks.serving.visits import Work, closed_plan, model_alone, visit, visit_rayloop
from benchmarks.teller import Teller
from cluster import local_cluster

AREA = "serving"
VISITED = ("one_row", "canary", "open_loop", "shadow", "reporting", "tensors", "changes")
OWN = ("batch", "verdicts")
"""Sections with modules of their own, whose ``rows()`` gives their rows."""

_ABOUT = """\
One row of the table is one comparison: rayloop's value, the peer's, their ratio, the target, and whether it is met.
Everything was measured in one run, one server up at a time, in rounds; a value is the median of the rounds.
docs/benchmarks.md describes the method and what makes it fair."""
_ROUNDS, _SECONDS = 3, 5.0
_START_S = 20.0


def main() -> None:
    """Run the sections that were asked for, and write the results."""
    asked = _arguments(sys.argv[1:])
    asked.host = results.machine()
    sections = frozenset(asked.only)
    if sections & frozenset(VISITED):
        _visits(sections & frozenset(VISITED), asked)
    for name in [name for name in OWN if name in sections]:
        _own(name, asked)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    every = (*VISITED, *OWN)
    parser.add_argument(
        "--only", type=_listed(every), default=every, help=f"some of {','.join(every)}; others are kept"
    )
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="how often each server is visited")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="length of one measurement")
    names = tuple(dict.fromkeys(peer.folder for peer in PEERS_ALL))
    parser.add_argument("--peers", type=_listed(names), default=names, help=f"some of {','.join(names)}; for trials")
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="folder of the results")
    return parser.parse_args(words)


def _listed(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        words = tuple(word for word in text.split(",") if word)
        if unknown := [word for word in words if word not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: known are {', '.join(known)}")
        return words

    return parse


def _visits(sections: frozenset[str], asked: argparse.Namespace) -> None:
    home = Path(tempfile.mkdtemp(prefix="rayloop-benchmark-"))
    say = Teller("before")
    found = Measures(say)
    try:
        bundles = (model.write_bundle(home / "champion", 1), model.write_bundle(home / "challenger", 2))
        work = Work.of(sections, asked.seconds, bundles[0])
        rayloop = Rayloop(home / "rayloop", bundles)
        peers = [peer for peer in _wanted(work) if peer.folder in asked.peers]
        for peer in [peer for peer in peers if not peer.ray]:
            with found.running(peer.name):
                environment(peer.folder, say)
        for turn in range(asked.rounds):
            say.place = f"round {turn + 1} of {asked.rounds}"
            _round(turn, rayloop, peers, work, found, say)
            page = results.write(AREA, comparisons.rows(found, sections), _versions(), _ABOUT, asked.out, asked.host)
        say(f"written to {page}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _round(turn: int, rayloop: Rayloop, peers: list[Peer], work: Work, found: Measures, say: Teller) -> None:
    """Each server once; every other round in reverse, so that a drift of the machine favours nobody."""
    if work.wants("one_row", "canary"):
        _generator(work, found)
    if work.wants("tensors"):
        model_alone(work, found)
    order: list[Peer | None] = [None, *peers]
    for peer in order if turn % 2 == 0 else order[::-1]:
        if peer is None:
            say(f"{NAME} starts")
            with rayloop.running() as subject:
                visit_rayloop(rayloop, subject, work, found)
        elif not found.failure(peer.name):
            say(f"{peer.name} starts")
            with found.running(peer.name), running(peer, work.folder, say) as subject:
                visit(subject, work, found)


def _wanted(work: Work) -> list[Peer]:
    """The peers that the sections compare with."""
    if work.wants("one_row", "canary"):
        return list(PEERS_ALL)
    return [peer for peer in PEERS_ALL if peer.name != EMPTY] if work.wants("open_loop") else []


def _generator(work: Work, found: Measures) -> None:
    port = local_cluster.free_port()
    subject = Subject(comparisons.GENERATOR, port, "/", samples.record, samples.record_scores)
    requests = [samples.record("/", part) for part in samples.split(work.rows, 1)]
    command = [sys.executable, "-m", "benchmarks.serving.responder", str(port)]
    log = work.folder.parent / "responder.log"
    with server(command, os.environ, ROOT, log, lambda: answers(port, requests[0]), _START_S):
        report = load(closed_plan(subject, requests, work.seconds))
    found.add(comparisons.GENERATOR, measures.RATE, report.per_second)


def _own(name: str, asked: argparse.Namespace) -> None:
    """A section in a module of its own, when it is there."""
    module = f"benchmarks.serving.{name}"
    if importlib.util.find_spec(module) is None:
        print(f"no section {name} yet", flush=True)
        return
    rows = [results.Row.model_validate(made) for made in importlib.import_module(module).rows()]
    print(f"written to {results.write(AREA, rows, _versions(), _ABOUT, asked.out, asked.host)}", flush=True)


def _versions() -> dict[str, str]:
    own = {name: version(name) for name in ("rayloop", "ray", "onnxruntime", "uvloop")}
    return own | dict(pinned(folder) for folder in dict.fromkeys(peer.folder for peer in PEERS_ALL if not peer.ray))


if __name__ == "__main__":
    main()
