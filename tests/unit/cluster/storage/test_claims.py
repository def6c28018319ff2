"""Claims: the newest may write, and an older one cannot, whatever it has begun."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from cluster.errors import ClaimOutdated, WriterReplaced
from cluster.settings import Settings
from cluster.storage import table_catalog
from cluster.storage.claims import Claim
from cluster.storage.tables import Tables
from tests.factories.errors import raises

NAME = "shop.sales"
WRITER = "ledger:shop"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def rows(*numbers: int) -> pa.Table:
    return pa.table({"n": pa.array(numbers, pa.int64())})


def take(settings: Settings, writer: str = WRITER) -> Claim:
    return Claim.take(settings, writer, uuid4().hex)


def numbers(settings: Settings) -> list[int]:
    return sorted(Tables(settings).read(NAME)["n"].to_pylist())


def test_each_claim_has_a_higher_epoch_and_ends_the_ones_before(settings: Settings) -> None:
    first, second, other = (take(settings, writer) for writer in (WRITER, WRITER, "rollout:shop"))
    assert second.epoch > first.epoch
    with raises(WriterReplaced, "cluster.writer_replaced", writer=WRITER, epoch=first.epoch, newest=second.epoch):
        first.check_now()
    with raises(WriterReplaced, "cluster.writer_replaced", writer=WRITER):
        first.renew()
    second.check_now()
    other.check_now()


def test_claims_at_once_differ(settings: Settings) -> None:
    take(settings)
    with ThreadPoolExecutor(4) as threads:
        claims = list(threads.map(lambda _: take(settings), range(12)))
    assert len({claim.epoch for claim in claims}) == 12
    max(claims, key=lambda claim: claim.epoch).check_now()


def test_epochs_of_a_database_that_was_lost_are_not_given_out_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = take(settings)
    (settings.home / "catalog.db").unlink()
    monkeypatch.setattr("time.time", lambda: first.epoch + 1.5)
    assert take(settings).epoch > first.epoch


def test_writer_that_was_replaced_appends_creates_and_evolves_nothing(settings: Settings) -> None:
    old = Tables(settings, take(settings))
    old.append(NAME, rows(1), key="1")
    new = Tables(settings, take(settings))
    for append in (
        lambda: old.append(NAME, rows(2), key="2"),
        lambda: old.append(NAME, rows(2).append_column("m", [["x"]]), key="2", evolve=True),
        lambda: old.append("shop.created", rows(2), key="2"),
    ):
        with raises(WriterReplaced, "cluster.writer_replaced", writer=WRITER):
            append()
    assert new.append(NAME, rows(3), key="3").rows == 2
    assert (numbers(settings), new.exists("shop.created"), new.columns(NAME)) == ([1, 3], False, ("n",))


def test_commit_under_way_when_its_writer_is_replaced_is_lost(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Tables(settings, take(settings))
    old.append(NAME, rows(1), key="1")
    commit = SqlCatalog.commit_table

    def be_replaced_and_commit(*args: Any) -> Any:
        monkeypatch.setattr(SqlCatalog, "commit_table", commit)
        take(settings)
        return commit(*args)

    monkeypatch.setattr(SqlCatalog, "commit_table", be_replaced_and_commit)
    with raises(WriterReplaced, "cluster.writer_replaced", writer=WRITER):
        old.append(NAME, rows(2), key="2")
    assert numbers(settings) == [1]


def test_renewed_claim_ends_what_was_begun_under_it(settings: Settings) -> None:
    claim = take(settings)
    old = Tables(settings, claim)
    new = Tables(settings, claim.renew())
    new.append(NAME, rows(1), key="1")
    with raises(ClaimOutdated, "cluster.claim_outdated", writer=WRITER):
        old.append(NAME, rows(2), key="2")
    # The answer to the first renewal may have been lost.
    Tables(settings, claim.renew()).append(NAME, rows(3), key="3")
    assert numbers(settings) == [1, 3]


def test_catalog_without_a_database_of_ours_checks_before_each_commit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class RestCatalog:
        def commit_table(self, *unused: object) -> str:
            return "committed"

    monkeypatch.setattr(table_catalog, "load_catalog", lambda **_: RestCatalog())
    rest = settings.model_copy(update={"catalog_uri": "http://catalog"})
    tables = Tables(rest, take(rest))
    assert tables.catalog.commit_table() == "committed"  # type: ignore[call-arg]
    take(rest)
    with raises(WriterReplaced, "cluster.writer_replaced", writer=WRITER):
        tables.catalog.commit_table()  # type: ignore[call-arg]


def test_claim_of_the_same_process_that_came_late_does_not_replace_it(settings: Settings) -> None:
    claim = Claim.take(settings, WRITER, "me")
    Claim.take(settings, WRITER, "me")
    with raises(ClaimOutdated, "cluster.claim_outdated", writer=WRITER, epoch=claim.epoch):
        claim.check_now()
    claim.renew().check_now()
