"""Whatever a model returns is a task's scores, or is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import DataError
from cluster.values import Task, TaskKind
from features.python_models.score_checks import read_scores
from tests.factories.errors import raises

CLASSES = ("a", "b", "c")


def task(kind: TaskKind) -> Task:
    return Task(kind=kind, label="y", classes=CLASSES if kind == "multiclass" else ())


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        ("binary", [0.0, 1.0]),
        ("binary", np.array([0, 1])),
        ("binary", np.array([False, True])),
        ("binary", pa.array([0.25, 0.5])),
        ("binary", pa.chunked_array([[0.25], [0.5]])),
        ("regression", np.array([-1e30, 3.0])),
        ("multiclass", np.full((2, 3), 1 / 3)),
        ("multiclass", pa.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])),
    ],
)
def test_scores_are_read_from_any_kind_of_array(kind: TaskKind, output: object) -> None:
    scores = read_scores(task(kind), output, 2)
    plain = output.to_pylist() if isinstance(output, pa.Array | pa.ChunkedArray) else output
    assert scores.dtype == np.float32
    assert np.array_equal(scores, np.asarray(plain, np.float32))


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        ("binary", None),
        ("binary", [0.5]),
        ("binary", [[0.5], [0.5]]),
        ("binary", [0.5, [0.5, 0.5]]),
        ("binary", ["0.5", "0.5"]),
        ("binary", [0.5, np.nan]),
        ("binary", pa.array([0.5, None])),
        ("binary", [0.5, 1.1]),
        ("binary", [-3.0, 0.5]),
        ("binary", [0.5, 0.5j]),
        ("regression", [np.inf, 0.0]),
        ("regression", [1e300, 0.0]),
        ("multiclass", [0.5, 0.5]),
        ("multiclass", [[0.5, 0.5], [0.5, 0.5]]),
        ("multiclass", [[0.5, 0.5, 0.5], [1.0, 0.0, 0.0]]),
    ],
)
def test_what_is_no_scores_of_the_task_is_refused(kind: TaskKind, output: object) -> None:
    with raises(DataError, "data.python_scores", kind=kind):
        read_scores(task(kind), output, 2)
