"""Who is a finalist, who wins, and what a search keeps of its trials."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RayloopError
from trainers.config import Change
from trainers.metrics import Primary
from trainers.tuning.trial import Standing, Trial, TuneResult, changes, finalists, ranked, standings
from trainers.tuning.trial_store import Journal

AUC, RMSE = Primary("auc", "max"), Primary("rmse", "min")


def _trial(number: int, metric: float, lr: float | None = None, **more: object) -> Trial:
    return Trial(number=number, parameters={"lr": lr or number / 10}, metric=metric, **{"status": "finished", **more})  # type: ignore[arg-type]


def test_the_best_come_first_in_either_direction_and_failures_not_at_all() -> None:
    trials = [_trial(1, 0.7), _trial(2, math.nan), _trial(3, 0.9), _trial(4, 0.7)]
    assert [t.number for t in ranked(trials, AUC)] == [3, 1, 4]
    assert [t.number for t in ranked(trials, RMSE)] == [1, 4, 3]


def test_finalists_differ_in_their_settings_and_are_no_repeats() -> None:
    trials = [
        _trial(1, 0.9, lr=0.1),
        _trial(2, 0.8, lr=0.1),
        _trial(3, 0.7),
        _trial(4, 0.95, stage="finalist"),
        _trial(5, 0.6),
    ]
    assert [t.number for t in finalists(trials, AUC, 2)] == [1, 3]
    assert [t.number for t in finalists(trials, AUC, 9)] == [1, 3, 5]


def test_the_best_mean_wins_over_the_best_trial() -> None:
    lucky, steady = _trial(1, 0.99), _trial(2, 0.9)
    repeats = [
        _trial(3, 0.70, stage="finalist", parent=1),
        _trial(4, 0.80, stage="finalist", parent=1),
        _trial(5, 0.88, stage="finalist", parent=2),
        _trial(6, math.nan, stage="finalist", parent=2),
        _trial(7, 0.90, stage="finalist", parent=2),
    ]
    found = standings([lucky, steady], repeats, AUC)
    assert [s.trial for s in found] == [2, 1]
    assert found[0].values == (0.88, 0.90)
    assert (found[1].mean, found[1].spread) == (pytest.approx(0.75), pytest.approx(0.0707, abs=1e-4))
    assert [s.trial for s in standings([lucky, steady], repeats, RMSE)] == [1, 2]


def test_a_finalist_whose_repeats_all_failed_does_not_stand() -> None:
    repeats = [_trial(3, math.nan, stage="finalist", parent=1), _trial(4, 0.5, stage="finalist", parent=2)]
    assert [s.trial for s in standings([_trial(1, 0.9), _trial(2, 0.8)], repeats, AUC)] == [2]


def test_one_seed_has_no_spread() -> None:
    assert math.isnan(Standing(trial=1, parameters={}, values=(0.5,)).spread)


def test_the_line_that_tells_the_winner_gives_mean_spread_and_what_the_search_saw() -> None:
    from trainers.config import ModelSpec, TrainConfig

    best, standing = _trial(2, 0.9), Standing(trial=2, parameters={}, values=(0.8, 0.84))
    alone = TuneResult((best,), best, ModelSpec(), TrainConfig(), "auc", 1.0)
    assert alone.told == "trial 2 wins with validation auc 0.9000"
    told = TuneResult((best,), best, ModelSpec(), TrainConfig(), "auc", 1.0, (standing,)).told
    assert told == "trial 2 wins with validation auc 0.8200 ± 0.0283 over 2 new seeds (0.9000 in the search)"


def test_changes_follow_the_line_of_parents() -> None:
    trials = [
        _trial(1, 0.5, lr=0.1, epochs=2),
        _trial(2, 0.6, lr=0.2, epochs=2),
        _trial(3, 0.6, lr=0.3, epochs=4, parent=2),
        _trial(4, 0.6, lr=0.2, epochs=4, parent=2),
        _trial(5, 0.7, lr=0.4, epochs=6, parent=4),
    ]
    assert changes(trials, trials[0]) == ({"lr": 0.1}, ())
    assert changes(trials, trials[2]) == ({"lr": 0.2}, (Change(after=2, lr=0.3),))
    assert changes(trials, trials[4]) == ({"lr": 0.2}, (Change(after=4, lr=0.4),))


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
def test_a_trial_comes_back_from_its_file_as_it_was(parameters: dict, metric: float, curve: tuple[float, ...]) -> None:
    trial = Trial(number=1, parameters=parameters, metric=metric, curve=curve)
    back = Trial.model_validate_json(trial.model_dump_json())
    assert repr(back) == repr(trial)
    assert {name: type(value) for name, value in back.parameters.items()} == {
        name: type(value) for name, value in parameters.items()
    }


def test_a_journal_is_read_by_the_next_process(tmp_path: Path) -> None:
    folder = str(tmp_path / "deep" / "search")
    journal = Journal(folder)
    assert not journal.begun
    for trial in (_trial(2, math.nan, status="running"), _trial(1, math.nan, status="running"), _trial(1, 0.5)):
        journal.put(trial)
    (Path(folder) / "000003.json.12345678").write_text("{half")
    again = Journal(folder)
    assert again.begun
    assert [t.number for t in again.ended()] == [1]
    assert [t.number for t in again.interrupted()] == [2]
    assert again.ended() == journal.ended() == [_trial(1, 0.5)]


def test_a_journal_without_a_folder_lasts_as_long_as_the_process() -> None:
    journal = Journal()
    journal.put(_trial(1, 0.5))
    assert journal.ended() == [_trial(1, 0.5)]
    assert not Journal().begun


def test_a_journal_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RayloopError, match=r"trial 1 cannot be kept in .*file/search"):
        Journal(str(tmp_path / "file" / "search")).put(_trial(1, 0.5))
