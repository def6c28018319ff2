"""Whether this host's door answers for a path."""

from __future__ import annotations

import http.client
import ssl

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


def _connect(settings: Settings, host: str) -> http.client.HTTPConnection:
    if not settings.door_certificate:
        return http.client.HTTPConnection(host, settings.serve_port, timeout=_TIMEOUT_S)
    # The certificate is for the name that callers use, not for this address; nothing secret is sent.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, settings.serve_port, timeout=_TIMEOUT_S, context=context)
