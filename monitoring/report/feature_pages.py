"""Pages of the feature layer: the catalogue, and served features against offline ones. Values in, HTML out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.web.page import empty_note, fact_boxes, render_page, section, table, tag
from features.inspection.catalog import FeatureCatalog, FeatureEntry, ViewEntry
from features.inspection.training_serving_skew import FeatureSkew

_FEATURE_HEAD = ("feature", "made", "missing", "mean", "std", "low", "high", "commonest")


def render_catalogue(catalogue: FeatureCatalog) -> str:
    """A section for each view: who owns it, how fresh it is, who uses it, and its features with their figures."""
    features = sum(len(view.features) for view in catalogue.views)
    used = sum(bool(view.users) for view in catalogue.views)
    boxes = [("views", str(len(catalogue.views))), ("features", str(features)), ("views used by a version", str(used))]
    parts = [fact_boxes(boxes), *(_view(view) for view in catalogue.views)]
    figures = f"Figures are of the training frame {catalogue.frame}." if catalogue.frame else "No training frame yet."
    faults = table(("version", ""), [tuple(fault.split(": ", 1)) for fault in catalogue.faults])
    parts.append(
        section("Where this comes from", figures, faults or empty_note("Every registered version could be read."))
    )
    return render_page(f"{catalogue.project}: features", catalogue.at.timestamp(), parts)


def render_skew(
    project: str, made_at: float, rows: int, skews: Sequence[FeatureSkew], left_out: Mapping[str, int]
) -> str:
    """One row a feature, those that differ first."""
    wrong = sum(bool(one.mismatches) for one in skews)
    boxes = [("rows replayed", f"{rows:,}"), ("features compared", str(len(skews))), ("with mismatches", str(wrong))]
    caption = (
        "Each served request was computed again from the landed tables, as of its own time. A mismatch is a value that is not"
        " the same in every bit: a null for a value, a number of other digits, another word."
    )
    ordered = sorted(skews, key=lambda one: -one.mismatches)
    head = ("from", "feature", "mismatches", "no value served", "no value offline", "largest gap", "for example")
    body = table(head, [_skew(one) for one in ordered]) or empty_note("No feature of these requests is computed.")
    gone = table(("rows left out", "why"), [(f"{n:,}", why) for why, n in left_out.items()])
    parts = [fact_boxes(boxes), section("Served against offline", caption, body)]
    return render_page(
        f"{project}: skew", made_at, [*parts, section("Left out", "", gone or empty_note("No row was left out."))]
    )


def _view(view: ViewEntry) -> str:
    told = [view.description] if view.description else []
    told.append(f"By {', '.join(view.keys)}, from {view.source}." + (f" Owner: {view.owner}." if view.owner else ""))
    state = [
        ("landed until", _time(view.ingested_until)), ("online until", _time(view.online_until)),
        ("used by", ", ".join(view.users) or "no registered version"), ("definition", view.hash[:16]),
    ]  # fmt: skip
    if view.staleness:
        state.insert(0, ("stale", view.staleness))
    rows = [(name, value) for name, value in state]
    body = table(_FEATURE_HEAD, [_feature(feature) for feature in view.features]) + table(("", ""), rows)
    return section(view.name, " ".join(told), body)


def _feature(feature: FeatureEntry) -> tuple[str, ...]:
    missing = "-" if feature.missing is None else f"{feature.missing:.1%}"
    figures = [
        "-" if value is None else f"{value:.4g}" for value in (feature.mean, feature.std, feature.low, feature.high)
    ]
    return (feature.name, feature.definition, missing, *figures, ", ".join(feature.most_common))


def _skew(one: FeatureSkew) -> tuple[str, ...]:
    example = ""
    if one.example is not None:
        told = f"row {one.example.id} as of {one.example.as_of}: served {one.example.served}, offline {one.example.offline}"
        example = told
    share = f"{one.mismatches:,} of {one.rows:,}"
    count = tag("tag " + ("alarm" if one.mismatches else "hold"), share)
    gap = f"{one.largest_difference:g}" if one.largest_difference else "-"
    return (
        one.origin,
        one.feature,
        count,
        f"{one.only_offline:,}",
        f"{one.only_served:,}",
        gap,
        example,
    )


def _time(at: object) -> str:
    return "never" if at is None else f"{at:%d %b %Y, %H:%M:%S} UTC"
