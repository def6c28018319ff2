"""The catalogue: what each view gives, how fresh it is, what its values look like, and which models use it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import polars as pl

from cluster.values import Frozen
from features.definitions import Column, FeatureView
from features.profiles.profile import Profile

_TOP = 3


class FeatureEntry(Frozen):
    """One feature: how it is made, and its values in the newest training frame; None where there is no such figure."""

    name: str
    kind: str
    definition: str
    missing: float | None = None
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    most_common: tuple[str, ...] = ()


class ViewEntry(Frozen):
    """One view. ``ingested_until`` is from when its newest landed event counts, ``online_until`` how far its state online has come."""

    name: str
    hash: str
    owner: str
    description: str
    keys: tuple[str, ...]
    source: str
    ingested_until: datetime | None
    online_until: datetime | None
    staleness: str
    users: tuple[str, ...]
    features: tuple[FeatureEntry, ...]


class FeatureCatalog(Frozen):
    """All views of a project; ``frame`` names the training frame that the figures are of, ``faults`` what could not be read."""

    project: str
    at: datetime
    frame: str
    views: tuple[ViewEntry, ...]
    faults: tuple[str, ...] = ()


def profile_columns(columns: tuple[Column, ...], frame: pl.DataFrame) -> Profile:
    """Figures of the columns that the frame has."""
    present = tuple(column for column in columns if column.name in frame.columns)
    profile = Profile.empty(present)
    profile.update(frame.select(column.name for column in present).to_arrow())
    return profile


def feature_entries(view: FeatureView, profile: Profile | None) -> tuple[FeatureEntry, ...]:
    """The view's features, in order, with their figures where there are any."""
    made = {a.name: f"{a.op} of {a.column} over {_span(a.window)}" for a in view.aggregates}
    made |= {f.name: f"newest {f.column}" + (f" within {_span(view.ttl)}" if view.ttl else "") for f in view.latest}
    return tuple(_entry(column, made[column.name], profile) for column in view.columns)


def view_users(view: FeatureView, versions: Mapping[str, tuple[FeatureView, ...]]) -> tuple[str, ...]:
    """Versions that use the view as it is defined now, and those that use an earlier definition of its name."""
    now = [name for name, views in versions.items() if view.content_hash in {v.content_hash for v in views}]
    named = [name for name, views in versions.items() if view.name in {v.name for v in views} and name not in now]
    return (*now, *(f"{name}, as it was defined before" for name in named))


def _entry(column: Column, made: str, profile: Profile | None) -> FeatureEntry:
    bare = FeatureEntry(name=column.name, kind=column.kind, definition=made)
    if profile is None:
        return bare
    number, category = profile.numbers.get(column.name), profile.categories.get(column.name)
    if number is not None and number.total:
        figures = {"missing": number.nulls / number.total}
        if number.count:
            figures |= {"mean": number.mean, "std": number.std, "low": number.min, "high": number.max}
        return bare.model_copy(update=figures)
    if category is not None and category.total:
        top = sorted(category.counts, key=lambda value: (-category.counts[value], value))[:_TOP]
        return bare.model_copy(update={"missing": category.nulls / category.total, "most_common": tuple(top)})
    return bare


def _span(window: timedelta) -> str:
    """A duration in its largest whole unit: 6 h, 7 d."""
    seconds = window.total_seconds()
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size:g} {unit}"
    return f"{seconds:g} s"
