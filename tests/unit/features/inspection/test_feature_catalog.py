"""The feature catalog: definitions, statistics and users of features, and its page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from features.builders import rolling
from features.definitions import Entity, FeatureView, Latest
from features.inspection.feature_catalog import FeatureCatalog, ViewEntry, feature_entries, profile_columns, view_users
from features.inspection.training_serving_skew import FeatureSkew, SkewExample
from monitoring.report.feature_pages import render_catalog, render_skew

NOW = datetime(2024, 1, 1, tzinfo=UTC)


def view(**changes: object) -> FeatureView:
    declared = {
        "name": "spending", "entity": Entity(name="shop", keys=("shop",)), "source": "visits", "event_time": "at",
        "known_at": "at", "aggregates": rolling("spent", timedelta(hours=6), "spent_6h"),
        "latest": (Latest(column="mood", name="mood", kind="category"),), "ttl": timedelta(days=7),
        "owner": "till <team>",
    }  # fmt: skip
    return FeatureView(**{**declared, **changes})


def test_feature_entries_have_statistics_of_the_frame() -> None:
    frame = pl.DataFrame({"spent_6h_mean": [1.0, 3.0, None, None], "mood": ["good", "bad", "good", None]})
    mean, count, mood = feature_entries(view(), profile_columns(view().columns, frame))
    assert (mean.definition, mean.missing, mean.mean, mean.std, mean.low, mean.high) == (
        "mean of spent over 6 h",
        0.5,
        2.0,
        1.0,
        1.0,
        3.0,
    )
    assert (count.definition, count.missing) == ("count of spent over 6 h", None)
    assert (mood.definition, mood.missing, mood.most_common) == ("newest mood within 7 d", 0.25, ("good", "bad"))
    assert [entry.mean for entry in feature_entries(view(), None)] == [None, None, None]


def test_view_users_separates_users_of_an_earlier_definition() -> None:
    earlier = view(ttl=None)
    versions = {
        "shop v1": (earlier,),
        "shop v2 (champion)": (view(),),
        "other v1": (view(name="another"),),
        "bare v1": (),
    }
    assert view_users(view(), versions) == ("shop v2 (champion)", "other v1", "shop v1, an earlier definition")


@pytest.mark.parametrize("stale", ["", "source 'visits' is stale: 3 h"])
def test_catalog_page_shows_all_values_escaped(stale: str) -> None:
    entry = ViewEntry(
        name="spending", hash="0123456789abcdef00", owner="till <team>", description="What a shop takes.",
        keys=("shop",), source="visits", ingested_until=NOW, online_until=None, staleness=stale,
        users=("shop v2 (champion)",), features=feature_entries(view(), None),
    )  # fmt: skip
    html = render_catalog(
        FeatureCatalog(project="shop", at=NOW, frame="", views=(entry,), faults=("shop v1: hash <differs>",))
    )
    for part in (
        "till &lt;team&gt;",
        "mean of spent over 6 h",
        "shop v2 (champion)",
        "never",
        "hash &lt;differs&gt;",
        "What a shop takes.",
    ):
        assert part in html
    assert ("is stale: 3 h" in html) is bool(stale)
    assert "<team>" not in html


def test_skew_page_shows_mismatched_features_first() -> None:
    example = SkewExample(id="r:1", as_of="2024-01-01", served_value="<0.1>", offline_value="None")
    common = {"origin": "spending", "rows": 10, "only_offline": 0, "only_served": 0, "largest_difference": 0.0}
    skews = [
        FeatureSkew(feature="fine", mismatches=0, example=None, **common),
        FeatureSkew(feature="wrong", mismatches=3, example=example, **common),
    ]
    html = render_skew("shop", NOW.timestamp(), 10, skews, {"of another version": 2})
    assert html.index("wrong") < html.index("fine")
    assert "served &lt;0.1&gt;, offline None" in html
    assert "of another version" in html


def test_feature_entries_list_the_three_most_common_values_in_order() -> None:
    frame = pl.DataFrame({"mood": ["d", "c", "c", "b", "b", "a", "a", "a"]})
    mood = feature_entries(view(), profile_columns(view().columns, frame))[-1]
    assert mood.most_common == ("a", "b", "c")


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (timedelta(days=1), "1 d"),
        (timedelta(hours=36), "36 h"),
        (timedelta(hours=1), "1 h"),
        (timedelta(minutes=90), "90 min"),
        (timedelta(minutes=1), "1 min"),
        (timedelta(seconds=90), "90 s"),
        (timedelta(seconds=1.5), "1.5 s"),
    ],
)
def test_feature_entries_give_a_window_in_its_largest_whole_unit(window: timedelta, text: str) -> None:
    declared = view(aggregates=rolling("spent", window, "spent", ["mean"]), latest=(), ttl=None)
    (entry,) = feature_entries(declared, None)
    assert entry.definition == f"mean of spent over {text}"
