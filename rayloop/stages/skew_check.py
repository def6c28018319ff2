"""Training-serving skew: compute served requests' features offline again, and compare them bit for bit."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import NamedTuple

import polars as pl

from cluster.errors import DataError
from cluster.names import CHALLENGER, CHAMPION, predictions_table
from features.definitions import FeatureSet
from features.inspection.training_serving_skew import FeatureSkew, compare_frames, merge_skews
from features.offline.training_frame import OfflineFeatureReader
from features.types import AS_OF, ID
from rayloop.context import ProjectContext
from rayloop.lineage import load_lineages
from rayloop.stages import feature_data
from rayloop.stages.deploy import flush_log_if_served

MAX_ROWS = 200_000
"""How many of the newest log rows are replayed."""

_BLOCK_ROWS = 20_000


class SkewReplay(NamedTuple):
    """The result of a comparison."""

    rows: int
    """Replayed rows."""
    features: tuple[FeatureSkew, ...]
    left_out: dict[str, int]
    """Log rows that could not be replayed, by reason."""

    @property
    def mismatched_features(self) -> list[FeatureSkew]:
        """The features that differ in any row."""
        return [feature for feature in self.features if feature.mismatches]


def replay(context: ProjectContext) -> SkewReplay:
    """Replay the newest log rows and compare. Raises DataError when the log is empty."""
    log = _log(context)
    sets = _feature_sets(context)
    snapshots = feature_data.latest_snapshots(context)
    champions = set(log.filter(pl.col("variant") == CHAMPION)["version"])
    champion_hashes = {sets[version].content_hash for version in champions if version in sets}
    left_out: dict[str, int] = {}
    skews: list[FeatureSkew] = []
    rows = 0
    for (version, variant), part in log.partition_by("version", "variant", as_dict=True, maintain_order=True).items():
        features = sets.get(str(version))
        why = _obstacle(features, str(variant), part, champion_hashes, snapshots)
        if why or features is None:
            left_out[why] = left_out.get(why, 0) + part.height
            continue
        offline = OfflineFeatureReader(features, snapshots, context.settings)
        for block in part.iter_slices(_BLOCK_ROWS):
            served = block.select(ID, AS_OF, pl.col("features").struct.unnest())
            skews += compare_frames(features, served, pl.DataFrame(offline(served.to_arrow())))
        rows += part.height
    return SkewReplay(rows, tuple(merge_skews(skews)), left_out)


def _log(context: ProjectContext) -> pl.DataFrame:
    name = context.project.name
    flush_log_if_served(context)
    log = context.tables.latest(predictions_table(name))
    if log is None or not log.rows:
        raise DataError("data.log_empty", model=name)
    columns = [ID, "version", "variant", "at", AS_OF, "features"]
    parts = context.tables.parts(log)[1]
    return newest_rows((pl.DataFrame(batch) for part in parts for batch in part.read(columns)), MAX_ROWS)


def newest_rows(batches: Iterable[pl.DataFrame], count: int) -> pl.DataFrame:
    """Return the ``count`` rows with the latest ``at``, in its order; at most three times as many are in memory."""
    newest: list[pl.DataFrame] = []
    for batch in batches:
        newest.append(batch)
        if sum(rows.height for rows in newest) > 2 * count:
            newest = [_latest(newest, count)]
    return _latest(newest, count)


def _latest(newest: list[pl.DataFrame], count: int) -> pl.DataFrame:
    return pl.concat(newest).sort("at", maintain_order=True).tail(count)


def _feature_sets(context: ProjectContext) -> dict[str, FeatureSet]:
    lineages = load_lineages(context.registry, [context.project.name])
    return {lineage.version.version: lineage.manifest.features for lineage in lineages if lineage.manifest}


def _obstacle(
    features: FeatureSet | None, variant: str, part: pl.DataFrame, champion_hashes: set[str], sources: Container[str]
) -> str:
    """Say why rows cannot be replayed; empty when they can. The log has the champion's features for all variants."""
    if features is None:
        return "answered by a version that is no longer registered"
    if variant == CHALLENGER and champion_hashes != {features.content_hash}:
        return "answered by a challenger, with features of a champion that is not in the log"
    if missing := [view.source for view in features.views if view.source not in sources]:
        return f"from a source that the project no longer has: {', '.join(missing)}"
    fields = {field.name for field in part.schema["features"].fields}  # type: ignore[attr-defined]
    return "" if {c.name for c in features.available_columns} <= fields else "logged without some of the features"


def describe_replay(replayed: SkewReplay) -> Iterator[str]:
    """Describe the result, a line for each finding."""
    yield (
        f"{replayed.rows:,} served rows replayed, {len(replayed.features)} features compared bit for bit:"
        f" {len(replayed.mismatched_features)} with mismatches"
    )
    for skew in replayed.mismatched_features:
        yield f"{skew.origin}.{skew.feature}: {skew.mismatches:,} of {skew.rows:,} rows differ{_kind(skew)}"
        if skew.example is not None:
            yield f"  {skew.example}"
    for why, rows in replayed.left_out.items():
        yield f"{rows:,} rows skipped: {why}"


def _kind(skew: FeatureSkew) -> str:
    parts = [f"{skew.only_offline:,} had no value when served"] if skew.only_offline else []
    parts += [f"{skew.only_served:,} have none offline"] if skew.only_served else []
    parts += [f"by {skew.largest_difference:g} at most"] if skew.largest_difference else []
    return f" ({', '.join(parts)})" if parts else ""
