"""Load a project, read samples of its tables, and judge it."""

from __future__ import annotations

import time

from cluster.errors import DataError, RayloopError
from features.sources.source import Source
from features.sources.table_files import TableSample, sample_table
from rayloop.project import Location, Project, load_project, locate_project
from rayloop.project_check.check import check_project
from rayloop.project_check.diagnostics import CheckReport, Diagnostic


def judge_project(reference: str) -> CheckReport:
    """Judge a project without a cluster.

    Args:
        reference: Path or module name of the project.

    Returns:
        The diagnostics; a project that cannot be loaded has one.
    """
    started = time.perf_counter()
    try:
        location = locate_project(reference)
        project = load_project(location)
    except RayloopError as error:
        diagnostic = Diagnostic.from_error(error, "project")
        return CheckReport(project=reference, diagnostics=(diagnostic,), seconds=time.perf_counter() - started)
    samples, diagnostics, unseen = read_samples(project, location)
    judgment = check_project(project, samples)
    return CheckReport(
        project=project.name,
        diagnostics=tuple(sorted((*diagnostics, *judgment.diagnostics), key=lambda diagnostic: diagnostic.severity)),
        facts=tuple(judgment.facts),
        unseen=(*unseen, *judgment.unseen),
        seconds=time.perf_counter() - started,
    )


def read_samples(project: Project, location: Location) -> tuple[dict[str, TableSample], list[Diagnostic], list[str]]:
    """Return samples of a project's sources by name, what is wrong with the others, and what could not be read."""
    samples, diagnostics, unseen = {}, [], []
    for source in project.sources:
        files = source.reader.files
        if files is None or not files.is_local:
            unseen.append(f"source {source.name!r}: {_place(source)}")
            continue
        try:
            samples[source.name] = sample_table(files, location.folder, source.column_names)
        except DataError as error:
            diagnostics.append(Diagnostic.from_error(error, f"source {source.name!r}"))
    return samples, diagnostics, unseen


def _place(source: Source) -> str:
    reader = source.reader
    if reader is not source.read:
        return "its rows come from a Python function"
    return f"its rows are not in local files, or options say which of them are read ({reader.location})"
