"""A temporary API key for requests that rayloop sends itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.settings import Settings

# The default rate limit is not intended for rayloop's own traffic.
_OWN_RATE = "100000/second"


@contextmanager
def temporary_key(settings: Settings, model: str, name: str) -> Iterator[dict[str, str]]:
    """Yield headers with a key for ``model`` that is valid inside the block; none when access control is off."""
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
