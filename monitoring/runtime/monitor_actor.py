"""The actor that runs a model's drift monitor: one detached actor per model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from ray.actor import ActorHandle

from cluster.actors import get_or_create
from cluster.errors import RayloopError
from cluster.names import CHAMPION, monitor_actor
from cluster.registry import Registry
from cluster.settings import Settings
from features.manifest import PROFILE_FILE
from monitoring.analysis.log_analysis import AnalysisRequest, AnalysisResult
from monitoring.detection.alarm_actions import AlarmAction
from monitoring.detection.notifier import Notifier
from monitoring.drift_policy import Action
from monitoring.export.cost import ResourcePrices
from monitoring.export.prometheus import PrometheusExporter
from monitoring.export.ray_metrics import RayMetricsExporter
from monitoring.runtime.analysis_task import RayAnalysisRunner
from monitoring.runtime.monitor import DriftMonitor
from monitoring.runtime.state_store import MonitorStore

FOLLOW_S = 2.0
"""Seconds between two requests to the registry for the champion, at least."""


class DriftMonitorActor(DriftMonitor):
    """A drift monitor in an actor: files under the settings' home, metrics exported, and the champion followed."""

    def __init__(
        self,
        settings: Settings,
        model: str,
        handlers: Mapping[Action, AlarmAction],
        analyze: Callable[[AnalysisRequest], AnalysisResult] | None,
        metrics_port: int | None,
    ) -> None:
        """Continue from the files of an earlier process, if there are any; arguments as in ``start_monitor``."""
        self._registry = Registry(settings)
        self._champion_checked_at = -math.inf
        prometheus = PrometheusExporter()
        self._metrics_address = prometheus.serve(metrics_port) if metrics_port is not None else ""
        super().__init__(
            model,
            MonitorStore(settings.home / "monitors" / model),
            handlers,
            (prometheus, RayMetricsExporter()),
            RayAnalysisRunner(analyze) if analyze else None,
            Notifier(),
            ResourcePrices(cpu=settings.price_cpu_hour, gpu=settings.price_gpu_hour, gib=settings.price_gib_hour),
        )

    def observe(self, version: str, window_s: float, profile: bytes) -> None:
        """Add a live profile. Traffic of another version than the monitored one may mean that it was promoted."""
        if version != self.version:
            self._follow_champion()
        super().observe(version, window_s, profile)

    def status(self) -> dict[str, Any]:
        """The monitor's status, with the address of its metrics."""
        return {**super().status(), "metrics": self._metrics_address}

    def _follow_champion(self) -> None:
        """Monitor the champion, whichever process promoted it."""
        if not self.version or time.monotonic() - self._champion_checked_at < FOLLOW_S:
            return
        self._champion_checked_at = time.monotonic()
        try:
            champion = self._registry.version_by_alias(self.model, CHAMPION)
            if champion is not None and champion.version != self.version:
                reference = (self._registry.fetch(champion) / PROFILE_FILE).read_bytes()
                self.watch(champion.version, reference, self.policy)
        except (RayloopError, OSError) as error:
            # The registry may be unavailable for a while; the next profile tries again.
            self._count("failures", str(error))


def start_monitor(
    settings: Settings,
    model: str,
    handlers: Mapping[Action, AlarmAction] | None = None,
    analyze: Callable[[AnalysisRequest], AnalysisResult] | None = None,
    metrics_port: int | None = 0,
) -> ActorHandle:
    """Return the model's monitor; start it when there is none. It outlives its creator and restarts when it dies.

    Args:
        settings: Home, stores and prices.
        model: Name of the model.
        handlers: What each action of an alarm does; an action without one only notifies.
        analyze: Analysis of logged rows, run as a Ray task; None: there is none.
        metrics_port: Port at which the actor answers Prometheus on its own machine; 0 a free one (``status`` has the
            address), None for no endpoint.
    """
    return get_or_create(
        monitor_actor(model), DriftMonitorActor, settings, model, handlers or {}, analyze, metrics_port
    )
