"""What the door listens on, its limits and its files; and which pool a model has at HAProxy's start. Pure."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from cluster.door.membership import ANY_MODEL, Membership, Target
from cluster.settings import PORTS_PER_PROTOCOL
from cluster.values import Frozen

ROOT_POOL = 0
# A slot in maintenance keeps an address that nothing listens on.
UNUSED = Target(host="127.0.0.1", port=1)


class PeerPorts(Frozen):
    """Where the door takes what doors of other hosts send: a port for each one that a replica may have."""

    host: str
    first: int
    first_of_replicas: int
    """First of the ports that replicas listen on."""
    count: int = PORTS_PER_PROTOCOL
    """Ports for HTTP; those for gRPC follow, as many."""


class DoorConfig(Frozen):
    """What the door listens on, and its limits; a change takes effect when HAProxy starts."""

    folder: Path
    """Folder of the configuration, the map file and the admin socket."""
    http_fd: int
    """File descriptor of the socket that listens for HTTP."""
    grpc_fd: int
    """File descriptor of the socket that listens for gRPC."""
    metrics_port: int
    """Port of HAProxy's metrics for Prometheus, on the loopback address."""
    tls: bool = False
    """Whether callers use TLS."""
    peers: PeerPorts | None = None
    """None: this door sends to replicas of other hosts directly, and takes nothing from doors."""
    pools: int = Field(default=33, ge=2)
    """Models that fit, and one for the root application; a model that moves to another cluster takes two."""
    slots: int = Field(default=32, ge=1)
    """Replicas of a model that fit, those that drain included; with peers, as many of other hosts."""
    threads: int = Field(default=2, ge=1)
    max_connections: int = Field(default=4096, ge=16)
    """Connections of callers; more wait in the kernel. With the buffers' size it bounds the memory they take."""
    request_s: float = 10.0
    """Seconds within which a request's headers, and its body up to the buffers' size, must arrive."""
    idle_body_s: float = 20.0
    """Seconds of silence after which the rest of a body is given up."""
    keep_alive_s: float = 3600.0
    """Seconds after which an idle connection is closed; a caller who sends at that moment loses a request."""
    answer_s: float = 75.0
    """Seconds within which a replica must answer; replicas give up sooner."""

    @property
    def admin_socket(self) -> Path:
        return self.folder / "admin.sock"

    @property
    def map_file(self) -> Path:
        """File that HAProxy reads at its start; also the name of the map in its admin commands."""
        return self.folder / "models.map"

    @property
    def certificate_file(self) -> Path:
        """The certificate that HAProxy uses: chain and key."""
        return self.folder / "certificate.pem"

    @property
    def link_parts(self) -> tuple[str, ...]:
        """Parts of the configuration with TLS between doors: what comes in, and the slots of each pool.

        Each has files of its own with the same content: replacing one file for thousands of slots would stop HAProxy.
        """
        return ("", *map(str, range(self.pools)))

    def peer_certificate_file(self, part: str = "") -> Path:
        """The certificate by which other doors know this one: chain and key."""
        return self.folder / f"peer{part}.pem"

    def peer_authority_file(self, part: str = "") -> Path:
        """The authority that signs the certificates of doors."""
        return self.folder / f"authority{part}.pem"

    @property
    def status_file(self) -> Path:
        """Map of the moments that the door's own metrics show."""
        return self.folder / "status.map"

    @property
    def config_file(self) -> Path:
        return self.folder / "haproxy.cfg"


def assign_pools(members: Membership, config: DoorConfig) -> dict[str, int]:
    """Return the pool of each model that fits, by key of the map."""
    return dict(zip(members.by_key, range(ROOT_POOL + 1, config.pools), strict=False))


def render_map(pools: dict[str, int], members: Membership) -> str:
    """Return the content of the map file: the pool of each model, the one for calls that name none, and shares."""
    entries = dict(pools)
    if answering := [pool for model, pool in pools.items() if members.models.get(model)]:
        entries[ANY_MODEL] = min(answering)
    entries |= members.share_entries(pools)
    return "".join(f"{key} {value}\n" for key, value in entries.items())
