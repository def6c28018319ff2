"""Results of a benchmark: rows that compare rayloop with a peer and a target, and the files with them.

``benchmarks/results/<area>.md`` is for people, ``<area>.json`` beside it holds the same for programs.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

import psutil

from cluster.values import Frozen
from rayloop import __version__

RESULTS = Path(__file__).parent / "results"

_DIGITS = 3
_GIB = 1024**3
_HEADINGS = ("unit", "rayloop", "peer", "peer's value", "ratio", "target", "met", "note")
_MET = {True: "yes", False: "**no**", None: ""}


class Target(Frozen):
    """A bound on the ratio of rayloop's value to the peer's, or on rayloop's value itself."""

    of: Literal["ratio", "value"]
    sign: Literal["≥", "≤", "<", "="]
    limit: float

    def __str__(self) -> str:
        return f"{self.of} {self.sign} {self.limit:g}"

    def met(self, value: float, ratio: float | None) -> bool | None:
        """Return whether the target is met; None without the ratio that it bounds."""
        actual = ratio if self.of == "ratio" else value
        if actual is None:
            return None
        limit = self.limit
        return {"≥": actual >= limit, "≤": actual <= limit, "<": actual < limit, "=": actual == limit}[self.sign]


class Row(Frozen):
    """One comparison. Values are medians of repeats; None is what could not be measured, and ``note`` says why.

    ``work`` names what was done, the same for each peer; ``ratio`` is rayloop's value divided by the peer's; ``met``
    is None without a target, or without its values; ``date`` is when this row was measured.
    """

    work: str
    unit: str
    rayloop: float | None
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""
    date: str = ""


def row(
    work: str,
    unit: str,
    rayloop: float | None,
    peer: str = "",
    peer_value: float | None = None,
    target: Target | None = None,
    note: str = "",
) -> Row:
    """A row with its ratio, and whether it meets the target."""
    ratio = rayloop / peer_value if rayloop is not None and peer_value else None
    met = target.met(rayloop, ratio) if target is not None and rayloop is not None else None
    return Row(
        work=work,
        unit=unit,
        rayloop=_rounded(rayloop),
        peer=peer,
        peer_value=_rounded(peer_value),
        ratio=_rounded(ratio),
        target=str(target or ""),
        met=met,
        note=note,
    )


def median_or_none(values: Sequence[float]) -> float | None:
    """Return the median, or None without values."""
    return median(values) if values else None


def write(
    area: str,
    rows: Sequence[Row],
    versions: Mapping[str, str],
    about: str,
    folder: Path = RESULTS,
    host: Mapping[str, Any] | None = None,
) -> Path:
    """Write the rows of an area in place of earlier rows of the same work; keep the others. Return the page's path.

    ``versions`` are those of other packages; ``host`` is ``machine()`` from before the work started.
    """
    today = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    data = folder / f"{area}.json"
    before = json.loads(data.read_text()) if data.exists() else {"rows": [], "versions": {}}
    stored_rows = [Row.model_validate(one) for one in before["rows"]]
    merged = _merged(stored_rows, [one.model_copy(update={"date": today}) for one in rows])
    content = {
        "machine": dict(host or machine()),
        # Of the code that ran: an installed package may be of another release.
        "versions": before["versions"] | dict(versions) | {"rayloop": __version__},
        "date": today,
        "rows": [one.model_dump() for one in merged],
    }
    folder.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    page = folder / f"{area}.md"
    page.write_text(_page(area, content, merged, about))
    return page


def machine() -> dict[str, Any]:
    """Describe this machine and its load: other load distorts measurements."""
    info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in info.read_text().splitlines()] if info.exists() else []
    named = [model for model in models if "CPU" in model or "Processor" in model]
    return {
        "processor": named[0] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / _GIB, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _merged(before: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Replace earlier rows of the same work by the new ones."""
    measured = {one.work for one in new}
    works = dict.fromkeys([one.work for one in before] + [one.work for one in new])
    return [one for work in works for one in (new if work in measured else before) if one.work == work]


def _page(area: str, content: Mapping[str, Any], rows: Sequence[Row], about: str) -> str:
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in content["machine"].items())
    versions = ", ".join(f"{name} {version}" for name, version in sorted(content["versions"].items()))
    lines = [f"# Benchmark: {area}", "", about, "", f"Date: {content['date']}", "", f"Machine: {facts}", ""]
    lines += [f"Versions: {versions}", ""]
    for work in dict.fromkeys(one.work for one in rows):
        lines += [f"## {work}", "", *_table([one for one in rows if one.work == work], content["date"]), ""]
    return "\n".join(lines)


def _table(rows: Sequence[Row], today: str) -> list[str]:
    lines = [f"| {' | '.join(_HEADINGS)} |", f"|{'---|' * len(_HEADINGS)}"]
    for one in rows:
        note = one.note if one.date == today else f"{one.note} (measured {one.date})".strip()
        cells = (
            one.unit, _shown(one.rayloop), one.peer, _shown(one.peer_value), _shown(one.ratio), one.target,
            _MET[one.met], note.replace("|", "/"),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _rounded(value: float | None) -> float | None:
    if value is None or not value or not math.isfinite(value):
        return value
    return round(value, max(0, _DIGITS - math.floor(math.log10(abs(value)))))


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:,.10g}"
