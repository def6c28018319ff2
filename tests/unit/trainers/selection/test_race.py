"""Who is trained next: rungs of growing rows, shares of the time, and a model whatever happens."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from trainers.selection.race import Heat, Race, rung_rows

FAMILIES = ("trees", "net") * 6


def run(
    race: Race, cost: Callable[[Heat], float], loss: Callable[[Heat], float] = lambda heat: heat.candidate
) -> tuple[list[Heat], float]:
    """Run a race whose trainings cost what ``cost`` says, or until they are stopped; return the heats and the time."""
    heats, now = list[Heat](), 0.0
    while heat := race.next(now):
        heats.append(heat)
        seconds = min(cost(heat), max(0.1, heat.until - now))
        now += seconds
        race.finish(loss(heat), seconds)
        assert len(heats) < 100
    return heats, now


def by_rung(heats: list[Heat]) -> list[list[int]]:
    return [[heat.candidate for heat in heats if heat.rung == rung] for rung in range(max(h.rung for h in heats) + 1)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(1, (1,)), (2_999, (2_999,)), (3_000, (1_000, 3_000)), (9_000, (1_000, 3_000, 9_000)), (900_000, None)],
)
def test_rungs_grow_threefold_and_end_with_all_rows(rows: int, expected: tuple[int, ...] | None) -> None:
    assert rung_rows(rows) == (expected or (100_000, 300_000, 900_000))


def test_race_promotes_the_best_third_and_the_best_of_each_other_kind() -> None:
    # Candidates of the first kind have even numbers, and lower losses.
    loss = {c: c if c % 2 == 0 else 100 + c for c in range(12)}
    heats, now = run(
        Race(FAMILIES, (1_000, 3_000, 9_000), 1_000.0), lambda h: h.rows / 1_000, lambda h: loss[h.candidate]
    )
    rungs = by_rung(heats)
    assert rungs[0] == list(range(12))
    assert rungs[1] == [0, 2, 4, 6, 1]
    assert rungs[2] == [0, 2, 1, 4, 6], "the best third, the best of the other kind, then the others"
    assert {(heat.rung, heat.rows) for heat in heats} == {(0, 1_000), (1, 3_000), (2, 9_000)}
    assert now == 12 + 5 * 3 + 5 * 9


@pytest.mark.parametrize("seconds", [1.0, 20.0, 60.0])
@pytest.mark.parametrize("cost", [0.2, 3.0, 500.0])
def test_race_ends_in_time_and_trains_on_all_rows(seconds: float, cost: float) -> None:
    heats, now = run(Race(FAMILIES, (1_000, 3_000, 9_000), seconds), lambda heat: cost * heat.rows / 1_000)
    assert now <= seconds + 0.1 * len(FAMILIES)
    assert all(heat.until <= seconds + 1e-9 for heat in heats if heat.rung == 2)
    assert heats[-1].rung == 2


def test_slow_first_candidate_leaves_time_to_the_other_kinds() -> None:
    heats, now = run(Race(("slow", "quick", "third"), (1_000,), 30.0), lambda heat: 500.0 if not heat.candidate else 1)
    assert [heat.candidate for heat in heats] == [0, 1, 2]
    assert heats[0].until == 10.0
    assert now == 12.0


def test_candidate_that_would_not_end_in_time_is_not_begun() -> None:
    heats, _ = run(Race(("a",) * 9, (1_000, 3_000), 20.0), lambda heat: 3.0 * heat.rows / 1_000)
    rungs = by_rung(heats)
    assert rungs[0] == [0, 1, 2], "each takes 3 of 10 seconds"
    assert rungs[1] == [0], "each takes 9 of 11 seconds"


def test_race_that_is_out_of_time_still_trains_until_there_is_a_model() -> None:
    def loss(heat: Heat) -> float:
        return math.inf if heat.candidate < 2 else 1.0

    heats, _ = run(Race(("a", "b", "c", "d"), (1_000,), 0.001), lambda heat: 1.0, loss)
    assert [heat.candidate for heat in heats] == [0, 1, 2]


def test_race_in_which_all_fail_ends() -> None:
    heats, _ = run(Race(("a", "b"), (1_000, 3_000), 9.0), lambda heat: 1.0, lambda heat: math.inf)
    assert [heat.candidate for heat in heats] == [0, 1]


def test_failed_candidate_does_not_go_on() -> None:
    def loss(heat: Heat) -> float:
        return math.inf if heat.candidate == 0 else heat.candidate

    heats, _ = run(Race(("a",) * 3, (1_000, 3_000), 99.0), lambda heat: 1.0, loss)
    assert by_rung(heats) == [[0, 1, 2], [1, 2]]
