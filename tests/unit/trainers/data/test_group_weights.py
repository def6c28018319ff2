"""Weights make labels independent of groups, exactly, and keep the shares of both."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from features.encoder import Encoder
from features.types import WEIGHT
from tests.factories.trainers.frames import COLUMNS, frame, part
from trainers.data.encoding_task import EncodeRows
from trainers.data.group_weights import GroupWeights

ROWS = pa.table(
    {
        "sex": ["f"] * 6 + ["m"] * 4 + [None] * 2,
        "age": ["old", "young"] * 6,
        "label": [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0],
    }
)


def weighted_shares(rows: pa.Table, weights: np.ndarray, columns: tuple[str, ...]) -> dict[tuple[str, ...], float]:
    """Weighted share of label 1 in each group."""
    keys = list(zip(*(rows[column].fill_null("missing").to_pylist() for column in columns), strict=True))
    labels = rows["label"].to_numpy()
    return {
        key: float(weights[here] @ labels[here] / weights[here].sum())
        for key in set(keys)
        if len(here := np.flatnonzero([other == key for other in keys]))
    }


def test_factor_of_a_row_is_that_of_kamiran_and_calders() -> None:
    factors = GroupWeights.fit(ROWS, ("sex",), 1).of(ROWS)
    # P(f) = 6/12, P(1) = 5/12, P(f, 1) = 1/12.
    assert factors[0] == pytest.approx(6 / 12 * 5 / 12 / (1 / 12))
    assert factors[1] == pytest.approx(6 / 12 * 7 / 12 / (5 / 12))


@pytest.mark.parametrize("columns", [("sex",), ("sex", "age")])
def test_labels_do_not_depend_on_groups_after_weighting(columns: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    n = 500
    sex, age = rng.choice(["f", "m", "x"], n, p=[0.6, 0.3, 0.1]), rng.choice(["old", "young"], n)
    labels = (rng.random(n) < 0.2 + 0.5 * (sex == "m") + 0.1 * (age == "old")).astype(float)
    rows = pa.table({"sex": sex, "age": age, "label": labels})
    factors = GroupWeights.fit(rows, columns, 1).of(rows)
    np.testing.assert_allclose(list(weighted_shares(rows, factors, columns).values()), labels.mean(), rtol=1e-12)
    # The shares of groups and of labels stay.
    assert factors.sum() == pytest.approx(n)
    assert factors[sex == "m"].sum() == pytest.approx((sex == "m").sum())


def test_rows_of_small_groups_keep_their_weight() -> None:
    factors = GroupWeights.fit(ROWS, ("sex",), 3).of(ROWS)
    assert factors[10:].tolist() == [1.0, 1.0]
    shares = weighted_shares(ROWS, factors, ("sex",))
    assert shares[("f",)] == pytest.approx(shares[("m",)]) == pytest.approx(4 / 10)
    unknown = pa.table({"sex": ["other"], "label": [1.0]})
    assert GroupWeights.fit(ROWS, ("sex",), 3).of(unknown).tolist() == [1.0]


def test_weights_that_rows_have_count() -> None:
    """A weak label has a row for each class, with its probability."""
    weak = pa.table({"sex": ["m", "m"], "age": ["old", "old"], "label": [0.0, 1.0], WEIGHT: [0.9, 0.1]})
    rows = pa.concat_tables([ROWS.append_column(WEIGHT, pa.array([1.0] * 12)), weak])
    weights = rows[WEIGHT].to_numpy() * GroupWeights.fit(rows, ("sex",), 3).of(rows)
    shares = weighted_shares(rows, weights, ("sex",))
    assert shares[("f",)] == pytest.approx(shares[("m",)])
    # Four rows and a weak one, which is two rows, are five.
    assert set(GroupWeights.fit(rows, ("sex",), 6).of(rows)[6:10]) == {1.0}


def test_training_rows_alone_are_reweighed() -> None:
    table = frame("binary", rows=300)
    train, held_out = part(table, "train"), part(table, "validation")
    groups = GroupWeights.fit(train, ("color",), 5)
    encoded = EncodeRows(Encoder.fit(COLUMNS, train), groups=groups)(table)
    np.testing.assert_allclose(encoded["weights"][: train.num_rows], groups.of(train), rtol=1e-6)
    assert encoded["weights"][train.num_rows :].tolist() == [1.0] * held_out.num_rows
    assert encoded["weights"][: train.num_rows].std() > 0.1
