"""Tokens: equal for equal values, in tables and requests, and useless without the key."""

from __future__ import annotations

import pickle
from pathlib import Path

import polars as pl
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ProjectError, SettingsError
from cluster.settings import Settings
from features.builders import category, dropped, hashed, number
from features.sources.pseudonyms import Pseudonymizer, PseudonymKey, load_pseudonym_key, protect_rows
from tests.factories.errors import raises

KEY, OTHER = PseudonymKey(b"k" * 32), PseudonymKey(b"o" * 32)
COLUMNS = (*category("id"), *hashed(*category("mail")), *dropped(*number("age")))


@given(st.text())
def test_token_maps_to_itself_under_its_own_key_only(value: str) -> None:
    token = KEY.token(value)
    assert KEY.token(token) == token
    assert OTHER.token(value) != token
    assert OTHER.token(token) != token
    assert len(token) == 42


@given(st.lists(st.none() | st.text(max_size=3), max_size=20))
def test_protect_rows_and_tokenize_array_give_equal_tokens(values: list[str | None]) -> None:
    expected = [None if value is None else KEY.token(value) for value in values]
    frame = pl.DataFrame(
        {"id": values, "mail": values, "age": [1.0] * len(values)},
        schema_overrides={"id": pl.String, "mail": pl.String},
    )
    rows = protect_rows(COLUMNS, frame, KEY)
    assert rows.to_dict(as_series=False) == {"id": values, "mail": expected}
    assert KEY.tokenize_array(pa.array(values, pa.string())).to_pylist() == expected


def test_token_is_keyed_blake2b() -> None:
    import hashlib

    expected = hashlib.blake2b(b"a@b.c", digest_size=16, key=b"k" * 32).hexdigest()
    assert KEY.token("a@b.c").endswith(expected)


def test_load_pseudonym_key_with_unusable_file_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "key").write_text("x" * 64)
    (tmp_path / "short").write_text("x" * 31)
    (tmp_path / "key").write_text("x" * 64 + "\n")
    for file, code in (
        ("", "settings.personal_key_missing"),
        (home / "key", "settings.personal_key_beside_data"),
        (tmp_path / "short", "settings.personal_key_too_short"),
        (tmp_path / "none", "settings.personal_key_unreadable"),
    ):
        with raises(SettingsError, code):
            load_pseudonym_key(Settings(home=home, personal_key_file=str(file)))
    assert load_pseudonym_key(Settings(home=home, personal_key_file=str(tmp_path / "key"))).token("a") == PseudonymKey(
        b"x" * 64
    ).token("a")


def test_protect_rows_without_key_is_refused() -> None:
    frame = pl.DataFrame({"id": ["1"], "mail": ["a@b.c"], "age": [1.0]})
    with raises(SettingsError, "settings.personal_key_missing"):
        protect_rows(COLUMNS, frame, None)
    assert protect_rows((*category("id"),), frame, None).equals(frame)


def test_hashed_number_column_is_refused() -> None:
    with raises(ProjectError, "project.hashed_column_kind", column="age"):
        hashed(*number("age"))


def test_pseudonymizer_replaces_values_and_pickles_without_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("x" * 64)
    settings = Settings(home=tmp_path / "home", personal_key_file=str(tmp_path / "key"))
    pseudonymizer = Pseudonymizer.for_columns(COLUMNS, settings)
    rows = pseudonymizer(pa.table({"id": ["1", None], "mail": ["a@b.c", None]}))
    assert rows.to_pydict() == {"id": ["1", None], "mail": [PseudonymKey(b"x" * 64).token("a@b.c"), None]}
    assert b"xxxx" not in pickle.dumps(pseudonymizer)
    with raises(SettingsError, "settings.personal_key_missing"):
        Pseudonymizer.for_columns(COLUMNS, Settings(home=tmp_path))
    clear = pa.table({"id": ["1"]})
    assert Pseudonymizer.for_columns(category("id"), Settings(home=tmp_path))(clear) is clear
