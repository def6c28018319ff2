"""Import a model: read it, match it with reference rows, convert it, and write it into a project. Nothing of a model
that cannot be served is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from cluster.errors import DataError, ProjectError
from cluster.permissions import current_user
from cluster.settings import Settings, hide_password
from cluster.values import Task, TaskKind
from features.definitions import Column
from features.manifest import MODEL_FILE
from features.offline.example_rows import build_examples
from features.offline.split_dates import RowTimes
from features.sources.table_files import TableFiles, TableSample, sample_table
from features.sources.validation import cast_column
from features.types import AS_OF
from rayloop.project import Location, Project, load_project, locate_project, require_name
from rayloop.project_check.check import with_views
from rayloop.project_check.judge import read_samples
from rayloop.project_check.source_rules import typed_rows, without_protection
from rayloop.scaffold.choices import LABEL_NAMES, Choices
from rayloop.scaffold.init import find_table, read_times
from rayloop.scaffold.module_text import Draft, write_module, write_request
from rayloop.scaffold.table_profile import ColumnProfile, TableProfile, profile_table
from trainers.imports.conversion import Conversion, convert, infer_task, match_columns, name_classes
from trainers.imports.imported_model import FACTS_FILE, FOLDER, ImportFacts, sha256_of
from trainers.imports.model_files import ModelFile, find_model, read_model
from trainers.imports.source_model import InputKind, SourceModel

ROWS = 20_000
"""Reference rows on which a model is compared with its graph, at most."""
_PROJECT_FILE, _REQUEST_FILE = "project.py", "request.json"


class ImportRequest(NamedTuple):
    """What the user says; empty: nothing."""

    project: str
    model: str
    rows: str = ""
    label: str = ""
    key: str = ""
    time: str = ""
    task: str = ""
    columns: tuple[str, ...] = ()
    output: str = ""
    trust: bool = False


def import_model(request: ImportRequest, settings: Settings, tell: Callable[[str], object]) -> str:
    """Write a model into a project, and the project if there is none.

    Args:
        request: What to import, and where to.
        settings: Where MLflow is.
        tell: Called with each line for the user.

    Returns:
        Path of the project's module.

    Raises:
        DataError: Model or rows cannot be read, or do not fit each other.
        ProjectError: The project cannot be written, or its task is not clear.
    """
    location = _existing(request.project)
    if location is None:
        require_name(request.project)
        if not request.rows:
            raise ProjectError("project.import_rows", project=request.project)
    file = _fetch(request.model, settings)
    source = read_model(file, request.output, request.trust)
    if request.columns:
        source = source.with_names(request.columns)
    if location is None:
        conversion, draft = _convert_for_table(request, source)
        folder, texts = Path(request.project), {_PROJECT_FILE: write_module(draft), _REQUEST_FILE: write_request(draft)}
    else:
        conversion = _convert_for_project(location, source, request.rows)
        folder, texts = Path(location.path).parent, {}
    facts = _facts(request, file, source, conversion)
    _write(folder, facts, conversion.graph, texts)
    tell(
        f"{facts.format} model of {len(source.signature.names)} columns, {conversion.task.kind}: its graph's scores "
        f"differ from its own by at most {conversion.parity:.1g} on {conversion.rows:,} rows"
    )
    tell(f"written to {folder}/")
    return location.path if location else str(folder / _PROJECT_FILE)


def _existing(reference: str) -> Location | None:
    """The project that there is; None: it is a name for a new one."""
    path = Path(reference) / _PROJECT_FILE
    if path.is_file():
        return locate_project(str(path))
    return locate_project(reference) if set(reference) & set("./") else None


def _fetch(model: str, settings: Settings) -> ModelFile:
    """The file of a model, from MLflow or another store where it is a URI."""
    if ":/" not in model:
        return find_model(Path(model))
    # MLflow takes a second to import.
    from cluster.registry import Registry

    return find_model(Registry(settings).fetch_model(model))


def _convert_for_project(location: Location, source: SourceModel, rows: str) -> Conversion:
    """Convert a model for the features and the task of a project."""
    project = load_project(location)
    columns = project.features.columns
    usable = {column.name: column.kind for column in columns if column.kind in ("number", "category")}
    source, taken = match_columns(source, usable, list(usable))
    if wrong := [column.name for column in taken if usable[column.name] != column.kind]:
        raise DataError("data.import_input", name=wrong[0], reason="it takes texts, and the feature is a number")
    source = name_classes(source, project.task.classes)
    if rows:
        table = sample_table(find_table(Path(rows)), Path())
        frame = _typed(table, columns)
    else:
        frame = _example_rows(project, location).select(column.name for column in columns)
    return convert(source, columns, _thin(frame), project.task)


def _example_rows(project: Project, location: Location) -> pl.DataFrame:
    """Examples of a project with their features, read without a cluster."""
    samples, _, unseen = read_samples(project, location)
    name = project.examples.source
    if name not in samples:
        raise ProjectError("project.import_rows", project=project.name)
    sources = {each.name: without_protection(each) for each in project.sources if each.name in samples}
    rows = {each: typed_rows(source, samples[each]) for each, source in sources.items()}
    examples = build_examples(rows[name], project.features, project.examples, project.task, None, project.split)
    frame = with_views(project, samples, rows, examples.drop_nulls(AS_OF), unseen)
    if frame.is_empty():
        raise DataError("data.no_examples", source=name)
    if not {column.name for column in project.features.columns} <= set(frame.columns):
        raise ProjectError("project.import_rows", project=project.name)
    return frame


def _convert_for_table(request: ImportRequest, source: SourceModel) -> tuple[Conversion, Draft]:
    """Convert a model for a table, and draft a project of both."""
    files = find_table(Path(request.rows))
    sample = sample_table(files, Path())
    if sample.rows.is_empty():
        raise DataError("data.source_empty", source=files.paths[0])
    profile = profile_table(sample)
    label = _choose_label(profile, request.label, source.signature.names)
    special = {
        "label": label,
        "key": _named(profile, "key", request.key),
        "time": _named(profile, "time", request.time),
    }
    present: dict[str, InputKind] = {c.name: c.kind for c in profile.of_kind("number", "category")}  # type: ignore[misc]
    source, columns = match_columns(source, present, [name for name in present if name not in special.values()])
    if (clash := next((what for what, name in special.items() if name in source.signature.names), "")) != "":
        raise ProjectError("project.init_column", option=f"--{clash}", column=special[clash], columns=list(present))
    # In the order in which a module declares them.
    columns = tuple(sorted(columns, key=lambda column: column.kind))
    frame = _typed(sample, columns)
    values = _label_values(profile, label)
    source = source if source.signature.is_classifier is False else name_classes(source, values)
    task = _choose_task(request.task, source, frame, label, values)
    classes = _label_classes(task, source.signature.classes, label, values)
    conversion = convert(source, columns, _thin(frame), task)
    choices = Choices(label, task.kind, classes, special["key"], special["time"], "")
    return conversion, _draft(request, files, sample, profile, columns, choices)


def _draft(
    request: ImportRequest,
    files: TableFiles,
    sample: TableSample,
    profile: TableProfile,
    columns: tuple[Column, ...],
    choices: Choices,
) -> Draft:
    used = {choices.label, choices.key, choices.time} - {""}
    kept = [ColumnProfile(c.name, c.kind, 0, 0, "", False) for c in columns]
    others = [column for column in profile.columns if column.name in used]
    rows = profile.rows.with_columns(_typed(sample, columns).get_columns())
    times: RowTimes | None = read_times(files, choices.time) if choices.time else None
    table = TableProfile((*kept, *others), rows)
    name = Path(request.model).name
    return Draft(request.project, files, table, choices, times, sample.total or rows.height, {}, False, name)


def _choose_label(profile: TableProfile, answer: str, inputs: Sequence[str]) -> str:
    """The label that the user names, or that is one by convention and no input of the model."""
    names = [c.name for c in profile.columns if c.name.lower() in LABEL_NAMES and c.name not in inputs]
    if not answer and len(names) != 1:
        candidates = [c.name for c in profile.columns if c.name not in inputs]
        raise ProjectError("project.import_label", candidates=candidates)
    return _named(profile, "label", answer or names[0])


def _named(profile: TableProfile, what: str, answer: str) -> str:
    if not answer:
        return ""
    column = profile.column(answer)
    if column is None or (what == "time") != (column.kind == "timestamp"):
        fit = [c.name for c in profile.columns if (what == "time") == (c.kind == "timestamp")]
        raise ProjectError("project.init_column", option=f"--{what}", column=answer, columns=fit)
    return answer


def _choose_task(answer: str, source: SourceModel, frame: pl.DataFrame, label: str, values: tuple[str, ...]) -> Task:
    """What the model predicts: as the user, its file, or its outputs and the label say."""
    kind = answer or infer_task(source.signature, source.outputs(_thin(frame)), len(values))
    kinds: list[TaskKind] = ["binary", "multiclass", "regression"]
    if kind not in kinds:
        raise ProjectError("project.import_task", task=kind, kinds=kinds)
    return Task(kind=kind, label=label, classes=(source.signature.classes or values) if kind == "multiclass" else ())


def _label_classes(task: Task, classes: tuple[str, ...], label: str, values: tuple[str, ...]) -> tuple[str, ...]:
    """Classes of the label; of a binary one that is not 0 and 1, the positive one."""
    if task.kind != "regression" and classes and not set(values) <= set(classes):
        raise DataError("data.import_classes", label=label, values=values[:20], classes=list(classes))
    if task.kind == "multiclass":
        return task.classes
    if task.kind == "regression" or set(values) == {"0", "1"}:
        return ()
    if len(values) != 2:
        raise DataError("data.import_classes", label=label, values=values[:20], classes=list(classes))
    return ((classes or values)[-1],)


def _label_values(profile: TableProfile, label: str) -> tuple[str, ...]:
    """Values of the label in order, as texts; a model without names of its classes has them in this order."""
    values = profile.rows.get_column(label).drop_nulls().unique().sort()
    return tuple(str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in values)


def _typed(sample: TableSample, columns: Sequence[Column]) -> pl.DataFrame:
    """Rows of the columns in their types, as ingestion casts them."""
    if missing := [column.name for column in columns if column.name not in sample.rows.columns]:
        raise DataError("data.import_columns", missing=missing, present=list(sample.rows.columns))
    return sample.rows.select(cast_column(column, sample.rows.schema[column.name]) for column in columns)


def _thin(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.gather_every(max(1, -(-rows.height // ROWS)))


def _facts(request: ImportRequest, file: ModelFile, source: SourceModel, conversion: Conversion) -> ImportFacts:
    is_uri = ":/" in request.model
    return ImportFacts(
        format=source.format,
        source=hide_password(request.model) if is_uri else str(Path(request.model).resolve()),
        sha256=file.sha256,
        graph_sha256=sha256_of(conversion.graph),
        imported_at=datetime.now(UTC).isoformat(timespec="seconds"),
        imported_by=current_user(),
        trusted=request.trust,
        task=conversion.task,
        encoder=conversion.encoder,
        parity=conversion.parity,
        parity_rows=conversion.rows,
    )


def _write(folder: Path, facts: ImportFacts, graph: bytes, texts: dict[str, str]) -> None:
    """Write the imported model, and then the project's files that do not exist. An equal model stays as it is."""
    if texts and (existing := [str(folder / name) for name in texts if (folder / name).exists()]):
        raise ProjectError("project.init_exists", paths=existing)
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    if not _is_same(folder, facts):
        for name, content in ((MODEL_FILE, graph), (FACTS_FILE, facts.model_dump_json(indent=1).encode())):
            (place / f".{name}").write_bytes(content)
            os.replace(place / f".{name}", place / name)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _is_same(folder: Path, facts: ImportFacts) -> bool:
    place = folder / FOLDER
    if not ((place / FACTS_FILE).exists() and (place / MODEL_FILE).exists()):
        return False
    return (
        ImportFacts.load(folder).key == facts.key and sha256_of((place / MODEL_FILE).read_bytes()) == facts.graph_sha256
    )
