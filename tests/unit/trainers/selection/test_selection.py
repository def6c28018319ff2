"""The record of a race: what is stored, and what people read."""

from __future__ import annotations

import numpy as np

from trainers.evaluation.bootstrap import Interval
from trainers.selection.selection import HEAD, Attempt, Ensemble, Selection

NET = {"hidden": (64, 32), "dropout": 0.25, "norm": "layer"}


def _ensemble(weights: dict[int, float], loss: float) -> Ensemble:
    return Ensemble(
        weights=weights, loss=loss, corrected=Interval(value=0.5, low=0.25, high=0.75), metrics={"auc": 1 - loss}
    )


def _attempt(candidate: int, family: str, loss: float | None, rung: int = 0) -> Attempt:
    settings = dict(NET) if family == "mlp" else {}
    rows = 1_000 * 3**rung
    error = "" if loss is not None else "ValueError: no"
    return Attempt(
        candidate=candidate, family=family, settings=settings, rung=rung, rows=rows, seconds=1, loss=loss, error=error
    )


SELECTION = Selection(
    attempts=(
        _attempt(0, "lightgbm", 0.4), _attempt(1, "mlp", 0.45), _attempt(2, "xgboost", None),
        _attempt(0, "lightgbm", 0.35, 1), _attempt(1, "mlp", 0.5, 1), _attempt(3, "xgboost", None),
    ),
    members={0: {}, 1: dict(NET)},
    ensembles=(_ensemble({0: 0.75, 1: 0.25}, 0.3125), _ensemble({0: 1.0}, 0.35)),
    loss_name="log loss",
    minutes=2,
    seconds=90.0,
    validation_rows=1234,
)  # fmt: skip
STATES = {0: {"model.0": np.arange(3, dtype=np.uint8)}, 1: {"a.b": np.ones(2), "c": np.zeros(1)}, 2: {"x": np.ones(9)}}


def test_selection_and_the_states_of_its_members_are_read_back_from_a_state() -> None:
    state = SELECTION.to_state(STATES)
    assert Selection.from_state(state) == SELECTION
    read = SELECTION.member_states(state)
    assert {n: sorted(values) for n, values in read.items()} == {0: ["model.0"], 1: ["a.b", "c"]}
    assert read[0]["model.0"].tolist() == [0, 1, 2]
    specs = SELECTION.specs()
    assert (specs[0].build, specs[1].build, specs[1].parameters) == ("lightgbm", "mlp", NET)


def test_smaller_ensemble_loses_the_members_and_says_so() -> None:
    smaller = SELECTION.without_largest()
    assert smaller.served.weights == {0: 1.0}
    assert smaller.dropped == (1,)
    assert set(smaller.to_state(STATES)) == {"0/model.0", "selection"}
    assert "serving budget: mlp 1" in smaller.reason()
    assert "serving budget" not in SELECTION.reason()


def test_description_names_members_by_weight_and_reason_has_the_figures() -> None:
    assert SELECTION.describe() == "0.75 lightgbm 0 + 0.25 mlp 1"
    reason = SELECTION.reason()
    for figure in ("0.3125", "0.3500", "1,234", "4 candidates", "0.5000 [0.2500, 0.7500]", "90 of 120 s"):
        assert figure in reason


def test_table_has_a_row_for_each_attempt_best_first_and_weights_once() -> None:
    table = SELECTION.table()
    assert [(row[0], row[4]) for row in table] == [
        ("lightgbm 0", "0.3500"),
        ("lightgbm 0", "0.4000"),
        ("mlp 1", "0.4500"),
        ("mlp 1", "0.5000"),
        ("xgboost 2", "ValueError: no"),
        ("xgboost 3", "ValueError: no"),
    ]
    assert [row[5] for row in table] == ["0.75", "", "0.25", "", "", ""]
    assert all(len(row) == len(HEAD) for row in table)
    assert table[2][6] == "hidden (64, 32), dropout 0.25, norm layer"


def test_manifest_has_kind_weight_and_settings_of_the_members() -> None:
    assert SELECTION.manifest() == {
        "lightgbm 0": {"weight": 0.75, "settings": {}},
        "mlp 1": {"weight": 0.25, "settings": NET},
    }
