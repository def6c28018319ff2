"""The sample of faults, drawn once and kept (sample.csv), with the reason for each that no test can notice."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tests.mutation.faults import Fault, draw, find, path_of

FILE = Path(__file__).with_name("sample.csv")


class Entry(NamedTuple):
    """A fault of the sample, named by its lines, which stay while lines around them move."""

    module: str
    before: str
    after: str
    reason: str = ""
    """Why no test can notice it; empty where one must."""


def read() -> list[Entry]:
    with FILE.open(newline="") as file:
        return [Entry(*row) for row in csv.reader(file)]


def write(entries: Iterable[Entry]) -> None:
    with FILE.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(sorted(entries))


def faults(entries: Iterable[Entry]) -> list[Fault]:
    """Return the faults of entries whose lines are still in the product."""
    lines: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for entry in entries:
        lines[entry.module][entry.before, entry.after] += 1
    return list(chain.from_iterable(find(module, lines[module]) for module in lines if path_of(module).exists()))


def renew(count: int, seed: int) -> list[Entry]:
    """Return ``count`` entries: those whose lines are still there, and others, drawn, for the rest."""
    entries = read() if FILE.exists() else []
    reason = {entry[:3]: entry.reason for entry in entries}
    kept = [Entry(*fault.key, reason[fault.key]) for fault in faults(entries)]
    keys = {entry[:3] for entry in kept}
    for fault in draw(seed):
        if len(kept) >= count:
            break
        if fault.key not in keys:
            kept.append(Entry(*fault.key))
            keys.add(fault.key)
    return kept
