"""The feature catalog: features of each view, their freshness and statistics, and the models that use them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import polars as pl

from cluster.values import Frozen
from features.definitions import Column, FeatureView
from features.profiles.profile import Profile

_TOP_VALUES = 3


class FeatureEntry(Frozen):
    """One feature, and statistics of its values in the newest training frame; None where there are none."""

    name: str
    kind: str
    definition: str
    """How it is computed, in words."""
    missing: float | None = None
    """Share of missing values."""
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    most_common: tuple[str, ...] = ()

    def cells(self) -> tuple[str, ...]:
        """Its cells in a table: name, definition, missing share, mean, std, low, high, most frequent values."""
        missing = "-" if self.missing is None else f"{self.missing:.1%}"
        figures = ("-" if figure is None else f"{figure:.4g}" for figure in (self.mean, self.std, self.low, self.high))
        return (self.name, self.definition, missing, *figures, ", ".join(self.most_common))


class ViewEntry(Frozen):
    """One view, its freshness, and the models that use it."""

    name: str
    hash: str
    owner: str
    description: str
    keys: tuple[str, ...]
    source: str
    ingested_until: datetime | None
    """From when the newest ingested event counts."""
    online_until: datetime | None
    """From when the newest event in the online store counts."""
    staleness: str
    """A sentence, when the source is stale."""
    users: tuple[str, ...]
    """Model versions that use the view."""
    features: tuple[FeatureEntry, ...]


class FeatureCatalog(Frozen):
    """All views of a project."""

    project: str
    at: datetime
    frame: str
    """The training frame from which the statistics are."""
    views: tuple[ViewEntry, ...]
    faults: tuple[str, ...] = ()
    """Model versions that could not be read, and why."""


def profile_columns(columns: tuple[Column, ...], frame: pl.DataFrame) -> Profile:
    """Profile those of ``columns`` that the frame has."""
    present = tuple(column for column in columns if column.name in frame.columns)
    profile = Profile.empty(present)
    profile.update(frame.select(column.name for column in present).to_arrow())
    return profile


def feature_entries(view: FeatureView, profile: Profile | None) -> tuple[FeatureEntry, ...]:
    """Describe the view's features, in order, with statistics where ``profile`` has them."""
    definitions = {a.name: f"{a.op} of {a.column} over {_span(a.window)}" for a in view.aggregates}
    definitions |= {
        f.name: f"newest {f.column}" + (f" within {_span(view.ttl)}" if view.ttl else "") for f in view.latest
    }
    return tuple(_entry(column, definitions[column.name], profile) for column in view.columns)


def view_users(view: FeatureView, versions: Mapping[str, tuple[FeatureView, ...]]) -> tuple[str, ...]:
    """Return the versions that use the view as it is defined now, then those that use an earlier definition."""
    current = [name for name, views in versions.items() if view.content_hash in {v.content_hash for v in views}]
    earlier = [name for name, views in versions.items() if view.name in {v.name for v in views} and name not in current]
    return (*current, *(f"{name}, an earlier definition" for name in earlier))


def _entry(column: Column, definition: str, profile: Profile | None) -> FeatureEntry:
    entry = FeatureEntry(name=column.name, kind=column.kind, definition=definition)
    if profile is None:
        return entry
    number, category = profile.numbers.get(column.name), profile.categories.get(column.name)
    if number is not None and number.total:
        figures = {"missing": number.nulls / number.total}
        if number.count:
            figures |= {"mean": number.mean, "std": number.std, "low": number.min, "high": number.max}
        return entry.model_copy(update=figures)
    if category is not None and category.total:
        top = sorted(category.counts, key=lambda value: (-category.counts[value], value))[:_TOP_VALUES]
        return entry.model_copy(update={"missing": category.nulls / category.total, "most_common": tuple(top)})
    return entry


def _span(window: timedelta) -> str:
    """A duration in its largest whole unit, such as 6 h or 7 d."""
    seconds = window.total_seconds()
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size:g} {unit}"
    return f"{seconds:g} s"
