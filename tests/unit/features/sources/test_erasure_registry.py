"""Rows of erased entities are left out, and no others."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from cluster.settings import Settings
from cluster.storage.tables import Tables
from features.sources.erasure_registry import ErasureRegistry, record_erasure
from features.sources.pseudonyms import PseudonymKey

KEY = PseudonymKey(b"k" * 32)
AT = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = pl.DataFrame({"shop": ["1", "1", "2", None], "item": ["a", "b", "a", "a"], "n": [1.0, 2.0, 3.0, None]})


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Settings(home=tmp_path))


@pytest.mark.parametrize("names", [None, KEY])
def test_drop_erased_removes_rows_of_erased_entity(tables: Tables, names: PseudonymKey | None) -> None:
    record_erasure(tables, "p", {"item": "a", "shop": "1"}, names, AT)
    record_erasure(tables, "p", {"shop": "1", "item": "a"}, names, AT)
    registry = ErasureRegistry.read(tables, "p")
    assert registry.has_keyed_entries is (names is not None)
    assert registry.drop_erased(ROWS, names).rows() == ROWS.rows()[1:]
    assert registry.drop_erased(ROWS.drop("shop"), names).height == 4
    assert tables.read("p.forgotten").num_rows == 1


def test_drop_erased_with_entities_of_different_columns(tables: Tables) -> None:
    record_erasure(tables, "p", {"shop": "2"}, None, AT)
    record_erasure(tables, "p", {"item": "b"}, KEY, AT)
    assert ErasureRegistry.read(tables, "p").drop_erased(ROWS, KEY).rows() == [ROWS.rows()[0], ROWS.rows()[3]]
    assert ErasureRegistry.read(tables, "q").drop_erased(ROWS, KEY).equals(ROWS)


def test_registry_contains_no_value(tables: Tables) -> None:
    record_erasure(tables, "p", {"mail": "a@b.c"}, KEY, AT)
    assert "a@b.c" not in str(tables.read("p.forgotten").to_pylist())
