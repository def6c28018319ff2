"""Pages about features: the catalog, and served features against offline ones. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.times import format_utc
from cluster.web.page import empty_note, fact_boxes, render_page, section, table, tag
from features.inspection.feature_catalog import FeatureCatalog, ViewEntry
from features.inspection.training_serving_skew import FeatureSkew

_SECONDS = "%d %b %Y, %H:%M:%S UTC"
_FEATURE_HEAD = ("feature", "computed", "missing", "mean", "std", "low", "high", "most frequent")


def render_catalog(catalog: FeatureCatalog) -> str:
    """Render a section for each view: owner, freshness, users, and its features with their statistics."""
    features = sum(len(view.features) for view in catalog.views)
    used = sum(bool(view.users) for view in catalog.views)
    boxes = [("views", str(len(catalog.views))), ("features", str(features)), ("views used by a version", str(used))]
    parts = [fact_boxes(boxes), *(_view(view) for view in catalog.views)]
    figures = f"Statistics are of the training frame {catalog.frame}." if catalog.frame else "No training frame yet."
    faults = table(("version", ""), [tuple(fault.split(": ", 1)) for fault in catalog.faults])
    parts.append(section("Sources", figures, faults or empty_note("Every registered version was read.")))
    return render_page(f"{catalog.project}: features", catalog.at.timestamp(), parts)


def render_skew(
    project: str, made_at: float, rows: int, skews: Sequence[FeatureSkew], left_out: Mapping[str, int]
) -> str:
    """Render a row for each feature, those that differ first.

    Args:
        project: Name of the project.
        made_at: When the page was made, seconds since the epoch.
        rows: Number of rows that were replayed.
        skews: Result for each feature.
        left_out: Number of rows that were not replayed, by reason.
    """
    wrong = sum(bool(skew.mismatches) for skew in skews)
    boxes = [("rows replayed", f"{rows:,}"), ("features compared", str(len(skews))), ("with mismatches", str(wrong))]
    caption = (
        "Each served request is recomputed from the ingested tables, as of its own time. A mismatch is a value that"
        " differs in any bit: a null in place of a value, another number, another text."
    )
    ordered = sorted(skews, key=lambda skew: -skew.mismatches)
    head = ("from", "feature", "mismatches", "no value served", "no value offline", "largest gap", "example")
    body = table(head, [_skew(skew) for skew in ordered]) or empty_note("These requests have no computed features.")
    gone = table(("rows left out", "why"), [(f"{n:,}", why) for why, n in left_out.items()])
    rest = section("Left out", "", gone or empty_note("No row is left out."))
    parts = [fact_boxes(boxes), section("Served against offline", caption, body), rest]
    return render_page(f"{project}: skew", made_at, parts)


def _view(view: ViewEntry) -> str:
    caption = [view.description] if view.description else []
    caption.append(f"By {', '.join(view.keys)}, from {view.source}." + (f" Owner: {view.owner}." if view.owner else ""))
    state = [
        ("ingested until", format_utc(view.ingested_until, _SECONDS)),
        ("online until", format_utc(view.online_until, _SECONDS)),
        ("used by", ", ".join(view.users) or "no registered version"), ("definition", view.hash[:16]),
    ]  # fmt: skip
    if view.staleness:
        state.insert(0, ("stale", view.staleness))
    body = table(_FEATURE_HEAD, [feature.cells() for feature in view.features]) + table(("", ""), state)
    return section(view.name, " ".join(caption), body)


def _skew(skew: FeatureSkew) -> tuple[str, ...]:
    count = tag("tag " + ("alarm" if skew.mismatches else "hold"), f"{skew.mismatches:,} of {skew.rows:,}")
    gap = f"{skew.largest_difference:g}" if skew.largest_difference else "-"
    counts = (count, f"{skew.only_offline:,}", f"{skew.only_served:,}")
    return (skew.origin, skew.feature, *counts, gap, str(skew.example or ""))
