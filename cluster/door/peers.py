"""The link between the doors of a cluster's hosts, as the settings have it."""

from __future__ import annotations

import psutil

from cluster.door.config import PeerPorts
from cluster.door.membership import PeerLink
from cluster.errors import SettingsError
from cluster.settings import PORTS_PER_PROTOCOL, Settings


def peer_ports(settings: Settings) -> PeerPorts | None:
    """Return where this host's door takes requests of other doors; None without certificates for the link.

    Raises:
        SettingsError: The ports are also those of replicas, or there is an authority without a certificate.
    """
    if not settings.door_peer_certificate:
        if settings.door_peer_authority:
            raise SettingsError(
                "settings.invalid",
                variable="RAYLOOP_DOOR_PEER_CERTIFICATE",
                value="",
                reason="with RAYLOOP_DOOR_PEER_AUTHORITY the door needs a certificate, too",
            )
        return None
    first, replicas, last = settings.door_peer_ports_from, settings.replica_ports_from, settings.fallback_ports[1]
    if first <= last and replicas < first + 2 * PORTS_PER_PROTOCOL:
        raise SettingsError(
            "settings.invalid",
            variable="RAYLOOP_DOOR_PEER_PORTS_FROM",
            value=first,
            reason=f"ports {replicas} to {last} are those of replicas",
        )
    return PeerPorts(host=settings.serve_host, first=first, first_of_replicas=replicas)


def peer_link(settings: Settings) -> PeerLink | None:
    """Return how this host's door reaches replicas of other hosts; None without certificates for the link."""
    if (ports := peer_ports(settings)) is None:
        return None
    interfaces = psutil.net_if_addrs().values()
    own = frozenset(address.address.partition("%")[0] for interface in interfaces for address in interface)
    return PeerLink(offset=ports.first - ports.first_of_replicas, own_addresses=own)
