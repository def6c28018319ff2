"""Labels by key press: one row at a time, and a step back at any time. Pure; the terminal is passed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from cluster.values import Task
from features.definitions import Column
from features.types import LABEL
from rayloop.labeling.label_queue import FEATURES, PREDICTED, SCORE, WHY
from rayloop.labeling.label_values import COMMAND_KEYS, Command, class_keys, format_label, parse_label

_STORE_EVERY = 10
"""Labels after which a session stores them: what a lost terminal costs, and how far back undo reaches."""
_SHADES = " .:-=+*#%@"
END_OF_INPUT = ""
"""What ``read`` returns after the last key: it quits, also where a class has the name of the command."""
Answer = float | Command


class LabelSession:
    """The rows of a session and the labels so far.

    Args:
        rows: Number of rows.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._answers: list[float | None] = []
        self._stored = 0

    @property
    def position(self) -> int | None:
        """Index of the row to label; None after the last one."""
        return len(self._answers) if len(self._answers) < self._rows else None

    @property
    def pending(self) -> dict[int, float]:
        """Labels that are not stored, by index of the row."""
        return {i: a for i, a in enumerate(self._answers) if i >= self._stored and a is not None}

    def give(self, label: float | None) -> None:
        """Label the row, or skip it with None, and go to the next one."""
        self._answers.append(label)

    def undo(self) -> bool:
        """Go back to the row before and forget its label. Returns whether there is one that is not stored."""
        if len(self._answers) == self._stored:
            return False
        self._answers.pop()
        return True

    def mark_stored(self) -> None:
        """All labels so far are stored."""
        self._stored = len(self._answers)


def run_session(
    queue: pl.DataFrame,
    task: Task,
    columns: tuple[Column, ...],
    read: Callable[[], str],
    print_line: Callable[[str], None],
    store: Callable[[pl.DataFrame], None],
) -> int:
    """Show rows one at a time, until the last one or "quit".

    Args:
        queue: The rows, as ``read_queue`` returns them.
        task: The model's task.
        columns: Its features, for their shapes.
        read: Returns the next key, or a line where labels are typed (``is_typed``).
        print_line: Shows a line.
        store: Stores labels, ``id`` and ``label``; called every few rows, and at the end, also after an interruption.

    Returns:
        Number of labels.
    """
    session, count = LabelSession(queue.height), 0
    ids = queue.get_column("id")

    def store_pending() -> int:
        pending = session.pending
        if pending:
            store(pl.DataFrame({"id": [ids[i] for i in pending], LABEL: list(pending.values())}))
        # Only now: labels that could not be stored are tried once more at the end.
        session.mark_stored()
        return len(pending)

    try:
        while (position := session.position) is not None:
            for line in [*describe_row(queue, position, task, columns), describe_keys(task)]:
                print_line(line)
            answer = _next_answer(read, print_line, task)
            if answer == "quit":
                break
            if answer == "undo":
                if not session.undo():
                    print_line("nothing to undo")
                continue
            session.give(None if answer == "skip" else float(answer))
            if len(session.pending) >= _STORE_EVERY:
                count += store_pending()
    finally:
        count += store_pending()
    return count


def is_typed(task: Task) -> bool:
    """Whether labels are typed as lines: numbers, and classes for which there are too few keys."""
    return not class_keys(task)


def parse_answer(text: str, task: Task) -> Answer | None:
    """Parse a key or a typed line; None if it means nothing."""
    if text == END_OF_INPUT:
        return "quit"
    label = parse_label(text.strip(), task) if is_typed(task) else class_keys(task).get(text)
    if label is not None:
        return label
    return COMMAND_KEYS.get(text.strip())


def describe_keys(task: Task) -> str:
    """Write which key does what."""
    labels = [f"[{key}] {format_label(label, task)}" for key, label in class_keys(task).items()]
    labels = labels or ["a number, then Enter" if task.kind == "regression" else "the name of a class, then Enter"]
    return "   ".join([*labels, *(f"[{key}] {command}" for key, command in COMMAND_KEYS.items())])


def describe_row(queue: pl.DataFrame, position: int, task: Task, columns: tuple[Column, ...]) -> list[str]:
    """Describe a row of the queue: which it is, what the model said, and a line for each feature."""
    row = queue.row(position, named=True)
    score = f"{row[SCORE]:.3g}" + (f" for {row[PREDICTED]}" if row[PREDICTED] is not None else "")
    lines = ["", f"row {position + 1} of {queue.height}   {row['id']}   as of {row['as_of']:%Y-%m-%d %H:%M}"]
    lines += [f"{task.label}: v{row['version']} scores {score}; {row[WHY]}"]
    shapes = {column.name: column.shape for column in columns}
    width = max((len(name) for name in row[FEATURES]), default=0)
    for name, value in row[FEATURES].items():
        lines += _describe_feature(name, value, shapes.get(name, ()), width)
    return lines


def _describe_feature(name: str, value: Any, shape: tuple[int, ...], width: int) -> list[str]:
    if value is None or not isinstance(value, list):
        return [f"  {name:<{width}}  {'missing' if value is None else value}"]
    if len(shape) != 2:
        return [f"  {name:<{width}}  {len(value)} numbers, mean {np.mean(value):.3g}"]
    image = np.reshape(value, shape)
    span = float(image.max() - image.min()) or 1.0
    steps = ((image - image.min()) / span * (len(_SHADES) - 1)).round().astype(int)
    # Two characters a pixel, since characters are about twice as high as wide.
    return [f"  {name}", *("  " + "".join(2 * _SHADES[step] for step in line) for line in steps)]


def _next_answer(read: Callable[[], str], print_line: Callable[[str], None], task: Task) -> Answer:
    while (answer := parse_answer(read(), task)) is None:
        print_line(describe_keys(task))
    return answer
