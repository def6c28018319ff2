"""Files of certificates: which the settings name, until when they are valid, and what the metrics say of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster.certificates import self_signed
from cluster.door.certificates import Certificates, certificate_files, read_expiry
from cluster.door.config import DoorConfig
from cluster.door.peers import peer_link, peer_ports
from cluster.door.status import PUBLIC, SUPERVISED, render_status, render_status_map, status_commands
from cluster.errors import RayloopError, SettingsError
from cluster.settings import Settings
from tests.factories.errors import raises


def test_settings_name_the_files(tmp_path: Path) -> None:
    assert certificate_files(Settings(home=tmp_path)) == {}
    settings = Settings(home=tmp_path, door_certificate="/a", door_peer_certificate="/b", door_peer_authority="/c")
    assert [(key, source.path) for key, source in certificate_files(settings).items()] == [
        ("public", "/a"),
        ("peer", "/b"),
        ("authority", "/c"),
    ]


def test_certificate_for_doors_without_its_authority_is_refused(tmp_path: Path) -> None:
    (tmp_path / "peer.pem").write_text(self_signed())
    settings = Settings(home=tmp_path, door_peer_certificate=str(tmp_path / "peer.pem"))
    folder = tmp_path / "door"
    folder.mkdir()
    certificates = Certificates(settings, DoorConfig(folder=folder, http_fd=0, grpc_fd=0, metrics_port=1))
    with pytest.raises(SettingsError) as caught:
        certificates.prepare()
    assert caught.value.fields["variable"] == "RAYLOOP_DOOR_PEER_AUTHORITY"


def test_file_that_is_refused_or_unreadable_holds_up_no_other(tmp_path: Path) -> None:
    folder, files = tmp_path / "door", {}
    folder.mkdir()
    for name in ("public", "peer", "authority"):
        files[name] = tmp_path / f"{name}.pem"
        files[name].write_text(self_signed())
    settings = Settings(
        home=tmp_path,
        door_certificate=str(files["public"]),
        door_peer_certificate=str(files["peer"]),
        door_peer_authority=str(files["authority"]),
    )
    certificates = Certificates(settings, DoorConfig(folder=folder, http_fd=0, grpc_fd=0, metrics_port=1))
    certificates.prepare()
    replaced: list[str] = []

    class Admin:
        def replace_certificate(self, path: str, content: str, kind: str) -> None:
            if content == "refused":
                raise RayloopError("rayloop.certificate_unreadable", variable="", path=path)
            replaced.append(content)

    admin: Any = Admin()
    files["public"].write_text("refused")
    files["peer"].write_bytes(b"\xff\xfe")
    files["authority"].write_text(other := self_signed())
    assert certificates.update(admin)
    assert set(replaced) == {other}
    with raises(RayloopError, "rayloop.certificate_unreadable"):
        certificates.update(admin)


def test_expiry_is_that_of_the_first_certificate_to_end(tmp_path: Path) -> None:
    day = read_expiry(self_signed()).timestamp() - time.time()
    assert 23 * 3600 < day < 25 * 3600
    first, second = self_signed(), self_signed()
    assert read_expiry(second + first) == min(read_expiry(first), read_expiry(second))
    with pytest.raises(ValueError, match="PEM"):
        read_expiry("nothing")


def test_ports_of_the_link_must_not_be_those_of_replicas(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, door_peer_certificate="/a", door_peer_ports_from=31001)
    with pytest.raises(SettingsError) as caught:
        peer_ports(settings)
    assert caught.value.fields["variable"] == "RAYLOOP_DOOR_PEER_PORTS_FROM"
    assert peer_ports(settings.model_copy(update={"door_peer_certificate": ""})) is None
    with pytest.raises(SettingsError):
        peer_ports(Settings(home=tmp_path, door_peer_authority="/c"))


def test_link_knows_this_hosts_addresses(tmp_path: Path) -> None:
    link = peer_link(Settings(home=tmp_path, door_peer_certificate="/a"))
    assert link is not None
    assert link.offset == 1500
    assert "127.0.0.1" in link.own_addresses


def test_replicas_listen_on_the_loopback_address_only_behind_doors_that_encrypt(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, serve_host="0.0.0.0", door_peer_certificate="/a")
    assert settings.replica_host == "0.0.0.0"
    assert settings.model_copy(update={"door": True}).replica_host == "127.0.0.1"


def test_metrics_look_every_moment_up_in_the_map(tmp_path: Path) -> None:
    text, entries = render_status(tmp_path / "s"), render_status_map({PUBLIC: 7.2}).splitlines()
    assert entries == ["supervised NaN", "public 7", "peer NaN", "authority NaN"]
    for key in (entry.split()[0] for entry in entries):
        assert f"%[str({key}),map({tmp_path / 's'},NaN)]" in text
    assert list(status_commands(tmp_path / "s", {SUPERVISED: 9.0})) == [f"set map {tmp_path / 's'} supervised 9"]
