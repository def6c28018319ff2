"""The doctor's look at a door: silence, and certificates that are unreadable or end soon."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.cluster.certificates import self_signed
from cluster.door.probe import check_door
from cluster.errors import RayloopError
from cluster.node.ports import free_port
from cluster.settings import Settings


class _Live(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *words: object) -> None: ...


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Settings]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Live) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Settings(home=tmp_path, serve_port=server.server_port)
        server.shutdown()


def with_peers(settings: Settings, content: str) -> Settings:
    file = settings.home / "peer.pem"
    file.write_text(content)
    return settings.model_copy(update={"door_peer_certificate": str(file), "door_peer_authority": str(file)})


def code(settings: Settings) -> str:
    with pytest.raises(RayloopError) as caught:
        check_door(settings)
    return caught.value.code


def test_door_that_answers_with_certificates_that_are_valid_is_well(answering: Settings) -> None:
    assert check_door(answering) == "answers, without TLS"
    assert "valid until" in check_door(with_peers(answering, self_signed(datetime.timedelta(days=15))))


def test_door_that_does_not_answer_is_named(tmp_path: Path) -> None:
    assert code(Settings(home=tmp_path, serve_port=free_port())) == "rayloop.door_silent"


def test_certificate_that_ends_within_two_weeks_is_named(answering: Settings) -> None:
    assert code(with_peers(answering, self_signed(datetime.timedelta(days=13)))) == "rayloop.certificate_expires"


def test_certificate_that_cannot_be_read_is_named(answering: Settings) -> None:
    settings = with_peers(answering, "-----BEGIN CERTIFICATE-----\n")
    assert code(settings) == "rayloop.certificate_unreadable"
    (answering.home / "peer.pem").unlink()
    assert code(settings) == "rayloop.certificate_unreadable"
