"""A session of labels by key press."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.values import Task
from features.definitions import Column
from rayloop.labeling.key_session import describe_keys, describe_row, run_session
from tests.factories.deployments.tasks import BINARY, IMAGES, MULTICLASS
from tests.factories.effort import examples
from tests.factories.rayloop.label_queues import queue

REGRESSION = Task(kind="regression", label="delay")


class Terminal:
    """Gives keys, and keeps what is shown and stored."""

    def __init__(self, *keys: str) -> None:
        self.keys = list(keys)
        self.lines: list[str] = []
        self.stored: list[dict[str, float]] = []

    def read(self) -> str:
        return self.keys.pop(0)

    def store(self, labels: pl.DataFrame) -> None:
        self.stored.append(dict(labels.select("id", "label").iter_rows()))

    def label(self, task: Task, *ids: str, read: Callable[[], str] | None = None) -> int:
        return run_session(queue(task, *ids), task, (), read or self.read, self.lines.append, self.store)


@pytest.mark.parametrize(
    ("task", "keys", "labels"),
    [
        (BINARY, ["1", "0", "1"], {"a": 1.0, "b": 0.0, "c": 1.0}),
        (BINARY, ["1", "x", "7", "s", "0"], {"a": 1.0, "c": 0.0}),
        (BINARY, ["1", "u", "0", "q"], {"a": 0.0}),
        (BINARY, ["1", "s", "u", "u", "u", "s", "1", "q"], {"b": 1.0}),
        (MULTICLASS, ["3", "1", "2"], {"a": 2.0, "b": 0.0, "c": 1.0}),
        (REGRESSION, ["2.5\n", "late\n", "s\n", "-1\n"], {"a": 2.5, "c": -1.0}),
        (REGRESSION, ["7\n", "u\n", "8\n", "q\n"], {"a": 8.0}),
    ],
)
def test_session_stores_what_was_given(task: Task, keys: list[str], labels: dict[str, float]) -> None:
    terminal = Terminal(*keys)
    assert terminal.label(task, "a", "b", "c") == len(labels)
    assert terminal.stored == [labels]
    assert terminal.keys == []


def test_session_without_labels_stores_nothing() -> None:
    terminal = Terminal("s", "q")
    assert terminal.label(BINARY, "a", "b", "c") == 0
    assert terminal.stored == []


def test_interrupted_session_stores_what_was_given() -> None:
    terminal = Terminal("1", "0")

    def read() -> str:
        if not terminal.keys:
            raise KeyboardInterrupt
        return terminal.read()

    with pytest.raises(KeyboardInterrupt):
        terminal.label(BINARY, "a", "b", "c", read=read)
    assert terminal.stored == [{"a": 1.0, "b": 0.0}]


def test_end_of_input_quits_where_a_class_is_named_like_the_command() -> None:
    letters = Task(kind="multiclass", label="letter", classes=("q", *(f"class {i}" for i in range(40))))
    terminal = Terminal("q\n", "")
    assert terminal.label(letters, "a", "b", "c") == 1
    assert terminal.stored == [{"a": 0.0}]


def test_labels_that_could_not_be_stored_are_tried_again_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, tries = Terminal(*"0" * 12), list[int]()

    def store(labels: pl.DataFrame) -> None:
        tries.append(labels.height)
        if len(tries) == 1:
            raise OSError("the catalog does not answer")

    monkeypatch.setattr(terminal, "store", store)
    with pytest.raises(OSError, match="catalog"):
        terminal.label(BINARY, *(f"r{i}" for i in range(12)))
    assert tries == [10, 10]


def test_long_session_stores_in_between_and_undo_reaches_no_further() -> None:
    terminal = Terminal(*"1" * 12, "u", "u", "u", "0", "q")
    ids = [f"r{i}" for i in range(20)]
    assert terminal.label(BINARY, *ids) == 11
    assert [len(labels) for labels in terminal.stored] == [10, 1]
    assert terminal.stored[1] == {"r10": 0.0}
    assert "nothing to undo" in terminal.lines


@settings(max_examples=examples(200))
@given(st.lists(st.sampled_from("01su"), max_size=40))
def test_session_equals_a_list_of_answers(keys: list[str]) -> None:
    answers: list[str] = []
    stored = 0
    for key in keys:
        if key != "u":
            answers.append(key)
        elif len(answers) > stored:
            answers.pop()
        if sum(a != "s" for a in answers[stored:]) == 10:
            stored = len(answers)
    terminal = Terminal(*keys, "q")
    ids = [f"r{i}" for i in range(50)]
    terminal.label(BINARY, *ids)
    given_labels = {id: float(a) for id, a in zip(ids, answers, strict=False) if a != "s"}
    assert {id: label for part in terminal.stored for id, label in part.items()} == given_labels


def test_description_has_the_keys_the_features_and_an_image() -> None:
    assert describe_keys(MULTICLASS).split("   ") == [
        "[1] ash", "[2] birch", "[3] cedar", "[s] skip", "[u] undo", "[q] quit"
    ]  # fmt: skip
    row = queue(MULTICLASS, "a", "b", pixels=[0.0, 1.0, 0.0, 1.0, 1.0, 0.0], name="x", size=None)
    lines = describe_row(row, 1, MULTICLASS, IMAGES.columns)
    assert lines[1].startswith("row 2 of 2   b ")
    assert lines[2] == "tree: v1 scores 0.5 for ash; expected loss 0.25"
    assert lines[3:] == ["  pixels", "    @@  ", "  @@@@  ", "  name    x", "  size    missing"]


def test_description_of_a_vector_is_its_size() -> None:
    column = Column(name="pixels", kind="tensor", shape=(3,))
    (line,) = describe_row(queue(BINARY, "a", pixels=[1.0, 2.0, 3.0]), 0, BINARY, (column,))[3:]
    assert line == "  pixels  3 numbers, mean 2"
