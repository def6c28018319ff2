"""Projects keep apart, and the states of rayloop 0.1, which did not, are read until a project has loaded its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pyarrow as pa
import pytest

from cluster.errors import DataError, StoreUnavailable
from features.builders import category
from features.definitions import FeatureSet
from features.online.feature_reader import FeatureReader
from features.online.layout_upgrade import ServingStates, needs_load, record_load, require_loaded
from features.online.materialize import delete_view_state, materialize, push, watermark
from features.online.store import ProjectStore
from tests.factories.errors import raises
from tests.factories.features.pushing import VIEW, visits
from tests.factories.features.shops import START
from tests.factories.features.stores import MemoryStore

LATER_US = round((START + timedelta(days=3)).timestamp() * 1e6)
FEATURES = FeatureSet(name="set", request=category("shop"), views=(VIEW,))


class CountingStore(MemoryStore):
    """Records the keys of each read; ``is_down`` refuses reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[list[bytes]] = []
        self.is_down = False

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if self.is_down:
            raise StoreUnavailable("store.timeout", address="store", reason="timeout")
        self.reads.append(list(keys))
        return super().get_many(keys)


@pytest.fixture
def shared() -> CountingStore:
    return CountingStore()


def count(reader: FeatureReader) -> float:
    """Visits of shop "a"."""
    return reader.read(pa.table({"shop": ["a"]}), LATER_US)["spent_count"][0].as_py()


def serve(store: ProjectStore) -> FeatureReader:
    return FeatureReader(FEATURES, ServingStates(store, FEATURES.views))


@pytest.mark.parametrize(("one", "other"), [("shop", "shop_2"), ("a", "a/1:b"), ("a" * 60, "a" * 61)])
def test_projects_with_equal_views_keep_their_own_states(store: ProjectStore, one: str, other: str) -> None:
    first, second = ProjectStore(store.shared, one), ProjectStore(store.shared, other)
    materialize(first, VIEW, visits(0).vstack(visits(1)), LATER_US)
    assert watermark(second, VIEW) is None
    assert materialize(second, VIEW, visits(0), LATER_US) == 2
    push(second, VIEW, visits(2), "producer", 1)
    push(second, VIEW, visits(3), "producer", 2)
    assert (count(serve(first)), count(serve(second))) == (2, 3)
    delete_view_state(first, VIEW)
    assert (count(serve(first)), count(serve(second))) == (0, 3)
    second.delete(second.keys(b""))
    assert store.shared.keys(b"") == []


def test_a_served_model_reads_old_states_until_its_own_are_complete(shared: CountingStore) -> None:
    materialize(shared, VIEW, visits(0).vstack(visits(1)), LATER_US)
    own = ProjectStore(shared, "shop")
    reader = serve(own)
    assert count(reader) == 2
    materialize(own, VIEW, visits(0), LATER_US)
    assert count(reader) == 2, "half loaded"
    materialize(own, VIEW, visits(0).vstack(visits(1)).vstack(visits(2)), LATER_US)
    record_load(own, VIEW)
    assert count(reader) == 3
    shared.reads.clear()
    assert count(reader) == 3
    assert [len(keys) for keys in shared.reads] == [1], "no further marks are read"


def test_a_served_model_without_old_states_reads_its_own(shared: CountingStore) -> None:
    own = ProjectStore(shared, "shop")
    reader = serve(own)
    assert count(reader) == 0
    materialize(own, VIEW, visits(0), LATER_US)
    assert not needs_load(own, VIEW)
    assert count(reader) == 1
    record_load(own, VIEW)
    assert own.keys(b"loaded/") == [], "only an upgrade needs the mark"


def test_a_served_model_starts_while_the_store_is_down(shared: CountingStore) -> None:
    materialize(shared, VIEW, visits(0), LATER_US)
    shared.is_down = True
    reader = serve(ProjectStore(shared, "shop"))
    with raises(StoreUnavailable, "store.timeout"):
        count(reader)
    shared.is_down = False
    assert count(reader) == 1


def test_push_before_the_first_load_after_an_upgrade_is_refused(shared: CountingStore) -> None:
    """Its watermark would hide the table's older events."""
    materialize(shared, VIEW, visits(0), LATER_US)
    own = ProjectStore(shared, "shop")
    with raises(DataError, "data.online_state_not_loaded", project="shop", view="spending"):
        require_loaded(own, "shop", [VIEW])
    record_load(own, VIEW)
    require_loaded(own, "shop", [VIEW])
    require_loaded(ProjectStore(MemoryStore(), "shop"), "shop", [VIEW])
