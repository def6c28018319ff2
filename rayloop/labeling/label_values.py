"""Labels as people write them: texts of a file, keys of a keyboard. Pure."""

from __future__ import annotations

from typing import Literal

from cluster.values import Task
from deployments.protocol.arrow_columns import MAX_NUMBER

Command = Literal["skip", "undo", "quit"]
COMMAND_KEYS: dict[str, Command] = {"s": "skip", "u": "undo", "q": "quit"}
_BINARY = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}
_KEYS = "123456789abcdefghijklmnoprtvwxyz"
"""Keys for classes whose names are longer; none of them is a command."""


def label_names(task: Task) -> tuple[str, ...]:
    """Return what a label may be, by its value; empty for a regression."""
    return {"binary": ("0", "1"), "multiclass": task.classes}.get(task.kind, ())


def parse_label(text: str, task: Task) -> float | None:
    """Parse a label.

    Args:
        text: A class, 0, 1, true or false, or a number, as the task has it.
        task: The model's task.

    Returns:
        The label as ``cluster.values.Task`` says; None if the text is no label of the task.
    """
    if task.kind == "multiclass":
        return float(task.classes.index(text)) if text in task.classes else None
    if task.kind == "binary":
        # Spreadsheets write 1 as 1.0.
        return _BINARY.get(text.lower().removesuffix(".0"))
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) <= MAX_NUMBER else None


def format_label(label: float, task: Task) -> str:
    """Write a label as ``parse_label`` reads it."""
    names = label_names(task)
    return names[int(label)] if names else f"{label:g}"


def class_keys(task: Task) -> dict[str, float]:
    """Choose a key for each class: its name, if every name is one character and no command, else 1, 2, … a, b, …

    Returns:
        Label by key; empty for a regression, and for more classes than there are keys: their names are typed.
    """
    names = label_names(task)
    if not names or len(names) > len(_KEYS):
        return {}
    single = all(len(name) == 1 and name.isprintable() and name not in COMMAND_KEYS for name in names)
    return {key: float(i) for i, key in enumerate(names if single else _KEYS[: len(names)])}
