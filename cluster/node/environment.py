"""Environment variables of Ray's nodes: they must be set where a node starts, and its processes inherit them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cluster.settings import Settings

NODE_DOOR_VARIABLE = "RAYLOOP_NODE_DOOR"
"""Set for the processes of a door that ``rayloop node`` keeps: they stay when its raylet ends."""


def local_environment(settings: Settings) -> dict[str, str]:
    """Variables that must be set where the head of the local cluster starts."""
    scratch = str(settings.scratch)
    haproxy = {
        "CONFIG_FILE_LOC": f"{scratch}/haproxy.cfg",
        "SOCKET_PATH": f"{scratch}/admin.sock",
        "METRICS_SOCKET_PATH": f"{scratch}/metrics.sock",
        "SERVER_STATE_BASE": scratch,
        "SERVER_STATE_FILE": f"{scratch}/server-state",
    }
    own = {} if settings.door else {f"RAY_SERVE_HAPROXY_{name}": value for name, value in haproxy.items()}
    # Ray's job manager finds "its" cluster through a file in this folder; two clusters must not share the folder.
    return node_environment(settings) | own | {"RAY_TMPDIR": scratch}


def node_environment(settings: Settings) -> dict[str, str]:
    """Variables that must be set where a node of any cluster starts, with those of this process and the settings."""
    # Replicas take requests themselves, from Serve's HAProxy or from the door.
    serve = {"ENABLE_DIRECT_INGRESS": "1", "ENABLE_HA_PROXY": "0"} if settings.door else _serve_haproxy(settings)
    ray = {
        "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token"),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(settings.replica_ports_from),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(settings.replica_grpc_ports_from - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(settings.replica_grpc_ports_from),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(settings.fallback_ports[0] - 1),
        # What is before a replica notices within seconds that it is leaving; by default Serve drains it for thirty.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "10",
        "RAY_USAGE_STATS_ENABLED": "0",
        # By default Ray ends a process that idles for a second when a node has more processes than CPUs, and the ones
        # that serve are more already. The next task would start a new one: one to four seconds of imports.
        "RAY_idle_worker_killing_time_threshold_ms": "30000",
        "RAY_TRAIN_V2_ENABLED": "1",
        # Each trial and worker of a training run would print its own progress into the job's log.
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    }
    # RAY_ADDRESS of another cluster would make `ray start` and the workers look there.
    base = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    # A job's `python` is the first in the head's PATH: it should be this one, even when no environment is activated.
    base["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)])
    return base | ray | {f"RAY_SERVE_{k}": v for k, v in serve.items()} | settings.environment()


def _serve_haproxy(settings: Settings) -> dict[str, str]:
    """Variables ``RAY_SERVE_*`` of Serve's own HAProxy."""
    haproxy = {
        "STATS_PORT": str(settings.haproxy_stats_port),
        "METRICS_PORT": str(settings.haproxy_metrics_port),
        # A replica that dies loses its requests, and a prediction may be repeated. HAProxy repeats it when it has the
        # whole request; the only way to set that option through Serve is the end of this line of its configuration.
        "RETRY_ON": "conn-failure empty-response\n    option http-buffer-request",
        "RETRIES": "3",
        # CLOSE_SPREAD_TIME_S stays unset. HAProxy restarts when replicas come and go, and its old process asks each
        # caller to reconnect with the next answer. With that window it also cuts idle connections at random moments: a
        # caller who sends at that moment loses a request.
        #
        # Without HAProxy's metrics: Serve would read a log line of HAProxy for each request, which costs more than
        # HAProxy itself. Replicas count requests instead.
        "METRICS_ENABLED": "0",
    }
    fallback = {
        # HAProxy sends to these while an application has no replica. Ray opens them with SO_REUSEPORT: two clusters of
        # one machine with the same port would get each other's requests and answer them with 404.
        "FALLBACK_PROXY_HTTP_PORT": str(settings.fallback_ports[0]),
        "FALLBACK_PROXY_GRPC_PORT": str(settings.fallback_ports[1]),
    }
    return {"ENABLE_HA_PROXY": "1"} | fallback | {f"HAPROXY_{name}": value for name, value in haproxy.items()}
