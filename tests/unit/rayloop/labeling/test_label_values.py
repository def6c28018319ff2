"""Labels as texts and as keys."""

from __future__ import annotations

import pytest

from cluster.values import Task
from rayloop.labeling.label_values import COMMAND_KEYS, class_keys, format_label, parse_label
from tests.factories.deployments.tasks import BINARY, MULTICLASS

REGRESSION = Task(kind="regression", label="delay")
DIGITS = Task(kind="multiclass", label="digit", classes=tuple("0123456789"))


@pytest.mark.parametrize(
    ("task", "text", "label"),
    [
        (BINARY, "1", 1.0), (BINARY, "0.0", 0.0), (BINARY, "TRUE", 1.0), (BINARY, "2", None), (BINARY, "", None),
        (MULTICLASS, "birch", 1.0), (MULTICLASS, "1", None), (MULTICLASS, "Birch", None), (DIGITS, "0", 0.0),
        (REGRESSION, "-2.5", -2.5), (REGRESSION, "1e3", 1000.0), (REGRESSION, "nan", None), (REGRESSION, "1e300", None),
        (REGRESSION, "late", None),
        (REGRESSION, "inf", None),
    ],
)  # fmt: skip
def test_parse_label_takes_what_the_task_has(task: Task, text: str, label: float | None) -> None:
    assert parse_label(text, task) == label


@pytest.mark.parametrize(("task", "label"), [(BINARY, 1.0), (MULTICLASS, 2.0), (REGRESSION, -0.25)])
def test_format_label_is_read_back(task: Task, label: float) -> None:
    assert parse_label(format_label(label, task), task) == label


def test_class_keys_are_the_names_where_each_is_one_character() -> None:
    assert class_keys(DIGITS) == {str(i): float(i) for i in range(10)}
    assert class_keys(BINARY) == {"0": 0.0, "1": 1.0}
    assert class_keys(MULTICLASS) == {"1": 0.0, "2": 1.0, "3": 2.0}
    assert class_keys(REGRESSION) == {}


@pytest.mark.parametrize(
    ("classes", "keys"), [(("s", "t"), 2), (tuple(map(str, range(100, 132))), 32), (tuple(map(str, range(33))), 0)]
)
def test_class_keys_are_no_commands_and_are_left_out_for_too_many_classes(classes: tuple[str, ...], keys: int) -> None:
    chosen = class_keys(Task(kind="multiclass", label="c", classes=classes))
    assert len(chosen) == keys
    assert not chosen.keys() & COMMAND_KEYS.keys()
    assert sorted(chosen.values()) == [float(i) for i in range(keys)]
