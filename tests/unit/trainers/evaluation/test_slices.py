"""Planted slices are proposed and measured, noise keeps the error rate, and a slice is compared with the champion's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from trainers.evaluation import slices
from trainers.evaluation.slices import SlicePolicy, SliceResult

POLICY = SlicePolicy(min_rows=100)
COLUMNS = ("carrier", "hour", "speed", "gust")


def _table(rows: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    gust = np.where(random.random(rows) < 0.2, np.nan, random.normal(size=rows))
    return pa.table({
        "carrier": random.choice(["AA", "B6", "DL", "UA"], rows),
        "hour": pa.array(random.choice(["7", "12", "17", None], rows), pa.string()),
        "speed": random.exponential(size=rows),
        "gust": pa.array(gust, from_pandas=True),
    })  # fmt: skip


def _losses(table: pa.Table, seed: int, worse: np.ndarray | None = None) -> np.ndarray:
    """Skewed, as log losses are; three times as large where ``worse``."""
    losses = np.random.default_rng(seed + 1).exponential(size=table.num_rows)
    return losses if worse is None else np.where(worse, 3 * losses, losses)


def _search(rows: int, seed: int, plant: str = "") -> tuple[SliceResult, ...]:
    """Search on one table, measure on another."""
    parts = []
    for part in (2 * seed, 2 * seed + 1):
        table = _table(rows, part)
        parts.append((table, _losses(table, part, _planted(table) if plant else None)))
    binnings = slices.fit_binnings(POLICY, parts[0][0], COLUMNS)
    return slices.measure(POLICY, slices.propose(POLICY, binnings, *parts[0]), *parts[1])


def _planted(table: pa.Table) -> np.ndarray:
    """Worse only together: neither value alone is as bad."""
    return np.asarray((table["carrier"].to_numpy() == "UA") & (table["hour"].to_numpy(zero_copy_only=False) == "17"))


def test_propose_finds_planted_slice_of_two_conditions() -> None:
    worst = _search(8000, seed=3, plant="yes")[0]
    assert worst.name == "carrier = UA and hour = 17"
    assert 2.5 < worst.low < 3 < worst.ratio + 0.4
    assert worst.rows == pytest.approx(8000 / 16, rel=0.2)


def test_propose_with_depth_one_proposes_single_conditions() -> None:
    table = _table(8000, 0)
    binnings = slices.fit_binnings(POLICY, table, COLUMNS)
    losses = _losses(table, 0, _planted(table))
    shallow = slices.propose(POLICY.model_copy(update={"depth": 1}), binnings, table, losses)
    assert {len(slice_) for slice_ in shallow} == {1}
    assert len(slices.propose(POLICY, binnings, table, losses)[0]) == 2


def test_propose_on_noise_keeps_error_rate() -> None:
    """All slices of a search together have error 0.05: 60 searches, at most that plus three standard errors."""
    searches = [_search(2000, seed) for seed in range(60)]
    assert all(searches)
    wrong = np.mean([any(m.low > 1 for m in measured_slices) for measured_slices in searches])
    assert wrong <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def test_propose_leaves_out_overlapping_slices() -> None:
    table = _table(8000, 0)
    binnings = slices.fit_binnings(POLICY, table, COLUMNS)
    chosen = slices.propose(POLICY, binnings, table, _losses(table, 0, _planted(table)))
    assert len({str(s) for s in chosen}) == len(chosen) <= POLICY.proposals
    assert sum("UA" in " ".join(map(str, s)) and "17" in " ".join(map(str, s)) for s in chosen) == 1


def test_measure_column_returns_each_large_value() -> None:
    table = pa.table({"carrier": ["AA"] * 500 + ["B6"] * 300 + ["OO"] * 20 + [None] * 180, "x": np.arange(1000.0)})
    policy = SlicePolicy(columns=("carrier",), min_rows=100)
    binnings = slices.fit_binnings(policy, table, policy.columns)
    losses = np.where(table["x"].to_numpy() < 500, 1.0, 2.0) + np.linspace(0, 0.01, 1000)
    measures = slices.measure(policy, slices.column_slices(binnings["carrier"]), table, losses, column="carrier")
    assert {m.name: m.rows for m in measures} == {"carrier = AA": 500, "carrier = B6": 300, "carrier missing": 180}
    assert [m.ratio for m in measures] == sorted((m.ratio for m in measures), reverse=True)
    assert next(m for m in measures if m.name == "carrier = AA").ratio == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(("limit", "passed"), [(1.2, False), (4.0, True)])
def test_check_compares_lower_bound_and_names_slice(limit: float, passed: bool) -> None:
    measures = _search(8000, seed=3, plant="yes")
    (check,) = slices.check(POLICY.model_copy(update={"max_ratio": limit}), measures)
    assert (check.name, check.passed, check.limit) == ("slices found by search", passed, limit)
    assert check.value == max(m.low for m in measures)
    assert "carrier = UA and hour = 17" in check.reason
    assert not list(slices.check(POLICY, measures))


def test_check_of_column_without_large_slice_fails() -> None:
    policy = SlicePolicy(columns=("carrier",), min_rows=100_000, max_ratio=2)
    (check,) = slices.check(policy, ())
    assert (check.name, check.passed, check.limit) == ("slices of carrier", False, 2)
    assert "no slice of carrier has min_rows=100000" in check.reason
    assert not list(slices.check(policy.model_copy(update={"max_ratio": None}), ()))


def test_check_of_slice_worse_than_champion_fails() -> None:
    table = _table(4000, 0)
    policy = SlicePolicy(columns=("carrier",), min_rows=100, max_regression=1.05)
    binnings = slices.fit_binnings(policy, table, policy.columns)
    losses, united = _losses(table, 0), table["carrier"].to_numpy() == "UA"
    champion = np.where(united, losses * 0.7, losses * 1.1)
    same = slices.measure(policy, slices.column_slices(binnings["carrier"]), table, losses, losses, "carrier")
    worse = slices.measure(policy, slices.column_slices(binnings["carrier"]), table, losses, champion, "carrier")
    assert [check.passed for check in slices.check(policy, same)] == [True]
    (check,) = slices.check(policy, worse)
    assert (check.name, check.passed) == ("slices of carrier against the champion", False)
    assert "carrier = UA" in check.reason
    assert check.value == pytest.approx(1 / 0.7, rel=0.02)


def test_check_of_nan_loss_fails() -> None:
    table = _table(4000, 0)
    policy = SlicePolicy(columns=("carrier",), min_rows=100, max_ratio=5, max_regression=5)
    binnings, losses = slices.fit_binnings(policy, table, policy.columns), _losses(table, 0)
    broken = np.where(table["carrier"].to_numpy() == "B6", np.nan, losses)
    measures = slices.measure(policy, slices.column_slices(binnings["carrier"]), table, broken, losses, "carrier")
    assert [check.passed for check in slices.check(policy, measures)] == [False, False]


def test_propose_ignores_rows_without_a_bin() -> None:
    """Only the rare carrier, which has no bin, has a high loss; each hour has the same share of it."""
    rare = np.repeat([False, True], [400, 40])
    table = pa.table(
        {"carrier": np.where(rare, "XX", np.tile(["AA", "B6"], 220)), "hour": ["7", "7", "12", "12"] * 110}
    )
    binnings = slices.fit_binnings(POLICY, table, ("carrier", "hour"))
    assert slices.propose(POLICY.model_copy(update={"min_rows": 50}), binnings, table, np.where(rare, 100.0, 1.0)) == ()


def test_propose_slice_with_constant_loss_is_uncertain_only_outside() -> None:
    """Loss 3 in the slice, 0 or 2 outside: Welch's t is 2 / sqrt(0 + 1 / 400)."""
    table = pa.table({"carrier": np.repeat(["AA", "UA"], [400, 200])})
    losses = np.concatenate([np.tile([0.0, 2.0], 200), np.full(200, 3.0)])
    chosen = slices.propose(POLICY, slices.fit_binnings(POLICY, table, ("carrier",)), table, losses)
    assert [str(condition) for (condition,) in chosen] == ["carrier = UA"]


def test_propose_leaves_out_slice_half_inside_a_better_one() -> None:
    """Of 200 late rows 100 are also far: half of the smaller slice is inside the other."""
    late, far = np.arange(1000) < 200, (np.arange(1000) >= 100) & (np.arange(1000) < 300)
    losses = np.where(late, 3.0, 1.0) + np.where(far, 1.0, 0.0) + np.tile([0.0, 0.1], 500)
    table = pa.table({"late": np.where(late, "yes", "no"), "far": np.where(far, "yes", "no")})
    policy = POLICY.model_copy(update={"depth": 1})
    chosen = slices.propose(policy, slices.fit_binnings(policy, table, ("late", "far")), table, losses)
    assert [str(condition) for (condition,) in chosen] == ["late = yes"]


@pytest.mark.parametrize("position", [0, 1])
def test_check_names_slice_with_nan_bound_at_any_position(position: int) -> None:
    results = [
        SliceResult(
            name=name, column="carrier", rows=100, loss=1.0, ratio=1.0, low=low, regression=1.0, regression_low=low
        )
        for name, low in (("carrier = AA", 2.0), ("carrier = B6", 3.0))
    ]
    results.insert(position, results[0].model_copy(update={"name": "broken", "low": np.nan, "regression_low": np.nan}))
    checks = list(slices.check(SlicePolicy(columns=("carrier",), max_ratio=9, max_regression=9), results))
    assert [(check.passed, "broken" in check.reason) for check in checks] == [(False, True)] * 2


@pytest.mark.parametrize(("name", "allowed", "refused"), [("bins", 2, 1), ("min_rows", 30, 29), ("depth", 2, 3)])
def test_slice_setting_is_refused_just_outside_its_bound(name: str, allowed: int, refused: int) -> None:
    assert getattr(SlicePolicy.model_validate({name: allowed}), name) == allowed
    with pytest.raises(ValidationError, match=name):
        SlicePolicy.model_validate({name: refused})
