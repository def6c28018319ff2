"""Values: versions of stored ones, and the shapes that a task means."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cluster.errors import DataError
from cluster.values import GateReport, Task, TaskKind
from tests.factories.errors import raises


def test_stored_value_of_an_older_version_is_read_as_the_newest() -> None:
    for version in (1, 2):
        assert GateReport.from_stored({"schema_version": version, "checks": ()}) == GateReport(checks=())


def test_stored_value_of_a_newer_version_is_refused_and_of_none_is_invalid() -> None:
    with raises(DataError, "data.stored_too_new", kind="gate report", version=3, newest=2):
        GateReport.from_stored({"schema_version": 3})
    with pytest.raises(ValidationError):
        GateReport.from_stored({"schema_version": 0, "checks": ()})


@pytest.mark.parametrize(
    ("kind", "outputs", "labels"),
    [("binary", 1, 1), ("regression", 1, 1), ("multiclass", 3, 1), ("multilabel", 3, 3)],
)
def test_task_has_a_score_for_each_class_and_a_label_for_each_of_several(
    kind: TaskKind, outputs: int, labels: int
) -> None:
    classes = ("a", "b", "c") if kind.startswith("multi") else ()
    task = Task(kind=kind, label="y", classes=classes)
    assert (task.outputs, task.label_width) == (outputs, labels)
