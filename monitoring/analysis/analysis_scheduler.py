"""Which look is due, what looks have found so far, and which of it is new. Pure, but for what it remembers."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from cluster.values import Frozen
from monitoring.analysis.log_analysis import Asked, Finding, Looked, WindowQuality
from monitoring.detection.detector import WindowResult
from monitoring.drift_policy import DriftPolicy

HISTORY = 100
"""Looks that are kept."""
MAX_RANKED = 20
"""Columns that a kept look ranks."""
MAX_QUALITY = 1_000
"""Figures of windows and segments that are kept, the newest."""


class LookState(Frozen):
    """What a lookout remembers. ``spells`` has the newest window in which each sort of finding was made."""

    due: Asked | None = None
    looks: tuple[Looked, ...] = ()
    quality: tuple[WindowQuality, ...] = ()
    spells: dict[str, float] = Field(default_factory=dict)
    ordinary: tuple[float, ...] = ()


class Lookout:
    """Looks of one model. Only the newest run waits for a look: one that comes late has nothing to add to it."""

    def __init__(self, state: LookState | None = None) -> None:
        self.state = state or LookState()

    def follow(self) -> None:
        """Another version is watched from now on: what was found stays, what was going on does not."""
        self._set(due=None, spells={}, ordinary=())

    def newest(self, version: str) -> Looked | None:
        """The last look at a version, with the figures of its windows that are known by now."""
        mine = [looked for looked in self.state.looks if looked.version == version]
        known = tuple(q for q in self.state.quality if q.version == version)
        return mine[-1].model_copy(update={"quality": known}) if mine else None

    def closed(self, model: str, policy: DriftPolicy, results: Sequence[WindowResult]) -> None:
        """Have the newest closed window looked at, with all whose labels may still come."""
        newest = results[-1]
        if policy.look is None or not newest.judged:
            return
        since = newest.window - policy.look.label_wait_s
        mine = [r.window for r in results if r.version == newest.version and r.window > since]
        self._set(
            due=Asked(
                model=model,
                version=newest.version,
                windows=tuple(sorted(set(mine))),
                since=newest.since,
                policy=policy,
                ordinary=self.state.ordinary,
            )
        )

    def took(self, asked: Asked, looked: Looked) -> list[Finding]:
        """Keep what was seen. Returns the findings that are not part of a spell that was called out before."""
        if self.state.due == asked:
            self._set(due=None)
        fresh = {(q.version, q.window, q.segment): q for q in (*self.state.quality, *looked.quality)}
        ordered = sorted(fresh.values(), key=lambda q: q.window)[-MAX_QUALITY:]
        ordinary = looked.multivariate.ordinary if looked.multivariate else asked.ordinary
        kept = (*self.state.looks, _slim(looked))[-HISTORY:]
        self._set(looks=kept, quality=_with_estimates(ordered, self.state.quality), ordinary=ordinary)
        return [one for one in sorted(looked.findings, key=lambda f: f.window) if self._is_new(one, asked.policy)]

    def gave_up(self, asked: Asked) -> None:
        """A look that cannot be had is not asked for again."""
        if self.state.due == asked:
            self._set(due=None)

    def _is_new(self, found: Finding, policy: DriftPolicy) -> bool:
        key, spells = f"{found.kind} {found.name}".strip(), self.state.spells
        before = spells.get(key)
        self._set(spells={**spells, key: max(found.window, before if before is not None else found.window)})
        # As for drift: silent until ``release`` windows in a row were quiet.
        return before is None or found.window > before + policy.release * policy.window_s

    def _set(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)


def _slim(looked: Looked) -> Looked:
    """What is worth keeping of a look: of segments the columns that moved, of a thousand ranked columns the first."""
    apart = looked.multivariate
    if apart is not None:
        ranked = apart.separation.ranked[:MAX_RANKED]
        separation = apart.separation.model_copy(update={"ranked": ranked})
        apart = apart.model_copy(update={"separation": separation, "ordinary": ()})
    segments = {
        name: result.model_copy(update={"columns": {column: result.columns[column] for column in result.drifted}})
        for name, result in looked.segments.items()
    }
    return looked.model_copy(update={"quality": (), "multivariate": apart, "segments": segments})


def _with_estimates(fresh: Sequence[WindowQuality], before: Sequence[WindowQuality]) -> tuple[WindowQuality, ...]:
    """PAPE is made once, while a window is the newest: it stays beside what is made anew."""
    known = {(q.version, q.window, q.segment): q.estimated for q in before}
    return tuple(
        q.model_copy(update={"estimated": {**known.get((q.version, q.window, q.segment), {}), **q.estimated}})
        for q in fresh
    )
