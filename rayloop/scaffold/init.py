"""Write a project for a table: read it, choose what to predict, and write the module and a request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from cluster.errors import DataError, ProjectError
from cluster.values import Task
from features.definitions import Column
from features.offline.split_dates import RowTimes
from features.sources.table_files import MAX_CELLS, TableFiles, TableSample, sample_table
from features.types import LABEL
from rayloop.project import require_name
from rayloop.project_check.label_leaks import DETERMINED, single_skills
from rayloop.scaffold.choices import Answers, Ask, Choices, choose
from rayloop.scaffold.module_text import Draft, write_module, write_request
from rayloop.scaffold.table_profile import TableProfile, cast_as, profile_table

_ENDINGS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
_DELIMITERS = (",", ";", "\t", "|")
_SKILL_ROWS = 20_000
_SKILLED = 0.8
"""Skill of a single feature beyond which few held-out rows may exceed the gate's limit of 0.95 by chance."""


def init_project(name: str, table: str, answers: Answers, ask: Ask, tell: Callable[[str], object]) -> None:
    """Write ``name``/project.py and ``name``/request.json into the working directory.

    Args:
        name: Name of the project.
        table: CSV or Parquet file.
        answers: What the user says about the table.
        ask: Asks the user about what is not clear.
        tell: Called with each line for the user.

    Raises:
        DataError: The table cannot be read.
        ProjectError: A file would be overwritten, or it is not clear what to predict.
    """
    require_name(name)
    folder = Path(name)
    paths = {"project.py": folder / "project.py", "request.json": folder / "request.json"}
    if existing := [str(path) for path in paths.values() if path.exists()]:
        raise ProjectError("project.init_exists", paths=existing)
    files = find_table(Path(table))
    draft = draft_project(name, files, answers, ask)
    texts = {"project.py": write_module(draft), "request.json": write_request(draft)}
    folder.mkdir(exist_ok=True)
    for file, path in paths.items():
        with path.open("x", encoding="utf-8") as out:
            out.write(texts[file])
    _describe(draft, tell)


def draft_project(name: str, files: TableFiles, answers: Answers, ask: Ask) -> Draft:
    """Read a table and choose what to write.

    Args:
        name: Name of the project.
        files: The table.
        answers: What the user says about it.
        ask: Asks the user about what is not clear.
    """
    sample = sample_table(files, Path())
    if sample.rows.is_empty():
        raise DataError("data.source_empty", source=files.paths[0])
    profile = profile_table(sample)
    choices = choose(profile, answers, ask)
    times = read_times(files, choices.time) if choices.time else None
    total = sample.total or (len(times.as_of) if times else sample.rows.height)
    plain = Draft(name, files, profile, choices, times, total, {}, False)
    skills = _skills(plain)
    leaks = {
        name: "it determines the label in the sampled rows" for name, skill in skills.items() if skill > DETERMINED
    }
    is_skilled = any(_SKILLED < skill <= DETERMINED for skill in skills.values())
    return plain._replace(leaks=leaks, is_skilled=is_skilled)


def find_table(path: Path) -> TableFiles:
    """Describe a CSV or Parquet file. Raises DataError when it is neither."""
    if not path.is_file():
        raise DataError("data.file_not_found", path=str(path))
    ending = Path(path.name.removesuffix(".gz")).suffix
    if ending not in _ENDINGS:
        raise DataError("data.not_a_table_file", path=str(path), endings=list(_ENDINGS))
    if _ENDINGS[ending] == "parquet":
        return TableFiles("parquet", (str(path.resolve()),))
    return TableFiles("csv", (str(path.resolve()),), _delimiter(path))


def _delimiter(path: Path) -> str:
    """The delimiter that the header has most of."""
    import pyarrow as pa

    with pa.input_stream(str(path)) as stream:
        header = stream.read(1 << 16).decode(errors="replace").partition("\n")[0]
    return max(_DELIMITERS, key=header.count)


def read_times(files: TableFiles, column: str) -> RowTimes:
    """Return the times of all rows: a column is cheap to read as a whole."""
    sample: TableSample = sample_table(files, Path(), [column], rows=MAX_CELLS)
    times = cast_as(sample.rows.get_column(column), "timestamp").drop_nulls().dt.epoch("us").to_numpy()
    return RowTimes(times, times)


def _skills(draft: Draft) -> dict[str, float]:
    """How well each feature alone predicts the label of sampled rows."""
    choices, profile = draft.choices, draft.profile
    columns = tuple(Column(name=c.name, kind=c.kind) for c in draft.features if c.kind in ("number", "category"))
    labeled = profile.rows.with_columns(_label(profile, choices).alias(LABEL)).drop_nulls(LABEL)
    examples = labeled.gather_every(max(1, -(-labeled.height // _SKILL_ROWS)))
    return dict(single_skills(Task(kind=choices.task, label=choices.label, classes=choices.classes), columns, examples))


def _label(profile: TableProfile, choices: Choices) -> pl.Series:
    values = profile.rows.get_column(choices.label)
    if not choices.classes:
        return values.cast(pl.Float64)
    texts = values.cast(pl.Int64).cast(pl.String) if values.dtype.is_numeric() else values
    if choices.task == "binary":
        return (texts == choices.classes[0]).cast(pl.Float64)
    return texts.replace_strict(list(choices.classes), range(len(choices.classes)), default=None).cast(pl.Float64)


def _describe(draft: Draft, tell: Callable[[str], object]) -> None:
    choices = draft.choices
    by = {"key": choices.key, "time": choices.time, "entity": choices.entity}
    known = ", ".join(f"{what} {name}" for what, name in by.items() if name)
    tell(f"{draft.name} predicts {choices.label} ({choices.task})" + (f"; {known}" if known else ""))
    tell(f"written to {draft.name}/project.py: read what it says to decide, then `rayloop run {draft.name}/project.py`")
