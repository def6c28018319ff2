"""Registered versions of known quality."""

from __future__ import annotations

from pathlib import Path

from cluster.registry import Registry
from features.definitions import Column
from tests.factories.deployments.bundles import Slope, add_explainer, register, write_bundle
from tests.factories.deployments.tasks import FEATURES

MODEL = "trips"
TRUE_SLOPE = 2.0
_WEIGHT = Column(name="weight", kind="number")


class Versions:
    """Registered versions, by what is known about them."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self.champion = register(
            registry, MODEL, add_explainer(write_bundle(folder / "champion", Slope(0.75 * TRUE_SLOPE)))
        )
        self.good = register(registry, MODEL, add_explainer(write_bundle(folder / "good", Slope(TRUE_SLOPE))))
        self.bad = register(registry, MODEL, write_bundle(folder / "bad", Slope(-TRUE_SLOPE)))
        broken = write_bundle(folder / "broken", Slope(TRUE_SLOPE))
        self.broken = register(registry, MODEL, broken, spoil=_spoil)
        # Its request columns are not those that callers of the champion send.
        other = FEATURES.model_copy(update={"request": (*FEATURES.request, _WEIGHT)})
        self.failing = register(registry, MODEL, write_bundle(folder / "failing", Slope(TRUE_SLOPE), features=other))


def _spoil(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no model")
