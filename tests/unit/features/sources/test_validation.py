"""Validation of rows: every reason, and the row as it was read."""

from __future__ import annotations

import json
from datetime import timedelta

import polars as pl
import pytest

from cluster.errors import DataError, ProjectError
from features.builders import category, dropped, hashed, number, timestamp
from features.sources.pseudonyms import PseudonymKey
from features.sources.source import Source
from features.sources.validation import RAW, REASON, check_rows, count_reasons, staleness, validate_rows
from features.types import KNOWN_FROM
from tests.factories.errors import raises
from tests.factories.features.shops import LATER, NOON, visits_source

KEY = PseudonymKey(b"k" * 32)


def source(**changes: object) -> Source:
    declared = {
        "columns": (*category("id", "shop"), *number("spent", "tip"), *timestamp("at", "known")),
        "categories": {"shop": ("north", "south")},
        "patterns": {"id": r"^[a-z]\d*$"},
        "rules": {"tip is more than was spent": pl.col("tip") <= pl.col("spent")},
    }
    return visits_source(**{**declared, **changes})


def row(**cells: object) -> pl.DataFrame:
    whole = {"id": "a1", "shop": "north", "spent": 5.0, "tip": 1.0, "at": NOON, "known": LATER}
    return pl.DataFrame([{**whole, **cells}], strict=False)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({}, None),
        ({"spent": None}, None),
        ({"spent": float("nan")}, None),
        ({"spent": 100.0}, None),
        ({"spent": 100.5}, "spent is outside 0 to 100"),
        ({"spent": float("inf")}, "spent is outside 0 to 100"),
        ({"spent": "five"}, "spent is not a number"),
        ({"spent": "5"}, None),
        ({"shop": None}, "shop is missing"),
        ({"shop": "east"}, "shop is none of north, south"),
        ({"id": "A1"}, r"id does not match ^[a-z]\d*$"),
        ({"id": None}, "id is missing"),
        ({"tip": 6.0}, "tip is more than was spent"),
        ({"known": NOON - timedelta(hours=1)}, "known is before at"),
        ({"at": "yesterday"}, "at is not a timestamp"),
        ({"at": None}, "at is missing"),
    ],
)
def test_check_rows_gives_reason_and_raw_row(cells: dict, reason: str | None) -> None:
    checked = check_rows(source(), row(**cells))
    assert checked.get_column(REASON).to_list() == [reason]
    assert checked.get_column(RAW).is_null().to_list() == [reason is None]


def test_check_rows_gives_all_reasons_of_a_row() -> None:
    worst = row(shop="east", spent=-1.0, tip=7.0)
    reasons = check_rows(source(), pl.concat([worst, row(), row(id="b", spent=-1.0)], how="vertical_relaxed"))
    texts = reasons.get_column(REASON).drop_nulls().to_list()
    assert sorted(texts[0].split("; ")) == sorted(
        ["shop is none of north, south", "spent is outside 0 to 100", "tip is more than was spent"]
    )
    assert count_reasons(texts)["spent is outside 0 to 100"] == 2


def test_check_rows_gives_raw_cells_before_the_cast() -> None:
    (raw,) = check_rows(source(), row(spent="five")).get_column(RAW)
    assert json.loads(raw) == {
        "id": "a1", "shop": "north", "spent": "five", "tip": 1.0, "at": str(NOON), "known": str(LATER),
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["2024-01-01T12:00:00Z", "2024-01-01T13:00:00+01:00", "2024-01-01 12:00:00", "2024-01-01T12:00:00.000"]
)
def test_check_rows_reads_times_without_offset_as_utc(text: str) -> None:
    assert check_rows(source(), row(at=text)).get_column("at").to_list() == [NOON]


def test_check_rows_validates_with_pandera_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    from pandera.config import CONFIG

    monkeypatch.setattr(CONFIG, "validation_enabled", False)
    assert check_rows(source(), row(spent=101.0)).get_column(REASON).null_count() == 0


def test_check_rows_protects_personal_data_after_validation() -> None:
    private = source(
        columns=(
            *category("id"),
            *hashed(*category("shop")),
            *number("spent"),
            *dropped(*number("tip")),
            *timestamp("at", "known"),
        )
    )
    checked = check_rows(private, pl.concat([row(), row(id="b", tip=9.0, shop="south")]), KEY)
    assert checked.columns == ["id", "shop", "spent", "at", "known", REASON, RAW, KNOWN_FROM]
    assert checked.get_column("shop").to_list() == [KEY.token("north"), KEY.token("south")]
    assert checked.get_column(REASON).to_list() == [None, "tip is more than was spent"]
    assert not any(word in checked.write_json() for word in ("north", "south", "9.0"))


def test_source_with_dropped_key_or_mistyped_rule_is_refused() -> None:
    with raises(ProjectError, "project.source_drops_key", columns=["id"]):
        source(
            columns=(*dropped(*category("id")), *category("shop"), *number("spent", "tip"), *timestamp("at", "known"))
        )
    with raises(ProjectError, "project.column_kind", column="spent"):
        source(categories={"spent": ("1",)})
    with raises(ProjectError, "project.unknown_column", columns=["nowhere"]):
        source(rules={"x": pl.col("nowhere") > 1})


def test_validate_rows_of_empty_table_and_missing_columns() -> None:
    assert validate_rows(source(), row().clear()).height == 0
    with raises(DataError, "data.missing_columns", columns=["at", "known"]):
        validate_rows(source(), row().drop("at", "known"))


@pytest.mark.parametrize(("age", "stale"), [(timedelta(hours=1), False), (timedelta(hours=1, seconds=1), True)])
def test_staleness_beyond_the_limit_is_described(age: timedelta, stale: bool) -> None:
    sentence = staleness(source(fresh_within=timedelta(hours=1)), NOON, NOON + age)
    assert bool(sentence) is stale
    assert not stale or "2024-01-01 12:00:00 UTC, 1:00:01 ago" in sentence
    assert staleness(source(), NOON, NOON + timedelta(days=9)) == ""
    assert "has no rows" in staleness(source(fresh_within=age), None, NOON)
