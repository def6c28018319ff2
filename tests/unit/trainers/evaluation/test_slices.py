"""Planted slices are found and sized, noise proposes nothing that holds, and a slice is compared with the champion's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ProjectError
from tests.factories.errors import raises
from trainers.evaluation import slices
from trainers.evaluation.binning import NO_BIN, Binning
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
    drawn = np.random.default_rng(seed + 1).exponential(size=table.num_rows)
    return drawn if worse is None else np.where(worse, 3 * drawn, drawn)


def _searched(rows: int, seed: int, plant: str = "") -> tuple[SliceResult, ...]:
    """Search on one table, measure on another."""
    parts = []
    for part in (2 * seed, 2 * seed + 1):
        table = _table(rows, part)
        parts.append((table, _losses(table, part, _planted(table) if plant else None)))
    cuts = slices.fit_binnings(POLICY, parts[0][0], COLUMNS)
    return slices.measure(POLICY, slices.propose(POLICY, cuts, *parts[0]), *parts[1])


def _planted(table: pa.Table) -> np.ndarray:
    """Bad only together: neither value alone is as bad."""
    return np.asarray((table["carrier"].to_numpy() == "UA") & (table["hour"].to_numpy(zero_copy_only=False) == "17"))


def test_a_planted_slice_of_two_conditions_is_found_and_sized() -> None:
    worst = _searched(8000, seed=3, plant="yes")[0]
    assert worst.name == "carrier = UA and hour = 17"
    assert 2.5 < worst.low < 3 < worst.ratio + 0.4
    assert worst.rows == pytest.approx(8000 / 16, rel=0.2)


def test_one_condition_misses_what_two_find() -> None:
    table = _table(8000, 0)
    cuts = slices.fit_binnings(POLICY, table, COLUMNS)
    losses = _losses(table, 0, _planted(table))
    shallow = slices.propose(POLICY.model_copy(update={"depth": 1}), cuts, table, losses)
    assert {len(slice_) for slice_ in shallow} == {1}
    assert len(slices.propose(POLICY, cuts, table, losses)[0]) == 2


def test_noise_proposes_slices_but_hardly_ever_one_that_holds() -> None:
    """All slices of a search together are wrong with error 0.05: 60 searches, at most that and three standard errors."""
    searches = [_searched(2000, seed) for seed in range(60)]
    assert all(searches)
    wrong = np.mean([any(m.low > 1 for m in found) for found in searches])
    assert wrong <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def test_proposals_do_not_lie_in_one_another() -> None:
    table = _table(8000, 0)
    cuts = slices.fit_binnings(POLICY, table, COLUMNS)
    chosen = slices.propose(POLICY, cuts, table, _losses(table, 0, _planted(table)))
    assert len({str(s) for s in chosen}) == len(chosen) <= POLICY.proposals
    assert sum("UA" in " ".join(map(str, s)) and "17" in " ".join(map(str, s)) for s in chosen) == 1


def test_every_value_of_a_declared_column_is_a_slice_when_it_is_large_enough() -> None:
    table = pa.table({"carrier": ["AA"] * 500 + ["B6"] * 300 + ["OO"] * 20 + [None] * 180, "x": np.arange(1000.0)})
    policy = SlicePolicy(columns=("carrier",), min_rows=100)
    cuts = slices.fit_binnings(policy, table, policy.columns)
    losses = np.where(table["x"].to_numpy() < 500, 1.0, 2.0) + np.linspace(0, 0.01, 1000)
    found = slices.measure(policy, slices.column_slices(cuts["carrier"]), table, losses, column="carrier")
    assert {m.name: m.rows for m in found} == {"carrier = AA": 500, "carrier = B6": 300, "carrier missing": 180}
    assert [m.ratio for m in found] == sorted((m.ratio for m in found), reverse=True)
    assert next(m for m in found if m.name == "carrier = AA").ratio == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(("limit", "passed"), [(1.2, False), (4.0, True)])
def test_the_check_is_on_what_is_sure_and_names_the_slice(limit: float, passed: bool) -> None:
    found = _searched(8000, seed=3, plant="yes")
    (check,) = slices.check(POLICY.model_copy(update={"max_ratio": limit}), found)
    assert (check.name, check.passed, check.limit) == ("slices found by search", passed, limit)
    assert check.value == max(m.low for m in found)
    assert "carrier = UA and hour = 17" in check.reason
    assert not list(slices.check(POLICY, found))


def test_a_declared_column_without_a_large_slice_fails_instead_of_passing_unseen() -> None:
    policy = SlicePolicy(columns=("carrier",), min_rows=100_000, max_ratio=2)
    (check,) = slices.check(policy, ())
    assert (check.name, check.passed, check.limit) == ("slices of carrier", False, 2)
    assert "no slice of carrier has min_rows=100000" in check.reason
    assert not list(slices.check(policy.model_copy(update={"max_ratio": None}), ()))


def test_a_slice_in_which_the_champion_was_better_fails_though_the_whole_is_as_good() -> None:
    table = _table(4000, 0)
    policy = SlicePolicy(columns=("carrier",), min_rows=100, max_regression=1.05)
    cuts = slices.fit_binnings(policy, table, policy.columns)
    losses, united = _losses(table, 0), table["carrier"].to_numpy() == "UA"
    champion = np.where(united, losses * 0.7, losses * 1.1)
    same = slices.measure(policy, slices.column_slices(cuts["carrier"]), table, losses, losses, "carrier")
    worse = slices.measure(policy, slices.column_slices(cuts["carrier"]), table, losses, champion, "carrier")
    assert [check.passed for check in slices.check(policy, same)] == [True]
    (check,) = slices.check(policy, worse)
    assert (check.name, check.passed) == ("slices of carrier against the champion", False)
    assert "carrier = UA" in check.reason
    assert check.value == pytest.approx(1 / 0.7, rel=0.02)


@pytest.mark.parametrize(
    ("column", "code"),
    [
        ("carriage", "project.unknown_gate_column"),
        ("at", "project.gate_column_type"),
        ("pixels", "project.gate_column_type"),
    ],
)
def test_fit_binnings_of_column_without_bins_raises(column: str, code: str) -> None:
    table = pa.table({"at": pa.array([0, 1], pa.timestamp("us")), "pixels": pa.array([[1.0], [2.0]])})
    with raises(ProjectError, code, column=column):
        slices.fit_binnings(POLICY, table, [column])


def test_a_loss_that_is_not_a_number_fails() -> None:
    table = _table(4000, 0)
    policy = SlicePolicy(columns=("carrier",), min_rows=100, max_ratio=5, max_regression=5)
    cuts, losses = slices.fit_binnings(policy, table, policy.columns), _losses(table, 0)
    broken = np.where(table["carrier"].to_numpy() == "B6", np.nan, losses)
    found = slices.measure(policy, slices.column_slices(cuts["carrier"]), table, broken, losses, "carrier")
    assert [check.passed for check in slices.check(policy, found)] == [False, False]


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=60),
    st.integers(2, 6),
)
def test_a_number_lies_in_the_range_that_its_label_says(values: list[float | None], bins: int) -> None:
    table = pa.table({"x": pa.array(values, pa.float64())})
    cut = Binning.fit(table, "x", bins, 1)
    last = len(cut.labels) - 1
    for value, code in zip(values, cut.codes(table), strict=True):
        if value is None or value != value:
            assert code == last
        elif not cut.edges:
            assert code == NO_BIN
        else:
            assert code == sum(edge <= value for edge in cut.edges)
    assert len(set(cut.labels)) >= 1
