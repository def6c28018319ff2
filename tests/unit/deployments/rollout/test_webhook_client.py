"""Webhooks against a real HTTP server: signed bodies, answers in time, secrets."""

import asyncio
import json

import pytest

from cluster.errors import RolloutError
from cluster.values import Decision
from cluster.webhooks import SIGNATURE_HEADER, sign
from deployments.rollout.state_machine import RolloutState
from deployments.rollout.webhook_client import check_secrets, post_step
from deployments.rollout_policy import Webhook
from tests.factories.deployments.endpoint import Endpoint
from tests.factories.deployments.rollouts import webhook_step
from tests.factories.errors import raises

SECRET = "RAYLOOP_TEST_HOOK_SECRET"


def test_post_step_sends_a_signed_body_with_state_and_decision(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "hush")
    hook = Webhook(url=f"{endpoint.url}/200", moment="before", secret_env=SECRET)
    state, decision = webhook_step(hook, Webhook(url=f"{endpoint.url}/204"))
    assert asyncio.run(post_step(state.policy.webhooks, "before", state, decision)) == []
    ((path, headers, body),) = endpoint.requests
    content = json.loads(body)
    assert (path, content["moment"]) == ("/200", "before")
    assert RolloutState.model_validate(content["state"]) == state
    assert Decision.model_validate(content["decision"]) == decision
    assert headers[SIGNATURE_HEADER] == sign("hush", body) != sign("other", body)


@pytest.mark.parametrize("status", [301, 403, 500])
def test_post_step_with_a_status_other_than_2xx_fails(endpoint: Endpoint, status: int) -> None:
    state, decision = webhook_step(Webhook(url=f"{endpoint.url}/{status}"), Webhook(url=f"{endpoint.url}/202"))
    failures = asyncio.run(post_step(state.policy.webhooks, "after", state, decision))
    assert failures == [f"webhook {endpoint.url}/{status}: HTTP {status}"]


def test_post_step_to_a_late_or_absent_webhook_fails(endpoint: Endpoint) -> None:
    late, absent = Webhook(url=f"{endpoint.url}/hang", timeout_s=0.2), Webhook(url="http://127.0.0.1:9/")
    state, decision = webhook_step(late, absent)
    failures = asyncio.run(post_step(state.policy.webhooks, "after", state, decision))
    assert "no answer within 0.2 s" in failures[0]
    assert "webhook http://127.0.0.1:9/: " in failures[1]


def test_check_secrets_with_a_missing_secret_names_it() -> None:
    hook = Webhook(url="http://127.0.0.1:9/", secret_env="RAYLOOP_TEST_NO_SUCH_SECRET")
    with raises(RolloutError, "rollout.webhook_secret_missing", secret_env="RAYLOOP_TEST_NO_SUCH_SECRET"):
        check_secrets([hook])
    state, decision = webhook_step(hook)
    assert "RAYLOOP_TEST_NO_SUCH_SECRET" in asyncio.run(post_step([hook], "after", state, decision))[0]
