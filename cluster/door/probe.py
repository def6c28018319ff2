"""Whether this host's door answers for a path, and what is wrong with it."""

from __future__ import annotations

import http.client
import ssl
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from cluster.door.certificates import PemFile, certificate_files, read_expiry
from cluster.door.moves import CLUSTER_HEADER
from cluster.door.status import LEAST_VALIDITY
from cluster.errors import RayloopError
from cluster.settings import Settings

_TIMEOUT_S = 2.0


def door_status(settings: Settings, path: str) -> int | None:
    """Ask this host's door.

    Returns:
        The HTTP status; None where no door answers.
    """
    try:
        connection = _connect(settings)
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None


def answering_cluster(settings: Settings, model: str, wanted: str) -> str:
    """Ask this host's door for a model in one of two clusters.

    Args:
        settings: Address and certificate of the door.
        model: Name of the model.
        wanted: The cluster that should answer, FIRST or SECOND.

    Returns:
        The one that answers; empty while the model does not move, or no door answers.
    """
    try:
        with closing(_connect(settings)) as connection:
            connection.request("GET", f"/v2/models/{model}/ready", headers={CLUSTER_HEADER: wanted})
            return connection.getresponse().getheader(CLUSTER_HEADER, "")
    except (OSError, http.client.HTTPException):
        return ""


def door_host(settings: Settings) -> str:
    """Return the address at which processes of this host reach its door."""
    return settings.serve_host if settings.serve_host not in ("0.0.0.0", "::") else "127.0.0.1"


def unverified_context() -> ssl.SSLContext:
    """Return how to reach this host's door by TLS: the certificate is for the name that callers use."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def check_door(settings: Settings) -> str:
    """Check this host's door and its certificates.

    Returns:
        What is well.

    Raises:
        RayloopError: The door does not answer; a certificate is unreadable, or expires soon.
    """
    if door_status(settings, "/v2/health/live") is None:
        raise RayloopError("rayloop.door_silent", host=settings.serve_host, port=settings.serve_port)
    expiries = [_check_certificate(file) for file in certificate_files(settings).values()]
    return f"answers, certificates are valid until {min(expiries):%Y-%m-%d}" if expiries else "answers, without TLS"


def _check_certificate(file: PemFile) -> datetime:
    try:
        expiry = read_expiry(Path(file.path).read_text())
    except (OSError, ValueError) as error:
        raise RayloopError("rayloop.certificate_unreadable", variable=file.variable, path=file.path) from error
    if expiry - datetime.now(UTC) < LEAST_VALIDITY:
        raise RayloopError("rayloop.certificate_expires", path=file.path, expiry=expiry.isoformat(" "))
    return expiry


def _connect(settings: Settings) -> http.client.HTTPConnection:
    address = (door_host(settings), settings.serve_port)
    if not settings.door_certificate:
        return http.client.HTTPConnection(*address, timeout=_TIMEOUT_S)
    return http.client.HTTPSConnection(*address, timeout=_TIMEOUT_S, context=unverified_context())
