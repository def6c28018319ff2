"""The drift monitor as it runs: one detached actor per model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.actor import ActorHandle

from cluster.errors import RayloopError
from cluster.names import ACTOR_NAMESPACE, CHAMPION, monitor_actor
from cluster.registry import Registry
from cluster.settings import Settings
from features.manifest import PROFILE_FILE
from monitoring.analysis.log_analysis import Asked, Looked
from monitoring.detection.alarm_actions import Act
from monitoring.detection.notifier import Notifier
from monitoring.drift_policy import Action
from monitoring.export.cost import Prices
from monitoring.export.prometheus import PrometheusExporter
from monitoring.export.ray_metrics import RayExporter
from monitoring.runtime.analysis_task import RayTasks
from monitoring.runtime.monitor import DriftMonitor
from monitoring.runtime.state_store import Folder

FOLLOW_S = 2.0
"""The registry is asked for the champion at most this often."""


class DriftMonitorActor(DriftMonitor):
    """The monitor as it runs in an actor: its files under the settings' home, its metrics exported."""

    def __init__(
        self,
        settings: Settings,
        model: str,
        acts: Mapping[Action, Act],
        look: Callable[[Asked], Looked] | None,
        metrics_port: int | None,
    ) -> None:
        self._registry = Registry(settings)
        self._registry_asked = -math.inf
        prometheus = PrometheusExporter()
        self._metrics = prometheus.serve(metrics_port) if metrics_port is not None else ""
        super().__init__(
            model,
            Folder(settings.home / "monitors" / model),
            acts,
            (prometheus, RayExporter()),
            RayTasks(look) if look else None,
            Notifier(),
            Prices(cpu=settings.price_cpu_hour, gpu=settings.price_gpu_hour, gib=settings.price_gib_hour),
        )

    def observe(self, version: str, window_s: float, profile: bytes) -> None:
        """As above. Traffic of another version than the watched one may mean that it was promoted."""
        if self._detector is not None and version != self._detector.version:
            self._follow_champion()
        super().observe(version, window_s, profile)

    def status(self) -> dict[str, Any]:
        return {**super().status(), "metrics": self._metrics}

    def _follow_champion(self) -> None:
        """Compare with the champion's own reference profile from now on, whoever promoted it."""
        if time.monotonic() - self._registry_asked < FOLLOW_S:
            return
        self._registry_asked = time.monotonic()
        try:
            champion = self._registry.version_by_alias(self.model, CHAMPION)
            if champion is not None and self._detector is not None and champion.version != self._detector.version:
                self.watch(champion.version, (self._registry.fetch(champion) / PROFILE_FILE).read_bytes(), self._policy)
        except (RayloopError, OSError) as error:
            # The registry may be away for a while; the next profile asks again.
            self._count("failures", str(error))


def start_monitor(
    settings: Settings,
    model: str,
    acts: Mapping[Action, Act] | None = None,
    look: Callable[[Asked], Looked] | None = None,
    metrics_port: int | None = 0,
) -> ActorHandle:
    """The model's monitor, started if there is none. It outlives its creator and is restarted when it dies.

    ``acts`` are what an alarm may do; without one for what the policy asks, it notifies. ``look`` is run as a Ray task.
    ``metrics_port``: where the actor answers Prometheus on its own machine; 0 a free port (``status`` tells), None
    nowhere.
    """
    options = {
        "name": monitor_actor(model),
        "namespace": ACTOR_NAMESPACE,
        "lifetime": "detached",
        "max_restarts": -1,
        "num_cpus": 0,
        "get_if_exists": True,
    }
    actor: Any = ray.remote(DriftMonitorActor)
    handle: ActorHandle = actor.options(**options).remote(settings, model, acts or {}, look, metrics_port)
    return handle
