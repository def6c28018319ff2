"""The text of a project module for a table, and of a request for its model. Pure."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from jinja2 import Environment, StrictUndefined

from cluster.values import Task
from features.offline.split_dates import RowTimes, suggest_split
from features.sources.table_files import TableFiles
from features.split import TimeSplit
from rayloop.scaffold.choices import Choices
from rayloop.scaffold.table_profile import ColumnProfile, TableProfile
from trainers.metrics import primary_metric

_WIDTH = 100
_WINDOWS = tuple(timedelta(hours=hours) for hours in (1, 6, 24, 7 * 24, 30 * 24, 90 * 24, 365 * 24))
"""Lengths of windows over an entity's past."""
_MAX_AVERAGED = 4
"""Number columns of which a window is averaged."""
_SKILLED = "A single feature predicts the label very well. Decide: is it known before the label?"
_SMALL_TABLE = 50_000
"""Rows below which one worker trains sooner than two."""


class Draft(NamedTuple):
    """What a module is written from."""

    name: str
    files: TableFiles
    profile: TableProfile
    choices: Choices
    times: RowTimes | None
    """Times of all rows; None without a time column."""
    total: int
    """Rows of the table, about."""
    leaks: dict[str, str]
    """By feature, why it is left out as the label in disguise."""
    is_skilled: bool
    """Whether a single feature predicts so well that the gate would ask about it."""
    imported: str = ""
    """What was imported in place of a model to train; empty: nothing. All columns are then used."""

    @property
    def features(self) -> list[ColumnProfile]:
        """The columns that a request carries, without the time."""
        used = {self.choices.label, self.choices.time, self.choices.key}
        if self.imported:
            return [c for c in self.profile.columns if c.name not in used]
        kept = [c for c in self.profile.columns if not c.unfit and c.name not in used and c.name not in self.leaks]
        entity = self.profile.column(self.choices.entity)
        return kept if entity is None or entity in kept else [*kept, entity]

    def free_name(self, name: str) -> str:
        """Return a name that no column of the table has."""
        while self.profile.column(name) is not None:
            name += "_"
        return name


def write_module(draft: Draft) -> str:
    """Return the text of the project module."""
    return _template("imported.py.j2" if draft.imported else "project.py.j2").render(_context(draft))


def write_request(draft: Draft) -> str:
    """Return a request with the newest row of the table, as JSON."""
    time, rows = draft.choices.time, draft.profile.rows
    if time:
        rows = rows.drop_nulls(time).sort(time)
    names = [column.name for column in draft.features] + ([time] if time and not draft.imported else [])
    (row,) = rows.select(names).tail(1).to_dicts()
    kinds = {name: kind for kind, name in _declared(draft, draft.features)}
    instance = {name: _json_cell(value, kinds.get(name, "")) for name, value in row.items()}
    return json.dumps({"instances": [instance]}, indent=1) + "\n"


def split_of(draft: Draft) -> TimeSplit | None:
    """Return the split of the table by time; None: it has none."""
    return None if draft.times is None else suggest_split(draft.times)


@cache
def _template(name: str) -> Any:
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(files("rayloop.scaffold").joinpath(f"templates/{name}").read_text("utf-8"))


def _context(draft: Draft) -> dict[str, Any]:
    choices = draft.choices
    row_id = "" if choices.key else draft.free_name("row_id")
    file_time = "" if choices.time else draft.free_name("file_time")
    split = split_of(draft)
    key, time = choices.key or row_id, choices.time or file_time
    view = _view(draft) if choices.entity and choices.time else None
    declared = _columns(draft, key, time)
    added = {name: value for name, value in (("row_id", row_id), ("file_time", file_time)) if value}
    arguments = [_quote(draft.files.paths[0]), *_delimiter(draft), *(f"{n}={_quote(v)}" for n, v in added.items())]
    needs = [n for n, used in (("UTC", split), ("datetime", split), ("timedelta", view)) if used]
    return {
        "name": draft.name,
        "label": _plain(choices.label),
        "file": _plain(Path(draft.files.paths[0]).name),
        "imports": ", ".join(needs),
        "read": _wrap(f"rl.{draft.files.format}", arguments, 4),
        "row_id": row_id,
        "file_time": file_time,
        "sampled": draft.total > draft.profile.rows.height,
        "key": _quote(key),
        "time": _quote(time),
        "columns": declared,
        "left_out": [
            line for name, why in _left_out(draft) for line in textwrap.wrap(f"- {_plain(name)}: {why}", _WIDTH)
        ],
        "entity": _plain(choices.entity),
        "view": view,
        "request": _calls(_requested(draft)),
        "imported": _plain(draft.imported),
        "derived": _derived(draft, view is not None),
        "task": _task(draft),
        "label_expression": _label_expression(draft),
        "label_comments": _label_comments(choices),
        "split_dates": _dates(split) if split else [],
        "group": f"group=({_quote(choices.entity)},)" if choices.entity else "",
        "train": _train(draft.total),
        "gate": "max_alone=None" if draft.is_skilled else "",
        "gate_comments": [_SKILLED] if draft.is_skilled else [],
        "metric": primary_metric(Task(kind=choices.task, label=choices.label)).name,
    }


def _columns(draft: Draft, key: str, time: str) -> list[str]:
    """The declared columns of the source."""
    label = draft.profile.column(draft.choices.label)
    assert label is not None
    pairs = [("category", key), *_declared(draft, draft.features), (label.kind, label.name), ("timestamp", time)]
    return _calls(list(dict.fromkeys(pairs)))


def _declared(draft: Draft, columns: Sequence[ColumnProfile]) -> list[tuple[str, str]]:
    """Kind and name of columns; an entity is a category, whatever the table has."""
    return [("category" if c.name == draft.choices.entity else c.kind, c.name) for c in columns]


def _requested(draft: Draft) -> list[tuple[str, str]]:
    """Kind and name of the columns of a request. An imported model's callers send what it takes, and no time."""
    is_dated = draft.choices.time and not draft.imported
    return _declared(draft, draft.features) + ([("timestamp", draft.choices.time)] if is_dated else [])


def _calls(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Calls that declare columns, one for each kind."""
    calls = []
    for kind in ("category", "number", "timestamp"):
        names = [_quote(name) for other, name in pairs if other == kind]
        if names:
            calls.append(_wrap(f"*rl.{kind}", names, 8))
    return calls


def _wrap(function: str, arguments: Sequence[str], indent: int) -> str:
    """A call on one line, or on several, each with as many arguments as fit."""
    line = f"{function}({', '.join(arguments)})"
    if len(line) + indent < _WIDTH + 10:
        return line
    lines = [""]
    for argument in arguments:
        if len(lines[-1]) + len(argument) > _WIDTH:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{argument},"
    pad = " " * indent
    return "\n".join([f"{function}(", *(f"{pad}    {line}" for line in lines), f"{pad})"])


def _left_out(draft: Draft) -> list[tuple[str, str]]:
    choices = draft.choices
    used = {choices.label, choices.time, choices.key, choices.entity}
    return [
        (c.name, c.unfit or draft.leaks[c.name])
        for c in draft.profile.columns
        if c.name not in used and (c.unfit or c.name in draft.leaks)
    ]


def _view(draft: Draft) -> dict[str, Any]:
    entity = draft.choices.entity
    averaged = [name for kind, name in _declared(draft, draft.features) if kind == "number"][:_MAX_AVERAGED]
    short, long = _two_windows(draft)
    aggregates = [_rolling(entity, window, "rows", 'ops=("count",), kind="category"') for window in (short, long)]
    aggregates += [_rolling(name, long, name, 'ops=("mean",)') for name in averaged]
    return {"entity": _quote(entity), "aggregates": aggregates, "last": _quote(draft.free_name("last_row_at"))}


def _rolling(column: str, window: timedelta, name: str, options: str) -> str:
    span = _quote(f"{name}_{_span(window)}")
    return f"*rl.rolling({_quote(column)}, {_delta(window)}, {span}, {options})"


def _two_windows(draft: Draft) -> tuple[timedelta, timedelta]:
    """Windows that hold about three, and about twenty, rows of an entity."""
    time, entity = draft.choices.time, draft.choices.entity
    gaps = (
        draft.profile.rows.sort(time)
        .select((pl.col(time) - pl.col(time).shift()).over(entity))
        .to_series()
        .drop_nulls()
    )
    thinned = max(1.0, draft.total / max(1, draft.profile.rows.height))
    median = gaps.filter(gaps > timedelta(0)).median()
    gap = median / thinned if isinstance(median, timedelta) else timedelta(days=1)
    place = next((i for i, window in enumerate(_WINDOWS) if window >= 3 * gap), len(_WINDOWS) - 2)
    later = next((i for i, window in enumerate(_WINDOWS) if window >= 20 * gap), len(_WINDOWS) - 1)
    place = min(place, len(_WINDOWS) - 2)
    return _WINDOWS[place], _WINDOWS[max(later, place + 1)]


def _derived(draft: Draft, has_view: bool) -> list[str]:
    time = draft.choices.time
    if not time:
        return []
    name = draft.free_name
    derived = [
        f"rl.derive({_quote(name(f'{time}_hour'))}, pl.col({_quote(time)}).dt.hour())",
        f'rl.derive({_quote(name(f"{time}_weekday"))}, pl.col({_quote(time)}).dt.weekday(), "category")',
    ]
    if has_view:
        since = f'(pl.col("as_of") - pl.col({_quote(name("last_row_at"))})).dt.total_seconds()'
        derived.append(f"rl.derive({_quote(name('seconds_since_last_row'))}, {since})")
    return derived


def _task(draft: Draft) -> str:
    choices = draft.choices
    words = [f'kind="{choices.task}"', f"label={_quote(choices.label)}"]
    if choices.task == "multiclass":
        words.append(f"classes=({', '.join(map(_quote, choices.classes))})")
    line = ", ".join(words)
    return line if len(line) < _WIDTH else "\n" + "".join(f"        {word},\n" for word in words) + "    "


def _label_expression(draft: Draft) -> str:
    choices, label = draft.choices, draft.profile.column(draft.choices.label)
    assert label is not None
    column = f"pl.col({_quote(label.name)})"
    is_number = label.kind == "number"
    if choices.task == "binary" and choices.classes:
        (positive,) = choices.classes
        return f"{column} == {positive if is_number else _quote(positive)}"
    if choices.task == "multiclass":
        text = f"{column}.cast(pl.Int64).cast(pl.String)" if is_number else column
        if len(choices.classes) < label.distinct:
            classes = ", ".join(map(_quote, choices.classes))
            return f"pl.when({text}.is_in([{classes}])).then({text})"
        return text
    return column


def _label_comments(choices: Choices) -> list[str]:
    if choices.task == "binary" and choices.classes:
        return ["The rarer value is the positive one."]
    return []


def _dates(split: TimeSplit) -> list[str]:
    return [f"{name}={_moment(getattr(split, name))}" for name in ("start", "validate_from", "test_from", "end")]


def _moment(moment: datetime) -> str:
    parts = [moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second, moment.microsecond]
    while len(parts) > 3 and not parts[-1]:
        parts.pop()
    return f"datetime({', '.join(map(str, parts))}, tzinfo=UTC)"


def _train(rows: int) -> str:
    """Batches of a fiftieth of the rows, and about 1,500 steps, but at most 40 epochs."""
    batch = min(2048, max(16, 1 << (rows // 50).bit_length()))
    epochs = min(40, max(4, round(1500 * batch / rows)))
    return f"epochs={epochs}, batch_size={batch}, workers={1 if rows < _SMALL_TABLE else 2}, patience=5"


def _delimiter(draft: Draft) -> list[str]:
    return [] if draft.files.delimiter == "," else [f"delimiter={_quote(draft.files.delimiter)}"]


def _delta(window: timedelta) -> str:
    return f"timedelta(days={window.days})" if window.days else f"timedelta(hours={window.seconds // 3600})"


def _span(window: timedelta) -> str:
    return f"{window.days}d" if window.days else f"{window.seconds // 3600}h"


def _plain(name: str) -> str:
    """A name of the table as words of a comment or docstring, which it can neither end nor continue."""
    return " ".join(re.sub(r"[^\w .,:;/()-]", " ", name).split())


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json_cell(value: object, kind: str) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if kind == "category" and value is not None:
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return value
