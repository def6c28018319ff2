"""What a new project predicts, and by which columns: as the user says, or as the table leaves no doubt. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import polars as pl

from cluster.errors import ProjectError
from cluster.values import TaskKind
from rayloop.scaffold.table_profile import ColumnProfile, TableProfile

LABEL_NAMES = ("label", "target", "y", "class", "outcome")
"""Names of columns that are labels by convention."""
NONE = "none"
"""Answer of a user who wants no such column."""
MAX_CLASSES = 100
_FEW_INTEGERS = 10
"""Different whole numbers up to which a label is a class."""
_MIN_CLASS_ROWS = 10
"""Rows below which a class cannot be learned and tested."""
_REPEATS = 3
"""Rows of an entity on average, from which its past says something."""

Ask = Callable[[str, Sequence[str]], str]
"""Asks for one of several columns: what for, and the columns. Returns the answer; empty without a terminal."""


class Answers(NamedTuple):
    """What the user says; empty: nothing."""

    label: str = ""
    key: str = ""
    time: str = ""
    entity: str = ""
    task: str = ""


class Choices(NamedTuple):
    """What a new project predicts, and by which columns; empty: there is none."""

    label: str
    task: TaskKind
    classes: tuple[str, ...]
    """Classes of a multiclass label; of a binary label that is not 0 and 1, the positive one."""
    key: str
    time: str
    entity: str


def choose(profile: TableProfile, answers: Answers, ask: Ask) -> Choices:
    """Choose columns.

    Args:
        profile: The table.
        answers: What the user says.
        ask: Asks the user about the rest.

    Raises:
        ProjectError: A column that the user names does not exist or does not fit, or the label is not clear.
    """
    times = [column.name for column in profile.of_kind("timestamp")]
    time = _choice(profile, "time", answers.time, times, times, ask)
    label = _choose_label(profile, answers.label, time, ask)
    task = _choose_task(profile, label, answers.task)
    keys = [c.name for c in profile.columns if c.is_unique and c.name != label.name]
    key = _named(profile, "key", answers.key) or (keys[0] if keys else "")
    entity = _named(profile, "entity", answers.entity) or ""
    if not answers.entity and time:
        entity = _guess_entity(profile, {label.name, key})
    for option, column in (("--key", key), ("--entity", entity)):
        if column in (label.name, time or label.name):
            others = [c.name for c in profile.columns if c.name not in (label.name, time)]
            raise ProjectError("project.init_column", option=option, column=column, columns=others)
    return Choices(label.name, task, _classes(profile, label, task), _or_none(key), _or_none(time), _or_none(entity))


def _or_none(name: str) -> str:
    return "" if name == NONE else name


def _named(profile: TableProfile, what: str, answer: str) -> str:
    """Check that a column that the user names exists."""
    if answer and answer != NONE and profile.column(answer) is None:
        names = [column.name for column in profile.columns]
        raise ProjectError("project.init_column", option=f"--{what}", column=answer, columns=names)
    return answer


def _choice(
    profile: TableProfile, what: str, answer: str, clear: Sequence[str], candidates: Sequence[str], ask: Ask
) -> str:
    """The user's answer, the only candidate, or what the user says when asked."""
    if _named(profile, what, answer):
        if answer != NONE and answer not in candidates:
            raise ProjectError("project.init_column", option=f"--{what}", column=answer, columns=list(candidates))
        return answer
    if len(clear) == 1:
        return clear[0]
    if not candidates:
        return ""
    asked = ask(what, candidates)
    if not asked:
        raise ProjectError("project.init_unclear", what=what, candidates=list(candidates))
    return _choice(profile, what, asked, clear, candidates, ask)


def _choose_label(profile: TableProfile, answer: str, time: str, ask: Ask) -> ColumnProfile:
    fit = [c for c in profile.of_kind("number", "category") if c.distinct >= 2 and c.name != time]
    candidates = [c.name for c in fit if not c.is_unique or c.kind == "number"]
    clear = [name for name in candidates if name.lower() in LABEL_NAMES]
    label = profile.column(_choice(profile, "label", answer, clear, candidates, ask))
    if label is None:
        raise ProjectError("project.init_unclear", what="label", candidates=candidates)
    return label


def _choose_task(profile: TableProfile, label: ColumnProfile, answer: str) -> TaskKind:
    values = profile.rows.get_column(label.name).drop_nulls()
    is_whole = label.kind == "number" and bool((values == values.round()).all())
    allowed: list[TaskKind] = ["regression"] if label.kind == "number" else []
    if label.kind == "category" or is_whole:
        allowed += ["binary"] if label.distinct == 2 else ["multiclass"] if label.distinct <= MAX_CLASSES else []
    if not allowed or (answer and answer not in allowed):
        raise ProjectError("project.init_task", label=label.name, task=answer or NONE, allowed=allowed)
    if answer:
        return answer
    return allowed[-1] if label.kind == "category" or label.distinct <= _FEW_INTEGERS else allowed[0]


def _classes(profile: TableProfile, label: ColumnProfile, task: TaskKind) -> tuple[str, ...]:
    values = profile.rows.get_column(label.name).drop_nulls()
    counts = values.value_counts().sort("count", label.name, descending=[True, False])
    if task == "multiclass":
        frequent = counts.filter(pl.col("count") >= _MIN_CLASS_ROWS).get_column(label.name).sort()
        if len(frequent) < 2:
            raise ProjectError("project.init_task", label=label.name, task=task, allowed=[])
        return tuple(_text(value) for value in frequent)
    if task == "binary" and set(values.unique()) != {0.0, 1.0}:
        return (_text(counts.get_column(label.name)[-1]),)
    return ()


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _guess_entity(profile: TableProfile, others: set[str]) -> str:
    """The category with the most values that come back: whose past there is, such as a customer's."""
    rows = profile.rows.height
    fit = [c for c in profile.of_kind("category") if c.name not in others and not c.unfit]
    repeating = [c for c in fit if 2 <= c.distinct <= rows / _REPEATS]
    return max(repeating, key=lambda c: c.distinct).name if repeating else ""
