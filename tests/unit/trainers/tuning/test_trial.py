"""The finalists, the winner, and the records that a search keeps of its trials."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RayloopError
from tests.factories.errors import raises
from trainers.config import ConfigChange
from trainers.metrics import PrimaryMetric
from trainers.tuning.trial import (
    FinalistResult,
    Trial,
    TuneResult,
    rank_finalists,
    rank_trials,
    select_finalists,
    trace_changes,
)
from trainers.tuning.trial_store import TrialStore

AUC, RMSE = PrimaryMetric("auc", "max"), PrimaryMetric("rmse", "min")


def _trial(number: int, metric: float, lr: float | None = None, **more: object) -> Trial:
    return Trial(number=number, parameters={"lr": lr or number / 10}, metric=metric, **{"status": "finished", **more})  # type: ignore[arg-type]


def test_rank_trials_orders_by_direction_and_drops_failures() -> None:
    trials = [_trial(1, 0.7), _trial(2, math.nan), _trial(3, 0.9), _trial(4, 0.7)]
    assert [t.number for t in rank_trials(trials, AUC)] == [3, 1, 4]
    assert [t.number for t in rank_trials(trials, RMSE)] == [1, 4, 3]


def test_select_finalists_have_distinct_settings() -> None:
    trials = [
        _trial(1, 0.9, lr=0.1),
        _trial(2, 0.8, lr=0.1),
        _trial(3, 0.7),
        _trial(4, 0.95, stage="finalist"),
        _trial(5, 0.6),
    ]
    assert [t.number for t in select_finalists(trials, AUC, 2)] == [1, 3]
    assert [t.number for t in select_finalists(trials, AUC, 9)] == [1, 3, 5]


def test_rank_finalists_by_mean() -> None:
    lucky, steady = _trial(1, 0.99), _trial(2, 0.9)
    repeats = [
        _trial(3, 0.70, stage="finalist", parent=1),
        _trial(4, 0.80, stage="finalist", parent=1),
        _trial(5, 0.88, stage="finalist", parent=2),
        _trial(6, math.nan, stage="finalist", parent=2),
        _trial(7, 0.90, stage="finalist", parent=2),
    ]
    finalists = rank_finalists([lucky, steady], repeats, AUC)
    assert [s.trial for s in finalists] == [2, 1]
    assert finalists[0].values == (0.88, 0.90)
    assert (finalists[1].mean, finalists[1].spread) == (pytest.approx(0.75), pytest.approx(0.0707, abs=1e-4))
    assert [s.trial for s in rank_finalists([lucky, steady], repeats, RMSE)] == [1, 2]


def test_rank_finalists_drops_one_without_results() -> None:
    repeats = [_trial(3, math.nan, stage="finalist", parent=1), _trial(4, 0.5, stage="finalist", parent=2)]
    assert [s.trial for s in rank_finalists([_trial(1, 0.9), _trial(2, 0.8)], repeats, AUC)] == [2]


def test_spread_of_one_seed_is_nan() -> None:
    assert math.isnan(FinalistResult(trial=1, parameters={}, values=(0.5,)).spread)


def test_summary_has_mean_spread_and_search_result() -> None:
    from trainers.config import ModelSpec, TrainConfig

    best, standing = _trial(2, 0.9), FinalistResult(trial=2, parameters={}, values=(0.8, 0.84))
    alone = TuneResult((best,), best, ModelSpec(), TrainConfig(), "auc", 1.0)
    assert alone.summary == "trial 2 wins with validation auc 0.9000"
    summary = TuneResult((best,), best, ModelSpec(), TrainConfig(), "auc", 1.0, (standing,)).summary
    assert summary == "trial 2 wins with validation auc 0.8200 ± 0.0283 over 2 new seeds (0.9000 in the search)"


def test_trace_changes_follows_parents() -> None:
    trials = [
        _trial(1, 0.5, lr=0.1, epochs=2),
        _trial(2, 0.6, lr=0.2, epochs=2),
        _trial(3, 0.6, lr=0.3, epochs=4, parent=2),
        _trial(4, 0.6, lr=0.2, epochs=4, parent=2),
        _trial(5, 0.7, lr=0.4, epochs=6, parent=4),
    ]
    assert trace_changes(trials, trials[0]) == ({"lr": 0.1}, ())
    assert trace_changes(trials, trials[2]) == ({"lr": 0.2}, (ConfigChange(after=2, lr=0.3),))
    assert trace_changes(trials, trials[4]) == ({"lr": 0.2}, (ConfigChange(after=4, lr=0.4),))


PARAMETER = st.one_of(
    st.booleans(),
    st.integers(-1000, 1000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
)


@given(
    st.dictionaries(st.text(min_size=1, max_size=5), PARAMETER, max_size=4),
    st.one_of(st.just(math.nan), st.floats(allow_nan=False)),
    st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
)
def test_trial_round_trips_through_json(parameters: dict, metric: float, curve: tuple[float, ...]) -> None:
    trial = Trial(number=1, parameters=parameters, metric=metric, curve=curve)
    back = Trial.model_validate_json(trial.model_dump_json())
    assert repr(back) == repr(trial)
    assert {name: type(value) for name, value in back.parameters.items()} == {
        name: type(value) for name, value in parameters.items()
    }


def test_trial_store_is_read_by_the_next_process(tmp_path: Path) -> None:
    folder = str(tmp_path / "deep" / "search")
    store = TrialStore(folder)
    assert not store.has_trials
    for trial in (_trial(2, math.nan, status="running"), _trial(1, math.nan, status="running"), _trial(1, 0.5)):
        store.put(trial)
    (Path(folder) / "000003.json.12345678").write_text("{half")
    again = TrialStore(folder)
    assert again.has_trials
    assert [t.number for t in again.ended_trials()] == [1]
    assert [t.number for t in again.interrupted_trials()] == [2]
    assert again.ended_trials() == store.ended_trials() == [_trial(1, 0.5)]


def test_trial_store_without_a_folder_is_in_memory() -> None:
    store = TrialStore()
    store.put(_trial(1, 0.5))
    assert store.ended_trials() == [_trial(1, 0.5)]
    assert not TrialStore().has_trials


def test_trial_store_in_an_unwritable_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with raises(RayloopError, "rayloop.trial_not_written", trial=1):
        TrialStore(str(tmp_path / "file" / "search")).put(_trial(1, 0.5))
