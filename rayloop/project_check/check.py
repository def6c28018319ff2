"""Judge a project by its declarations and by samples of its tables: in seconds, without a cluster.

Pure: samples in, diagnostics out. judge.py loads the project and reads the samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import polars as pl

from cluster.errors import DataError, ProjectError
from features.definitions import FeatureSet
from features.derived_columns import joined_features
from features.offline.example_rows import build_examples
from features.offline.point_in_time import index_events, look_up_features
from features.outcomes import LabelWithin
from features.sources.source import Source
from features.sources.table_files import TableSample
from features.types import AS_OF
from rayloop.project import Project
from rayloop.project_check.diagnostics import Diagnostic
from rayloop.project_check.label_leaks import check_label_columns, check_leaks
from rayloop.project_check.source_rules import check_source, typed_rows, without_protection
from rayloop.project_check.split_rows import check_delay, check_parts, count_rows, row_times

LEAK_ROWS = 20_000
"""Examples, evenly spaced in the sample, on which features are compared with the label."""
_MAX_EVENTS = 1_000_000
"""Events of all views beyond which their features are not computed."""


class Judgment(NamedTuple):
    """Diagnostics, and what they rest on."""

    diagnostics: list[Diagnostic]
    facts: list[str]
    unseen: list[str]


def check_project(project: Project, samples: Mapping[str, TableSample]) -> Judgment:
    """Find what is wrong with a project.

    Args:
        project: The project.
        samples: Samples of its sources by name, as far as they could be read.
    """
    judgment = Judgment([*check_label_columns(project)], [], [])
    rows = {}
    for source in (without_protection(source) for source in project.sources if source.name in samples):
        judgment.diagnostics.extend(check_source(source, samples[source.name]))
        judgment.facts.append(_describe(source, samples[source.name]))
        if set(source.column_names) <= set(samples[source.name].columns):
            rows[source.name] = typed_rows(source, samples[source.name])
    if project.examples.source in rows:
        _check_examples(project, samples, rows, judgment)
    return judgment


def _check_examples(
    project: Project, samples: Mapping[str, TableSample], rows: Mapping[str, pl.DataFrame], judgment: Judgment
) -> None:
    source = project.examples.source
    try:
        examples = build_examples(
            rows[source], project.features, project.examples, project.task, None, project.split
        ).drop_nulls(AS_OF)
        if examples.is_empty():
            raise DataError("data.no_examples", source=source)
    except DataError as error:
        judgment.diagnostics.append(Diagnostic.from_error(error, f"examples of source {source!r}"))
        return
    except pl.exceptions.PolarsError as error:
        judgment.diagnostics.append(_failed(error))
        return
    _check_split(project, samples[source], examples, judgment)
    if isinstance(project.examples.label, LabelWithin):
        judgment.unseen.append("whether a feature determines the label: it is one of later rows")
        return
    try:
        sample = examples.gather_every(-(-examples.height // LEAK_ROWS))
        judgment.diagnostics.extend(check_leaks(project, with_views(project, samples, rows, sample, judgment.unseen)))
    except (DataError, pl.exceptions.PolarsError) as error:
        judgment.diagnostics.append(_failed(error))


def _check_split(project: Project, sample: TableSample, examples: pl.DataFrame, judgment: Judgment) -> None:
    if sample.weight is None:
        judgment.unseen.append(f"the split: only the first {sample.rows.height:,} rows of the table were read")
        return
    times = row_times(examples, sample.weight)
    counts = count_rows(project, examples, sample.weight)
    # Of a sample, the newest rows may be missing: what it lacks is no error.
    parts = check_parts(project, counts, times) if sample.is_whole else []
    judgment.diagnostics.extend([*parts, *check_delay(project, times)])
    judgment.facts.append(f"{counts}" if sample.is_whole else f"{counts} (estimated)")


def with_views(
    project: Project,
    samples: Mapping[str, TableSample],
    rows: Mapping[str, pl.DataFrame],
    examples: pl.DataFrame,
    unseen: list[str],
) -> pl.DataFrame:
    """Add the features of views, and those derived from them, where all events are at hand and not too many.

    Args:
        project: The project.
        samples: Samples of its sources by name.
        rows: Their rows in the types of the sources.
        examples: Rows with id, time and request-time features.
        unseen: Receives what is not added, and why.
    """
    features: FeatureSet = project.features
    lacking = {view.source for view in features.views if view.source not in rows or not samples[view.source].is_whole}
    if lacking:
        unseen.append(f"features of views: {_join(lacking)} could not be read as a whole")
    elif sum(rows[view.source].height for view in features.views) > _MAX_EVENTS:
        unseen.append(f"features of views: they have more than {_MAX_EVENTS:,} events")
    elif features.views:
        found = [look_up_features(view, index_events(view, rows[view.source]), examples) for view in features.views]
        return joined_features(features, pl.concat([examples, *found], how="horizontal"))
    return examples


def _failed(error: Exception) -> Diagnostic:
    reason = " ".join(str(error).split("\n\n")[0].split())
    return Diagnostic.from_error(ProjectError("project.features_fail", reason=reason), "features")


def _describe(source: Source, sample: TableSample) -> str:
    if sample.is_whole:
        return f"source {source.name!r}: all {sample.total:,} rows"
    of = "of more" if sample.total is None else f"of {'about ' * sample.is_estimated}{sample.total:,}"
    return f"source {source.name!r}: {sample.rows.height:,} rows {of}"


def _join(names: Iterable[str]) -> str:
    return ", ".join(f"source {name!r}" for name in sorted(names))
