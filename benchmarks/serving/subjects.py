"""The peers: how to start each server, build its requests and read its responses."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving import samples
from benchmarks.serving.client import send_request
from benchmarks.serving.environments import PEERS, environment
from benchmarks.serving.http import Response
from benchmarks.serving.processes import server
from benchmarks.serving.samples import Columns
from cluster.node.environment import local_environment
from cluster.node.ports import free_port
from cluster.settings import Settings

# Ports that another cluster on this machine is unlikely to use, below the system's ephemeral ports.
_REPLICA_PORTS_FROM = 10_800
_START_S = 120.0
_OK = 200

Encode = Callable[[str, Columns], bytes]
Scores = Callable[[Response], list[float]]


class Peer(NamedTuple):
    """A server to compare with. In ``command``, {bin}, {port} and {folder} (for its own files) are filled in.

    ``folder`` names its files under peers/, and its environment; ``ray`` says whether it runs in the project's own
    environment on Ray, and whether behind HAProxy.
    """

    name: str
    folder: str
    command: tuple[str, ...]
    path: str
    encode: Encode
    scores: Scores
    ray: str = ""
    variables: Mapping[str, str] = {}


class Subject(NamedTuple):
    """A running server, and how to call it."""

    name: str
    port: int
    path: str
    encode: Encode
    scores: Scores
    header: str = ""


_SERVER = ("{bin}/python", "server.py")
_RAY = ("{bin}/python", "server.py")

EMPTY = "empty Ray Serve handler behind HAProxy"
COMPOSED = "Ray Serve, router and two deployments behind HAProxy"

PEERS_ALL = (
    Peer("LitServe", "litserve", _SERVER, "/predict", samples.record, samples.record_scores),
    Peer("KServe", "kserve", _SERVER, "/v2/models/mlp/infer", samples.open_inference, samples.open_inference_scores),
    Peer(
        "MLServer", "mlserver", ("{bin}/mlserver", "start", "."), "/v2/models/mlp/infer",
        samples.open_inference, samples.open_inference_scores,
        variables={
            "MLSERVER_HOST": "127.0.0.1", "MLSERVER_HTTP_PORT": "{port}", "MLSERVER_GRPC_PORT": "{port1}",
            "MLSERVER_METRICS_PORT": "{port2}", "MLSERVER_PARALLEL_WORKERS": "0", "MLSERVER_DEBUG": "false",
        },
    ),
    Peer(
        "mlflow models serve", "mlflow", _SERVER, "/invocations", samples.dataframe_split, samples.predictions_scores,
        variables={"UVICORN_ACCESS_LOG": "false"},
    ),
    Peer(
        "BentoML", "bentoml",
        (
            "{bin}/bentoml", "serve", "server:MlpService", "--host", "127.0.0.1", "--port", "{port}",
            "--api-workers", "1",
        ),
        "/predict", samples.wrapped_record, samples.record_scores,
    ),
    Peer("Ray Serve", "ray_serve", (*_RAY, "plain"), "/", samples.record, samples.record_scores, "default"),
    Peer(
        "Ray Serve behind HAProxy", "ray_serve", (*_RAY, "plain"), "/", samples.record, samples.record_scores, "haproxy"
    ),
    Peer(COMPOSED, "ray_serve", (*_RAY, "composed"), "/", samples.record, samples.record_scores, "haproxy"),
    Peer(EMPTY, "ray_serve", (*_RAY, "empty"), "/", samples.record, samples.no_scores, "haproxy"),
)  # fmt: skip


@contextmanager
def running(peer: Peer, model: Path, note: Callable[[str], None]) -> Iterator[Subject]:
    """Run the peer's server until the block ends. Raises InstallFailed or ServerFailed."""
    binaries = Path(sys.executable).parent if peer.ray else environment(peer.folder, note)
    ports = [free_port() for _ in range(3)]
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        filled = {"bin": str(binaries), "port": str(ports[0]), "port1": str(ports[1]), "port2": str(ports[2])}
        variables = _environment(peer, binaries, Path(folder))
        variables |= {"MODEL_FOLDER": str(model), "PORT": str(ports[0]), "PYTHONPATH": str(PEERS / "common")}
        variables |= {name: value.format(**filled) for name, value in peer.variables.items()}
        command = [part.format(**filled) for part in peer.command]
        if peer.ray:
            command += [str(ports[0]), folder]
        subject = Subject(peer.name, ports[0], peer.path, peer.encode, peer.scores)
        probe = peer.encode(peer.path, samples.sample(1, 0))
        log = Path(folder) / "server.log"
        with server(command, variables, PEERS / peer.folder, log, lambda: answers(ports[0], probe), _START_S):
            yield subject


def own_settings(home: Path) -> Settings:
    """Settings of a cluster that shares no port with another one of this machine."""
    return Settings(
        home=home,
        replica_ports_from=_REPLICA_PORTS_FROM,
        dashboard_port=free_port(),
        serve_port=free_port(),
        grpc_port=free_port(),
        gcs_port=free_port(),
        mlflow_port=free_port(),
        haproxy_stats_port=free_port(),
        haproxy_metrics_port=free_port(),
    )


def answers(port: int, probe: bytes) -> bool:
    """Whether a server gives HTTP 200 to a request."""
    try:
        return send_request(port, probe, 5.0).status == _OK
    except (OSError, ValueError):
        return False


def _environment(peer: Peer, binaries: Path, folder: Path) -> dict[str, str]:
    """Return this process's environment without settings that affect the peer; with HAProxy, rayloop's Ray settings."""
    base = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYLOOP_", "PYTHONPATH", "VIRTUAL_ENV"))}
    base |= {"PATH": f"{binaries}:{base.get('PATH', '')}", "RAY_USAGE_STATS_ENABLED": "0"}
    if peer.ray != "haproxy":
        return base
    settings = own_settings(folder / "home")
    variables = local_environment(settings)
    Path(variables["RAY_TMPDIR"]).mkdir(exist_ok=True)
    return base | {name: value for name, value in variables.items() if name.startswith("RAY_")}
