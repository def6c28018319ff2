import asyncio
import time

import pytest

from cluster.webhooks import SIGNATURE_HEADER, send, sign
from tests.factories.deployments.endpoint import Endpoint

SECRET = "RAYLOOP_TEST_WEBHOOK_SECRET"


def test_send_signs_the_body_with_the_named_secret(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "hush")
    assert asyncio.run(send(f"{endpoint.url}/204", b"{}", timeout_s=5.0, secret_env=SECRET)) == ""
    ((path, headers, body),) = endpoint.requests
    assert (path, body, headers["content-type"]) == ("/204", b"{}", "application/json")
    assert headers[SIGNATURE_HEADER] == sign("hush", b"{}") != sign("other", b"{}")


def test_send_without_the_secret_names_its_variable(endpoint: Endpoint) -> None:
    failure = asyncio.run(send(f"{endpoint.url}/200", b"{}", timeout_s=5.0, secret_env="RAYLOOP_TEST_NO_SECRET"))
    assert "RAYLOOP_TEST_NO_SECRET" in failure
    assert endpoint.requests == []


@pytest.mark.parametrize("attempts", [1, 3])
def test_send_gives_up_after_its_attempts(endpoint: Endpoint, attempts: int) -> None:
    began = time.monotonic()
    failure = asyncio.run(send(f"{endpoint.url}/503", b"{}", timeout_s=5.0, attempts=attempts, pause_s=0.05))
    assert failure == "HTTP 503"
    assert len(endpoint.requests) == attempts
    # The pauses grow: 0.05 s, then 0.1 s.
    assert time.monotonic() - began >= 0.05 * sum(range(attempts))


def test_send_stops_at_the_first_success(endpoint: Endpoint) -> None:
    endpoint.answers["/hook"] = 204
    assert asyncio.run(send(f"{endpoint.url}/hook", b"{}", timeout_s=5.0, attempts=3)) == ""
    assert len(endpoint.requests) == 1


def test_send_to_a_silent_or_absent_receiver_fails(endpoint: Endpoint) -> None:
    assert asyncio.run(send(f"{endpoint.url}/hang", b"{}", timeout_s=0.2)) == "no answer within 0.2 s"
    assert "ConnectError" in asyncio.run(send("http://127.0.0.1:9/", b"{}", timeout_s=5.0))
