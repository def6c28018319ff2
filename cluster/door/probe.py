"""Whether this host's door answers for a path, and what is wrong with it."""

from __future__ import annotations

import http.client
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cluster.door.certificates import PemFile, certificate_files, read_expiry
from cluster.door.status import LEAST_VALIDITY
from cluster.errors import RayloopError
from cluster.settings import Settings

_TIMEOUT_S = 2.0


def door_status(settings: Settings, path: str) -> int | None:
    """Ask this host's door.

    Returns:
        The HTTP status; None where no door answers.
    """
    host = settings.serve_host if settings.serve_host not in ("0.0.0.0", "::") else "127.0.0.1"
    try:
        connection = _connect(settings, host)
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None


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


def _connect(settings: Settings, host: str) -> http.client.HTTPConnection:
    if not settings.door_certificate:
        return http.client.HTTPConnection(host, settings.serve_port, timeout=_TIMEOUT_S)
    # The certificate is for the name that callers use, not for this address; nothing secret is sent.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, settings.serve_port, timeout=_TIMEOUT_S, context=context)
