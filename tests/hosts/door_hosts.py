"""Hosts with doors, replicas that are not real, and a Serve that says where they are."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.cluster.replicas import MODEL, FakeServe
from cluster.door.admin_socket import AdminSocket
from cluster.door.membership import Replica, Target
from cluster.settings import Settings
from tests.factories.until import until
from tests.hosts import clock
from tests.hosts.certificates import CA, CERTIFICATE, KEY, Authority
from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.hosts.process import Process

HTTP_PORT, GRPC_PORT = 8000, 9000
REPLICA_PORT, REPLICA_GRPC_PORT = 30000, 30500
PEER_PORT = 31500
_DOOR_CERTIFICATE = "/srv/tls/door.pem"
# The host's own folder for temporary files is not this process's.
_FOLDER = Path("/tmp") / Settings(home=Path("/root/.rayloop")).door_folder.name
_SERVE_PORT, _SERVE_FOLDER = 8265, "/srv/serve"

_NODE = """
import os, sys
from cluster.node.session import open_session
from cluster.settings import load_settings
from rayloop.cli import node_command
settings = load_settings()
settings.home.mkdir(exist_ok=True)
os.environ |= open_session(settings)
sys.executable = "/srv/bin/python"
node_command.supervise_node(settings, ["ray", "start", "--address=head:6379"])
"""
_PYTHON = f"""#!/bin/sh
exec {sys.executable} "$@"
"""
_RAY = """#!/bin/sh
/srv/bin/raylet 1000 &
until read -r name </proc/$!/comm && [ "$name" = raylet ]; do :; done
echo "Ray runtime started."
wait
"""


class DoorHosts:
    """Hosts, each with a door; the client plays Serve's controller.

    Args:
        client: The host that sends requests.
        hosts: The hosts with doors.
        authority: Signs their certificates.
        peers: Whether doors encrypt what they send each other; without, replicas listen on all interfaces.
        nodes: Whether each door is that of a node under `rayloop node`, with a program in place of Ray.
    """

    def __init__(
        self, client: Host, hosts: Sequence[Host], authority: Authority, peers: bool, nodes: bool = False
    ) -> None:
        self.client, self.hosts, self._authority, self.peers = client, list(hosts), authority, peers
        self._serve = FakeServe()
        self._serve.models[MODEL] = []
        self._publish()
        command = ("python", "-m", "http.server", "--directory", _SERVE_FOLDER, str(_SERVE_PORT))
        client.wait_for_port(_SERVE_PORT, client.start(*command))
        for host in hosts:
            self.renew_certificate(host)
            host.write("/srv/bin/ray", _RAY, mode=0o755)
            host.write("/srv/bin/python", _PYTHON, mode=0o755)
            host.run("cp", "/bin/sleep", "/srv/bin/raylet")
        command = ("python", "-c", _NODE) if nodes else ("python", "-m", "cluster.door")
        starts = {host: host.start(*command, env=self._variables()) for host in hosts}
        for host, process in starts.items():
            host.wait_for_port(HTTP_PORT, process)
            until(lambda host=host: self.admin(host).info(), f"{host.name} has a door: {process.output}", 30)

    def _variables(self) -> dict[str, str]:
        variables = {
            "RAYLOOP_DOOR": "1",
            "RAYLOOP_ADDRESS": f"http://{self.client.name}:{_SERVE_PORT}",
            "RAYLOOP_SERVE_HOST": "0.0.0.0",
            "RAYLOOP_DOOR_CERTIFICATE": _DOOR_CERTIFICATE,
        }
        peers = {"RAYLOOP_DOOR_PEER_CERTIFICATE": _DOOR_CERTIFICATE, "RAYLOOP_DOOR_PEER_AUTHORITY": CA}
        return variables | (peers if self.peers else {})

    def renew_certificate(self, host: Host) -> str:
        """Give a host another certificate, for callers and for other doors. Returns its text."""
        self._authority.equip(host)
        content = host.path(CERTIFICATE).read_text() + host.path(KEY).read_text()
        host.write(f"{_DOOR_CERTIFICATE}.new", content)
        host.path(f"{_DOOR_CERTIFICATE}.new").rename(host.path(_DOOR_CERTIFICATE))
        return content

    def admin(self, host: Host) -> AdminSocket:
        """Return the admin socket of a host's HAProxy."""
        return AdminSocket(host.path(str(_FOLDER / "admin.sock")), _FOLDER / "models.map")

    def haproxies(self) -> list[int]:
        """Return the process id of each host's HAProxy; 0 where it does not answer."""
        running = [self.admin(host).info() for host in self.hosts]
        return [each.pid if each else 0 for each in running]

    def uses_certificate(self, host: Host, content: str) -> bool:
        """Return whether HAProxy has accepted a certificate, for callers and for other doors."""
        return all(host.path(str(_FOLDER / f)).read_text() == content for f in ("certificate.pem", "peer.pem"))

    def start_replica(self, host: Host, number: int = 0) -> Process:
        """Start a replica on a host, and list it."""
        http, grpc = REPLICA_PORT + number, REPLICA_GRPC_PORT + number
        bound_to = "127.0.0.1" if self.peers else "0.0.0.0"
        command = ("python", "-m", "tests.hosts.door_replica", MODEL, bound_to, str(http), str(grpc))
        process = host.start(*command)
        host.wait_for("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{http} 4<>/dev/tcp/127.0.0.1/{grpc}", process=process)
        at = host.address
        self._serve.models[MODEL].append(Replica(http=Target(host=at, port=http), grpc=Target(host=at, port=grpc)))
        self._publish()
        return process

    def _publish(self) -> None:
        # In one step: a door reads it at any moment.
        folder = f"{_SERVE_FOLDER}/api/serve/applications"
        self.client.write(f"{folder}/new", json.dumps(self._serve.details()), mode=0o644)
        self.client.path(f"{folder}/new").rename(self.client.path(f"{folder}/index.html"))

    def taking(self, host: Host) -> set[Target]:
        """Return where a host's door sends requests to."""
        try:
            return self.admin(host).held().healthy
        except OSError:
            return set()

    def await_replicas(self, count: int) -> None:
        """Wait until every door sends to so many replicas."""
        for host in self.hosts:
            until(lambda host=host: len(self.taking(host)) == count, f"{host.name} has {count} replicas", 30)

    def url(self, host: Host) -> str:
        """Return where callers send requests for the model."""
        return f"https://{host.name}:{HTTP_PORT}/v2/models/{MODEL}/infer"


@contextlib.contextmanager
def door_hosts(
    network: Network, client: Host, names: Sequence[str], authority: Authority, peers: bool, nodes: bool = False
) -> Iterator[DoorHosts]:
    """Hosts with doors; they are down afterwards, and the network boots them."""
    hosts = [network.hosts.get(name) or network.add(name, own_clock=clock.available()) for name in names]
    try:
        yield DoorHosts(client, hosts, authority, peers, nodes)
    finally:
        # HAProxy outlives the process that was started.
        for host in hosts:
            host.kill()
