"""What the split makes of the sampled examples: rows of each part, purged rows, empty parts, slow labels. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from cluster.errors import DataError, ProjectError, RayloopError
from features.offline import purge
from features.offline.purge import Counts, Purged
from features.offline.split_dates import RowTimes, require_rows, suggest_split
from features.split import PARTS, SPLIT, TimeSplit
from features.types import AS_OF, LABEL_KNOWN_AT
from rayloop.label_delay import declared_delay, describe_path, measure_delay, rollout_policy
from rayloop.project import Project
from rayloop.project_check.diagnostics import Diagnostic

PURGED_SHARE = 0.05
"""Share of a part's rows whose purge is worth a warning."""


class PartCounts(NamedTuple):
    """Rows by part: by date, of known labels, and those that are left."""

    dated: Counts
    known: Counts
    left: Counts

    @property
    def purged(self) -> Purged:
        """The rows that are left out."""
        return Purged.between(self.dated, self.known, self.left)

    def __str__(self) -> str:
        kept = ", ".join(f"{self.left[part]:,} {part}" for part in PARTS)
        return f"split: {kept}" + (f"; purged: {self.purged}" if self.purged else "")


def count_rows(project: Project, examples: pl.DataFrame, weight: int) -> PartCounts:
    """Count the rows of each part.

    Args:
        project: The project.
        examples: Examples with their times, and with their group where the split has groups.
        weight: Rows that each of them stands for.
    """
    placed = purge.assign_parts(examples, project.split)
    block = purge.count_block(placed)
    left = block.known
    if isinstance(project.split, TimeSplit):
        left = purge.count_parts(purge.keep_rows(placed, purge.straddling_groups([block])), SPLIT)
    stages = (block.dated, block.known, left)
    return PartCounts(*({part: weight * counts.get(part, 0) for part in PARTS} for counts in stages))


def row_times(examples: pl.DataFrame, weight: int) -> RowTimes:
    """Return when examples happened and when their labels were known."""
    as_of, known_at = (examples.get_column(name).dt.epoch("us").to_numpy() for name in (AS_OF, LABEL_KNOWN_AT))
    return RowTimes(as_of, known_at, weight)


def check_parts(project: Project, counts: PartCounts, times: RowTimes) -> Iterator[Diagnostic]:
    """Find parts without rows, and parts that lose many."""
    try:
        _require_dated(project, counts, times)
        if isinstance(project.split, TimeSplit):
            require_rows(project.split, counts, lambda: times)
    except RayloopError as error:
        yield Diagnostic.from_error(error, "split")
        return
    lost = {part: counts.purged.total(part) / counts.dated[part] for part in PARTS}
    if any(share > PURGED_SHARE for share in lost.values()):
        many = DataError("data.rows_purged", purged=str(counts.purged))
        yield Diagnostic.from_error(many, "split", "warning")
    first, last = times.period
    if warning := project.split.warning(first, last):
        regardless = ProjectError("project.split_regardless_of_time", reason=warning)
        yield Diagnostic.from_error(regardless, "split", "warning")


def check_delay(project: Project, times: RowTimes) -> Iterator[Diagnostic]:
    """Find labels that take longer than a rollout waits for them."""
    delay = declared_delay(project) or measure_delay(times)
    policy = rollout_policy(project, delay)
    if policy.path == "health" and "path" not in project.rollout.model_fields_set:
        error = ProjectError("project.slow_labels", path=describe_path(policy, delay))
        yield Diagnostic.from_error(error, "label", "warning")


def _require_dated(project: Project, counts: PartCounts, times: RowTimes) -> None:
    for part in (part for part in PARTS if not counts.dated[part]):
        if not isinstance(project.split, TimeSplit):
            raise DataError("data.empty_split", split=part)
        start, end = project.split.bounds[part]
        first, last = times.period
        split = suggest_split(times)
        raise ProjectError(
            "project.split_part_empty",
            part=part,
            period=f"{start:%Y-%m-%d} to {end:%Y-%m-%d}",
            rows=f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}",
            remedy=_format_dates(split) if split else "HashSplit: no dates leave rows in every part",
        )


def _format_dates(split: TimeSplit) -> str:
    names = ("start", "validate_from", "test_from", "end")
    return ", ".join(f"{name} {getattr(split, name).isoformat()}" for name in names)
