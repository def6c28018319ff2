"""A copy of an online store: every key, and each view as it was at one moment."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow.parquet as pq

from features.online import state_dump
from features.online.store import ProjectStore, open_store

VIEWS = (b"0123456789abcdef.3/", b"fedcba9876543210.3/")


def fill(store: ProjectStore) -> dict[bytes, bytes]:
    """Put keys of every kind into two views of the project, of another one, and of rayloop 0.1."""
    kinds = (b"", b"watermark/", b"position/", b"table/", b"loaded/")
    keys = {kind + view + (b"k\n/\xff" if kind in (b"", b"position/") else b"") for kind in kinds for view in VIEWS}
    projects = (store.prefix, b"5:other/", b"\xff" + bytes(range(30)), b"")
    values = {project + key: bytes([n]) + key for n, project in enumerate(projects) for key in keys}
    store.shared.put_many(values)
    return values


def test_every_key_comes_back(store: ProjectStore, uri: str, tmp_path: Path) -> None:
    assert state_dump.is_empty(uri)
    values = fill(store)
    files = state_dump.dump(uri, tmp_path)
    assert len(files) == 8
    store.shared.delete(store.shared.keys(b""))
    assert state_dump.load(uri, files) == len(values)
    keys = store.shared.keys(b"")
    assert dict(zip(keys, store.shared.get_many(keys), strict=True)) == values


def test_a_view_is_copied_as_it_was_at_one_moment(store: ProjectStore, uri: str, tmp_path: Path) -> None:
    mark, keys = b"watermark/" + VIEWS[0], [VIEWS[0] + b"%d" % n for n in range(50)]
    done = threading.Event()

    def write() -> None:
        writer, number = open_store(uri, "shop"), 0
        while not done.is_set():
            number += 1
            value = b"%d" % number
            writer.update(mark, [mark], lambda _, value=value: dict.fromkeys([*keys, mark], value))

    store.put_many(dict.fromkeys([*keys, mark], b"0"))
    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = set()
        for _ in range(20):
            (file,) = state_dump.dump(uri, tmp_path)
            values = set(pq.read_table(file).column("value").to_pylist())
            assert len(values) == 1
            seen |= values
    finally:
        done.set()
        thread.join()
    assert len(seen) > 1, "nothing was written meanwhile"
