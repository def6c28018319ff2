"""A short-lived API key for the requests that rayloop itself sends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.settings import Settings

# The common rate limit is not meant for the loop's own traffic.
_OWN_RATE = "100000/second"


@contextmanager
def temporary_key(settings: Settings, model: str, name: str) -> Iterator[dict[str, str]]:
    """Headers that let the loop's own requests to ``model`` in, while the block lasts; none where access is open."""
    from deployments.auth.authenticator import KEY_EFFECTIVE_WITHIN_S
    from deployments.auth.credentials import SCOPES
    from deployments.auth.key_store import KeyStore

    if not settings.access:
        yield {}
        return
    store, now = KeyStore(settings.access_uri), time.time()
    # A process that is killed cannot revoke its key.
    key, text = store.issue(name, (model,), SCOPES, now, rate=_OWN_RATE, expires_at=now + 86_400)
    time.sleep(KEY_EFFECTIVE_WITHIN_S)
    try:
        yield {"authorization": f"Bearer {text}"}
    finally:
        store.revoke(key.id, time.time())
