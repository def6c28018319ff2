"""rayloop as it runs for a project: cluster, registry, Serve, prediction log, drift monitor, rollout controller."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray

from benchmarks.serving import model, samples
from benchmarks.serving.processes import ServerFailed
from benchmarks.serving.subjects import Subject, own_settings
from cluster import connection, local_cluster
from cluster.actors import get_result
from cluster.names import CHAMPION
from cluster.node.session import processes
from cluster.registry import Registry
from cluster.values import ModelVersion
from deployments.rollout.controller import connect_controller
from deployments.rollout.serve_config import ServingOptions, connect_config_writer
from deployments.rollout_policy import RolloutPolicy
from deployments.serve_schema import ServerConfig
from deployments.telemetry.log_writer import connect_log_writer
from features.manifest import PROFILE_FILE
from monitoring.drift_policy import DriftPolicy
from monitoring.runtime.monitor_actor import start_monitor

NAME = "rayloop"
SHARE = 0.1
SHADOW_SHARE = 0.5
VARIANT, VERSION = "x-rayloop-variant", "x-rayloop-version"

_PATH = f"/v2/models/{model.NAME}/infer"
# Replicas report twice a second; the log writer commits every two seconds.
_QUIET_S = 8.0
_POLL_S = 0.5
_NEVER = 10**9
# A rollout that can never have enough evidence stays at its first step.
_POLICY = RolloutPolicy(
    steps=(SHARE, 1.0), min_requests=_NEVER, min_labeled=_NEVER, deadline_s=float(_NEVER), on_undecided="hold"
)
_DRIFT = DriftPolicy(window_s=model.WINDOW_S, action="notify")


class ServingCluster:
    """A cluster with the benchmark's model served, everything on. Each round uses the same home again.

    Args:
        folder: The cluster's home.
        bundles: The champion, the challenger, and in the section of trees a version of another kind.
    """

    def __init__(self, folder: Path, bundles: Sequence[Path]) -> None:
        self.settings = own_settings(folder)
        self._bundles = bundles
        self._versions: list[ModelVersion] = []
        self._logged_before = 0
        self._monitor: Any = None

    @contextmanager
    def running(self) -> Iterator[Subject]:
        """Serve, log and monitor the champion until the block ends."""
        local_cluster.start(self.settings)
        connection.use_token()
        try:
            connection.connect(self.settings)
            self._register()
            # A replica looks for its monitor when it starts, and then every few seconds.
            self._monitor = start_monitor(self.settings, model.NAME, metrics_port=None)
            reference = (self._bundles[0] / PROFILE_FILE).read_bytes()
            get_result(self._monitor.watch.remote(self.champion.version, reference, _DRIFT))
            self.deploy(report=True)
            self._logged_before = self._logged()
            port = self.settings.serve_port
            yield Subject(NAME, port, _PATH, samples.open_inference, samples.open_inference_scores, VARIANT)
        finally:
            ray.shutdown()
            local_cluster.stop(self.settings)

    @property
    def champion(self) -> ModelVersion:
        return self._versions[0]

    @property
    def challenger(self) -> ModelVersion:
        return self._versions[1]

    @property
    def trees(self) -> ModelVersion:
        return self._versions[2]

    def bundle(self, version: ModelVersion) -> Path:
        """The folder of a version."""
        return self._bundles[self._versions.index(version)]

    def deploy(self, report: bool, profile: bool = True) -> None:
        """Serve the champion, reporting or not, or with a log alone."""
        options = ServingOptions(profile_window_s=model.WINDOW_S if profile else None, report=report)
        get_result(connect_config_writer(self.settings).deploy.remote(self.champion, options))

    def set_champion(self, version: ModelVersion) -> None:
        """Wait until every replica serves ``version``."""
        get_result(connect_config_writer(self.settings).set_champion.remote(version))

    def start_rollout(self, shadow: bool = False, copies: float = 0.0) -> None:
        """Route a share of the requests to the second version permanently; a shadow gets a copy of half of them.

        Args:
            shadow: Whether the second version is a shadow.
            copies: Fraction of the first version's requests that the second one also scores.
        """
        options = ServingOptions(profile_window_s=model.WINDOW_S)
        update = {"shadow": True, "steps": (SHADOW_SHARE, 1.0)} if shadow else {"copies": copies}
        policy = _POLICY.model_copy(update=update)
        get_result(self._controller().start.remote(self.challenger, policy, options))

    def cpu_seconds(self) -> float:
        """CPU time of all processes of the cluster so far."""
        seconds = 0.0
        for process in processes(self.settings):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds += times.user + times.system
        return seconds

    def abort_rollout(self) -> None:
        get_result(self._controller().abort.remote("measured"))

    def copied(self) -> int:
        """Requests of the newest rollout of which the challenger was sent a copy."""
        evidence = get_result(self._controller().status.remote()).evidence
        return int(evidence[self.challenger.version].total.copies.requests)

    def share(self) -> float:
        """The challenger's share in Serve's current configuration."""
        current: ServerConfig | None = get_result(
            connect_config_writer(self.settings).current_config.remote(model.NAME)
        )
        return current.split.share if current is not None and current.split is not None else 0.0

    def reported(self, expected: int) -> tuple[int, int]:
        """Return the rows in prediction log and monitor since the start; wait for ``expected`` while more arrive."""
        counts, since = (0, 0), time.monotonic()
        while min(counts) < expected and time.monotonic() < since + _QUIET_S:
            now = self._logged() - self._logged_before, self._profiled()
            if now != counts:
                counts, since = now, time.monotonic()
            time.sleep(_POLL_S)
        return counts

    def _register(self) -> None:
        if self._versions:
            return
        registry = Registry(self.settings)
        for bundle in self._bundles:
            with registry.run("benchmarks", "serving") as run:
                self._versions.append(registry.register(model.NAME, run, bundle, {}))
        registry.set_alias(self.champion, CHAMPION)

    def _logged(self) -> int:
        counts: dict[str, int] = get_result(connect_log_writer(model.NAME, self.settings).flush.remote())
        return counts["predictions"]

    def _profiled(self) -> int:
        status = get_result(self._monitor.status.remote())
        if status["counters"].get("rejected"):
            raise ServerFailed(f"the monitor rejects profiles: {status['last_error']}")
        return int(status["rows_since_start"])

    def _controller(self) -> Any:
        return connect_controller(model.NAME, self.settings)
