"""Certificates of the door: files of the settings, and the copies of them that HAProxy uses."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from cluster.door.admin_socket import AdminSocket
from cluster.door.config import DoorConfig
from cluster.door.status import AUTHORITY, PEER, PUBLIC
from cluster.errors import RayloopError, SettingsError
from cluster.settings import Settings


class PemFile(NamedTuple):
    """A setting that names a PEM file."""

    variable: str
    path: str
    kind: str = "cert"
    """What HAProxy's admin commands call it."""


def certificate_files(settings: Settings) -> dict[str, PemFile]:
    """Return the files of the settings by their key in the door's metrics; those that are not set are left out."""
    sources = {PUBLIC: PemFile("RAYLOOP_DOOR_CERTIFICATE", settings.door_certificate)}
    if settings.door_peer_certificate:
        sources[PEER] = PemFile("RAYLOOP_DOOR_PEER_CERTIFICATE", settings.door_peer_certificate)
        sources[AUTHORITY] = PemFile("RAYLOOP_DOOR_PEER_AUTHORITY", settings.door_peer_authority, "ca-file")
    return {key: source for key, source in sources.items() if source.path or key != PUBLIC}


def read_expiry(content: str) -> datetime:
    """Return when the first certificate of a PEM text expires. Raises ValueError when it holds none."""
    return min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(content.encode()))


class Certificates:
    """The files of a door.

    Args:
        settings: Where they come from.
        config: Where HAProxy has its copies.
    """

    def __init__(self, settings: Settings, config: DoorConfig) -> None:
        places = {
            PUBLIC: (config.certificate_file,),
            PEER: tuple(map(config.peer_certificate_file, config.link_parts)),
            AUTHORITY: tuple(map(config.peer_authority_file, config.link_parts)),
        }
        self._files = [_File(source, places[key], key) for key, source in certificate_files(settings).items()]

    def prepare(self) -> None:
        """Have copies to start HAProxy with. Raises RayloopError for a file that is missing or unreadable."""
        for file in self._files:
            file.prepare()

    def update(self, admin: AdminSocket) -> bool:
        """Give HAProxy the first file that has changed; the others' turn comes with the next call.

        Returns:
            Whether one has.

        Raises:
            RayloopError: One cannot be read, or HAProxy refuses it and keeps the content it has; it holds up no other.
            OSError: HAProxy does not answer.
        """
        refusals = []
        for file in self._files:
            try:
                if file.update(admin):
                    return True
            except RayloopError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]
        return False

    def expiries(self) -> Mapping[str, float]:
        """Return until when the certificates in use are valid, Unix time by key."""
        moments = {}
        for file in self._files:
            # HAProxy has accepted it: what cannot be read here is left out.
            with suppress(ValueError):
                moments[file.key] = read_expiry(file.content).timestamp()
        return moments


class _File:
    """A file, and HAProxy's copies of it."""

    def __init__(self, source: PemFile, copies: tuple[Path, ...], key: str) -> None:
        self.key, self._source, self._copies = key, source, copies
        contents = {copy.read_text() if copy.exists() else "" for copy in copies}
        self.content = contents.pop() if len(contents) == 1 else ""

    def prepare(self) -> None:
        if self.content:
            return
        if not (content := self._read()):
            raise SettingsError(
                "settings.invalid",
                variable=self._source.variable,
                value=self._source.path,
                reason="no such file, or an empty one",
            )
        self._keep(content)

    def update(self, admin: AdminSocket) -> bool:
        content = self._read()
        if not content or content == self.content:
            return False
        for copy in self._copies:
            admin.replace_certificate(str(copy), content, self._source.kind)
        # Only what HAProxy has accepted: it would not start with a file that it refuses.
        self._keep(content)
        return True

    def _keep(self, content: str) -> None:
        for copy in self._copies:
            copy.write_text(content)
        self.content = content

    def _read(self) -> str:
        """The content of the file; empty while it is being replaced."""
        try:
            return Path(self._source.path).read_text() if self._source.path else ""
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise RayloopError(
                "rayloop.certificate_unreadable", variable=self._source.variable, path=self._source.path
            ) from error
