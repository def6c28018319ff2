"""Writers at the same time, and killed ones: every event counts once, and readers see whole states only."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.redis_server import redis_server
from cluster.errors import DataError
from features.builders import category
from features.definitions import FeatureSet
from features.online.backfill import backfill
from features.online.feature_reader import FeatureReader
from features.online.materialize import materialize, push
from features.online.store import ProjectStore, open_store
from tests.factories.errors import raises
from tests.factories.features.pushing import SHOPS, VIEW, visits
from tests.factories.features.shops import START

LATER_US = round((START + timedelta(days=3)).timestamp() * 1e6)
FEATURES = FeatureSet(name="set", request=category("shop"), views=(VIEW,))
PUSHES = 25


@contextmanager
def pushing(uri: str, *producers: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that push PUSHES times each, from now on."""
    command = [sys.executable, "-m", "tests.factories.features.pushing", uri]
    with ExitStack() as running:
        processes = [
            running.enter_context(
                subprocess.Popen(
                    [*command, producer, str(PUSHES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            for producer in producers
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield processes


def read(store: ProjectStore) -> list[tuple[float, float]]:
    """Number and sum of each shop's visits, read at one point in time."""
    frame = FeatureReader(FEATURES, store).read(pa.table({"shop": list(SHOPS)}), LATER_US)
    return list(zip(frame["spent_count"].to_pylist(), frame["spent_sum"].to_pylist(), strict=True))


def require_whole(store: ProjectStore) -> float:
    """Check that both shops have the same visits, of 1.0 each; returns their number."""
    (first, second) = read(store)
    assert first == second
    assert first[0] == first[1]
    return first[0]


def test_pushes_of_several_processes_to_one_entity_all_count(store: ProjectStore, uri: str) -> None:
    seen = []
    with pushing(uri, "one", "two", "three") as processes:
        while any(process.poll() is None for process in processes):
            seen.append(require_whole(store))
            time.sleep(0.002)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert require_whole(store) == 3 * PUSHES
    assert seen == sorted(seen)


@pytest.mark.parametrize("after_s", [0.01, 0.05])
def test_a_killed_writer_leaves_whole_states_and_its_pushes_count_once(
    store: ProjectStore, uri: str, after_s: float
) -> None:
    with pushing(uri, "killed") as (process,):
        time.sleep(after_s)
        process.kill()
    before = require_whole(store)
    # Waits for the lock of the killed one, if it held it.
    for number in range(PUSHES):
        push(store, VIEW, visits(number), "killed", number)
    assert require_whole(store) == PUSHES >= before


def test_two_processes_that_materialize_one_table_add_each_event_once(store: ProjectStore, uri: str) -> None:
    command = [sys.executable, "-m", "tests.factories.features.killed_materialize", uri, "0"]
    together = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in together] == [0, 0]
    both = {key: store.get_many([key]) for key in store.keys(b"")}
    store.delete(store.keys(b""))
    subprocess.run(command, check=True)
    assert {key: store.get_many([key]) for key in store.keys(b"")} == both


def test_materialize_while_another_does_adds_only_what_is_missing(store: ProjectStore) -> None:
    """The other one has a longer table, and finishes between the two reads of the first."""
    events = visits(0).vstack(visits(1)).vstack(visits(2))

    class Overtaken(ProjectStore):
        def update(self, *arguments: object) -> None:
            if not other:
                other.append(materialize(store, VIEW, events.head(4), LATER_US))
            super().update(*arguments)

    other: list[int] = []
    assert materialize(Overtaken(store.shared, "shop"), VIEW, events, LATER_US) == 2
    assert other == [4]
    assert require_whole(store) == 3


def test_backfill_while_the_view_is_materialized_is_refused(store: ProjectStore) -> None:
    events = visits(0).vstack(visits(1))
    materialize(store, VIEW, events.head(2), LATER_US)

    def batches():
        materialize(store, VIEW, events, LATER_US)
        yield events

    with raises(DataError, "data.online_state_changed", view="spending"):
        backfill(store, VIEW, batches(), 4, LATER_US)
    assert backfill(store, VIEW, [events], 4, LATER_US).events == 4
    assert require_whole(store) == 2


def test_backfill_beside_a_push_keeps_the_newer_watermark(store: ProjectStore) -> None:
    materialize(store, VIEW, visits(0), LATER_US)

    def batches():
        yield visits(0).vstack(visits(1))

    assert backfill(store, VIEW, batches(), 4, LATER_US).events == 4
    push(store, VIEW, visits(5))
    assert materialize(store, VIEW, visits(3), LATER_US) == 0, "before the newest pushed event"


def test_update_on_redis_with_an_expired_lock_writes_nothing_and_tries_again(tmp_path: Path) -> None:
    with redis_server(tmp_path) as address:
        store = open_store(address, "shop")
        runs = []

        def change(values: list[bytes | None]) -> dict[bytes, bytes]:
            runs.append(values)
            if len(runs) == 1:
                # As if this took longer than the lock lasts, and another writer had come first.
                store.delete(key for key in store.keys(b"") if b"lock" in key)
                store.put_many({b"a": b"other"})
            return {b"a": (values[0] or b"") + b" and this"}

        store.update(b"name", [b"a"], change)
        assert runs == [[None], [b"other"]]
        assert store.get_many([b"a"]) == [b"other and this"]
        assert store.keys(b"") == [b"a"]
