"""The layout of states: which words the aggregates of a column need."""

from __future__ import annotations

from datetime import timedelta

import pytest

from features.definitions import Aggregate, Entity, FeatureView
from features.online.state_codec import StateLayout


def layout(kind: str, *ops: str) -> StateLayout:
    aggregates = tuple(Aggregate(column="x", op=op, window=timedelta(1), name=op, kind=kind) for op in ops)
    return StateLayout(
        FeatureView(
            name="view", entity=Entity(name="one", keys=("a",)), source="events", event_time="at", aggregates=aggregates
        )
    )


@pytest.mark.parametrize(
    ("kind", "ops", "words"),
    [
        ("number", ("count",), ["count"]),
        ("number", ("sum",), ["count", "sum"]),
        ("number", ("mean",), ["count", "sum"]),
        ("number", ("std",), ["count", "sum", "square"]),
        ("number", ("min",), ["count", "value"]),
        ("number", ("distinct",), ["count", "value", "gap"]),
        ("category", ("count",), ["count"]),
        ("category", ("distinct",), ["count", "gap", "text"]),
    ],
)
def test_column_has_the_words_that_its_aggregates_need(kind: str, ops: tuple[str, ...], words: list[str]) -> None:
    state = layout(kind, *ops)
    assert list(state.words) == [("at", ""), *((word, "x") for word in words)]
    assert state.texts == [("text", "x")] * ("text" in words)
