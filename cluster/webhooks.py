"""Webhooks: a signed JSON body, sent by HTTP POST. The one sender for rollout steps and drift notifications."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os

import httpx
from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_incrementing

SIGNATURE_HEADER = "x-rayloop-signature"


def sign(secret: str, body: bytes) -> str:
    """Value of SIGNATURE_HEADER: "sha256=" and the hex HMAC-SHA256 of the body under the shared secret."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


async def send(
    url: str, body: bytes, *, timeout_s: float, secret_env: str = "", attempts: int = 1, pause_s: float = 1.0
) -> str:
    """POST a JSON body and wait until the receiver accepts it. Synchronous callers use ``asyncio.run``.

    Args:
        url: Address of the receiver.
        body: JSON, sent byte for byte.
        timeout_s: Limit of each attempt, from connecting to the status line.
        secret_env: Environment variable of this process that holds the secret to sign with; empty: unsigned.
        attempts: How often to try.
        pause_s: Seconds before the second attempt; each further pause is longer by as much.

    Returns:
        Why the last attempt failed; empty once the receiver has answered 2xx.
    """
    retrying = AsyncRetrying(
        stop=stop_after_attempt(attempts),
        wait=wait_incrementing(start=pause_s, increment=pause_s),
        retry=retry_if_result(bool),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else "",
    )
    return await retrying(_attempt, url, body, timeout_s, secret_env)


async def _attempt(url: str, body: bytes, timeout_s: float, secret_env: str) -> str:
    headers = {"content-type": "application/json"}
    if secret_env:
        secret = os.environ.get(secret_env)
        if not secret:
            return f"environment variable {secret_env}, which holds the signing secret, is not set in this process"
        headers[SIGNATURE_HEADER] = sign(secret, body)
    try:
        # httpx limits each read and write; the limit here is on the whole attempt.
        async with asyncio.timeout(timeout_s), httpx.AsyncClient(timeout=None) as client:
            status = (await client.post(url, content=body, headers=headers)).status_code
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{type(error).__name__}: {error}"
    return "" if 200 <= status < 300 else f"HTTP {status}"
