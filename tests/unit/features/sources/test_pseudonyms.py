"""Tokens: equal for equal values, the same everywhere, of no use without the key."""

from __future__ import annotations

import pickle
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ProjectError, SettingsError
from cluster.settings import Settings
from features.builders import category, dropped, hashed, number
from features.sources.pseudonyms import Pseudonymizer, PseudonymKey, load_pseudonym_key, protect_rows

KEY, OTHER = PseudonymKey(b"k" * 32), PseudonymKey(b"o" * 32)
COLUMNS = (*category("id"), *hashed(*category("mail")), *dropped(*number("age")))


@given(st.text())
def test_a_token_is_its_own_and_hides_the_value(value: str) -> None:
    token = KEY.token(value)
    assert KEY.token(token) == token
    assert OTHER.token(value) != token
    assert OTHER.token(token) != token
    assert len(token) == 42


@given(st.lists(st.none() | st.text(max_size=3), max_size=20))
def test_columns_of_tables_and_of_requests_get_the_same_tokens(values: list[str | None]) -> None:
    expected = [None if value is None else KEY.token(value) for value in values]
    frame = pl.DataFrame(
        {"id": values, "mail": values, "age": [1.0] * len(values)},
        schema_overrides={"id": pl.String, "mail": pl.String},
    )
    kept = protect_rows(COLUMNS, frame, KEY)
    assert kept.to_dict(as_series=False) == {"id": values, "mail": expected}
    assert KEY.tokenize_array(pa.array(values, pa.string())).to_pylist() == expected


def test_the_hash_is_blake2b_of_the_value_under_the_key() -> None:
    import hashlib

    expected = hashlib.blake2b(b"a@b.c", digest_size=16, key=b"k" * 32).hexdigest()
    assert KEY.token("a@b.c").endswith(expected)


def test_a_key_is_needed_outside_the_data_and_long_enough(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "key").write_text("x" * 64)
    (tmp_path / "short").write_text("x" * 31)
    (tmp_path / "key").write_text("x" * 64 + "\n")
    for file, message in (
        ("", "names no key"),
        (home / "key", "beside the data"),
        (tmp_path / "short", "holds 31 bytes"),
        (tmp_path / "none", "cannot be read"),
    ):
        with pytest.raises(SettingsError, match=message):
            load_pseudonym_key(Settings(home=home, personal_key_file=str(file)))
    assert load_pseudonym_key(Settings(home=home, personal_key_file=str(tmp_path / "key"))).token("a") == PseudonymKey(
        b"x" * 64
    ).token("a")


def test_nothing_is_stored_in_clear_for_want_of_a_key() -> None:
    frame = pl.DataFrame({"id": ["1"], "mail": ["a@b.c"], "age": [1.0]})
    with pytest.raises(SettingsError, match="no key"):
        protect_rows(COLUMNS, frame, None)
    assert protect_rows((*category("id"),), frame, None).equals(frame)


def test_only_text_is_hashed() -> None:
    with pytest.raises(ProjectError, match="a hash stands for a category"):
        hashed(*number("age"))


def test_a_request_goes_on_with_tokens_and_a_shield_carries_no_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("x" * 64)
    settings = Settings(home=tmp_path / "home", personal_key_file=str(tmp_path / "key"))
    shield = Pseudonymizer.for_columns(COLUMNS, settings)
    rows = shield(pa.table({"id": ["1", None], "mail": ["a@b.c", None]}))
    assert rows.to_pydict() == {"id": ["1", None], "mail": [PseudonymKey(b"x" * 64).token("a@b.c"), None]}
    assert b"xxxx" not in pickle.dumps(shield)
    with pytest.raises(SettingsError, match="names no key"):
        Pseudonymizer.for_columns(COLUMNS, Settings(home=tmp_path))
    clear = pa.table({"id": ["1"]})
    assert Pseudonymizer.for_columns(category("id"), Settings(home=tmp_path))(clear) is clear
