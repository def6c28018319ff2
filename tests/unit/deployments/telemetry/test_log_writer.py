"""The log writer without Ray: what is held, what counts once, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster.errors import DataError, WriterReplaced
from cluster.settings import Settings
from cluster.storage.claims import Claim
from cluster.storage.tables import Tables
from deployments.analysis.evidence_collector import EvidenceCollector
from deployments.protocol.feedback import parse_feedback
from deployments.telemetry import log_writer
from deployments.telemetry.log_writer import LogWriter
from deployments.telemetry.prediction_log import label_rows, prediction_rows, to_ipc
from features.disparity import DisparityLimit
from tests.factories.deployments.predictions import copied_batch, feature_rows, prediction_batch
from tests.factories.errors import raises
from tests.factories.golden import samples


def labels(batch: str, *ids: str) -> bytes:
    rows = parse_feedback({"labels": [{"id": id, "label": 1} for id in ids]}, samples.BINARY, 10)
    return to_ipc(label_rows(rows, 1_700_000_000_000_000, batch))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # Commits are made by the tests alone.
    monkeypatch.setattr(log_writer, "COMMIT_EVERY_S", 1e6)
    monkeypatch.setattr(log_writer, "session_name", lambda: "session")
    monkeypatch.setattr(log_writer, "end_actor", lambda: None)
    return Settings(home=tmp_path)


async def start(settings: Settings) -> Any:
    writer: Any = LogWriter.__new__(LogWriter)
    await writer.__init__("m", settings)
    await writer.flush()
    return writer


def logged(settings: Settings) -> list[str]:
    return sorted(Tables(settings).read("m.labels")["id"].to_pylist())


@contextmanager
def answers_lost(monkeypatch: pytest.MonkeyPatch, when: str) -> Iterator[None]:
    """Appends fail, before they write, or after."""
    append = Tables.append

    def fail(*args: Any, **options: Any) -> None:
        if when == "after":
            append(*args, **options)
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(Tables, "append", fail)
        yield


@pytest.mark.parametrize("when", ["before", "after"])
def test_rows_without_a_clear_answer_are_held_and_count_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    async def run() -> None:
        writer = await start(settings)
        first = asyncio.ensure_future(writer.append("labels", "r:1", labels("r:1", "a", "b")))
        await asyncio.sleep(0.01)
        with answers_lost(monkeypatch, when), pytest.raises(ConnectionError):
            await writer.flush()
        assert not first.done()
        # Sent again by its replica, and beside another.
        again = asyncio.ensure_future(writer.append("labels", "r:1", labels("r:1", "a", "b")))
        second = asyncio.ensure_future(writer.append("labels", "r:2", labels("r:2", "c")))
        await asyncio.sleep(0.01)
        assert await writer.flush() == {"predictions": 0, "labels": 3}
        await asyncio.gather(first, again, second)
        await writer.record_lost_rows("r", {"predictions": 0, "labels": 4})
        assert await writer.lost_rows() == {"replicas": 1, "predictions": 0, "labels": 1}

    asyncio.run(run())
    assert logged(settings) == ["a", "b", "c"]


def test_evidence_after_a_lost_answer_counts_labels_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[int] = []
    monkeypatch.setattr(EvidenceCollector, "add_labels", lambda self, rows: added.append(rows.num_rows))

    async def run() -> None:
        writer = await start(settings)
        first = asyncio.ensure_future(writer.append("labels", "r:1", labels("r:1", "a", "b")))
        await asyncio.sleep(0.01)
        with answers_lost(monkeypatch, "after"), pytest.raises(ConnectionError):
            await writer.flush()
        await writer.evidence("rollout", ("2",), samples.BINARY)
        await first

    asyncio.run(run())
    assert added == [2]


def test_groups_are_counted_alike_from_new_rows_and_from_the_tables(settings: Settings) -> None:
    limits = tuple(
        DisparityLimit(column="carrier", rate=rate, max_difference=0.1, groups=("AA", "UA"))
        for rate in ("positive", "true_positive")
    )
    carriers = pa.array(["AA", None])
    frame = feature_rows(2).append_column("carrier", carriers)
    batches = [
        prediction_batch("a", 0.2, 0.7, rows=2, frame=frame),
        copied_batch("b", "scored", 0.3, rows=2, frame=frame),
        copied_batch(
            "c", "scored", 0.9, rows=2, frame=feature_rows(2).append_column("carrier", pa.array(["UA", "UA"]))
        ),
    ]

    async def evidence(writer: Any) -> Any:
        waits = log_writer.UNKNOWN_DELAY
        found = await writer.evidence(
            "r", ("2",), samples.BINARY, "loss", log_writer.NOTHING_HELD_OUT, 0, waits, limits
        )
        return found["2"].total.groups

    async def run() -> None:
        writer = await start(settings)
        await evidence(writer)
        sent = [asyncio.ensure_future(writer.append("labels", "r:1", labels("r:1", "a/0", "c/0")))]
        rows = to_ipc(prediction_rows(batches, "r:2"))
        sent.append(asyncio.ensure_future(writer.append("predictions", "r:2", rows)))
        await asyncio.sleep(0.01)
        await writer.flush()
        await asyncio.gather(*sent)
        groups = await evidence(writer)
        positive, true_positive = (groups.of(limit.name) for limit in limits)
        assert {name: (c.rows, c.champion, c.challenger) for name, c in positive.items()} == {
            "AA": (2, 1, 1), "UA": (2, 2, 2),
        }  # fmt: skip
        assert {name: (c.rows, c.champion, c.challenger) for name, c in true_positive.items()} == {
            "AA": (1, 0, 1), "UA": (1, 1, 1),
        }  # fmt: skip
        assert positive["UA"].key_pairs == 2
        again = await start(settings)
        assert await evidence(again) == groups
        # Rows of the tables have no feature frame, so they are not scored again.
        assert await again.take_sample("r") == b""

    asyncio.run(run())


def test_refused_batch_costs_no_other(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Tables.append

    def refuse(tables: Tables, name: str, rows: pa.Table, *args: Any, **options: Any) -> Any:
        if "bad" in rows["id"].to_pylist():
            raise DataError("data.type_mismatch", table=name, reason="bad")
        return append(tables, name, rows, *args, **options)

    monkeypatch.setattr(Tables, "append", refuse)

    async def run() -> None:
        writer = await start(settings)
        batches = [("r:1", "a"), ("r:2", "bad"), ("r:3", "c")]
        sent = [asyncio.ensure_future(writer.append("labels", b, labels(b, id))) for b, id in batches]
        await asyncio.sleep(0.01)
        await writer.flush()
        with raises(DataError, "data.type_mismatch"):
            await sent[1]
        await asyncio.gather(sent[0], sent[2])

    asyncio.run(run())
    assert logged(settings) == ["a", "c"]


def test_writer_that_was_replaced_commits_nothing_and_its_rows_count_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[None] = []
    monkeypatch.setattr(log_writer, "end_actor", lambda: ended.append(None))

    async def run() -> None:
        first = await start(settings)
        sent = asyncio.ensure_future(first.append("labels", "r:1", labels("r:1", "a")))
        await asyncio.sleep(0.01)
        # It is cut off here; its replica finds the second one.
        second = await start(settings)
        again = asyncio.ensure_future(second.append("labels", "r:1", labels("r:1", "a")))
        await asyncio.sleep(0.01)
        await second.flush()
        await again
        with raises(WriterReplaced, "cluster.writer_replaced", writer="ledger:m@session"):
            await first.flush()
        with raises(WriterReplaced, "cluster.writer_replaced"):
            await sent
        with raises(WriterReplaced, "cluster.writer_replaced"):
            await first.append("labels", "r:2", labels("r:2", "b"))
        assert ended

    asyncio.run(run())
    assert logged(settings) == ["a"]


def test_log_opens_once_the_catalog_answers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "COMMIT_EVERY_S", 0.01)

    async def run() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Tables, "exists", lambda *_: 1 / 0)
            writer: Any = LogWriter.__new__(LogWriter)
            await writer.__init__("m", settings)
            sent = asyncio.ensure_future(writer.append("labels", "r:1", labels("r:1", "a")))
            await asyncio.sleep(0.2)
            assert not sent.done()
        await asyncio.wait_for(sent, 20.0)

    asyncio.run(run())
    assert logged(settings) == ["a"]


def test_claim_that_came_late_costs_no_rows(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "COMMIT_EVERY_S", 0.05)

    async def run() -> None:
        writer = await start(settings)
        # From a thread that the writer had given up waiting for.
        Claim.take(settings, "ledger:m@session", writer._holder)
        await asyncio.wait_for(writer.append("labels", "r:1", labels("r:1", "a")), 30.0)

    asyncio.run(run())
    assert logged(settings) == ["a"]
