"""The upgrade from rayloop 0.1, whose keys did not contain the project: docs/decisions/0053.

A project loads its states again from its own tables. Until a view is loaded, served models read the states of 0.1.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from cluster.errors import DataError
from features.definitions import FeatureView
from features.online.keys import PREFIX_BYTES, state_prefix
from features.online.materialize import watermark_key
from features.online.store import ProjectStore

_log = logging.getLogger(__name__)


def needs_load(store: ProjectStore, view: FeatureView) -> bool:
    """Return whether only rayloop 0.1 has loaded the view."""
    old, loaded = store.shared.get_many([watermark_key(view), store.prefix + _loaded_key(view)])
    return old is not None and loaded is None


def require_loaded(store: ProjectStore, project: str, views: Iterable[FeatureView]) -> None:
    """Check that events may be pushed to the views: pushed first, they would hide the older ones of the table.

    Raises:
        DataError: A view must be loaded from its table first.
    """
    for view in views:
        if needs_load(store, view):
            raise DataError("data.online_state_not_loaded", project=project, view=view.name)


def record_load(store: ProjectStore, view: FeatureView) -> None:
    """Record that the view is loaded from its whole table, so that served models read the project's own states."""
    if needs_load(store, view):
        store.put_many({_loaded_key(view): b"1"})


class ServingStates:
    """The states that a served model reads: the project's own, or those of rayloop 0.1 until a view is loaded.

    Args:
        store: The project's part of the store.
        views: The views of the model.
    """

    def __init__(self, store: ProjectStore, views: Iterable[FeatureView]) -> None:
        self._store = store
        # Not read here: a replica starts even while the store does not answer.
        self._old_views = {state_prefix(view): view for view in views}
        self._is_logged = False

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._get_during_upgrade(keys) if self._old_views else self._store.get_many(keys)

    def _get_during_upgrade(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Read both states and the marks that say which of them counts, all from one point in time."""
        views, prefix, count = self._old_views, self._store.prefix, len(keys)
        own = [prefix + key for key in keys]
        old_marks = [watermark_key(view) for view in views.values()]
        new_marks = [prefix + _loaded_key(view) for view in views.values()]
        values = self._store.shared.get_many([*own, *keys, *old_marks, *new_marks])
        marks = values[2 * count :]
        old_views = {
            of_view: view
            for (of_view, view), old, new in zip(views.items(), marks, marks[len(views) :], strict=False)
            if old is not None and new is None
        }
        if old_views and not self._is_logged:
            names = ", ".join(view.name for view in old_views.values())
            _log.warning("reading states of rayloop 0.1, until they are reloaded: %s", names)
            self._is_logged = True
        self._old_views = old_views
        return [values[i + count if key[:PREFIX_BYTES] in old_views else i] for i, key in enumerate(keys)]


def _loaded_key(view: FeatureView) -> bytes:
    return b"loaded/" + state_prefix(view)
