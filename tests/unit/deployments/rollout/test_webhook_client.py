"""Webhooks against a real HTTP server: signed, in time, heard or journaled, and never in the way of an abort."""

import asyncio
import json

import pytest

from cluster.errors import RolloutError
from cluster.values import Decision
from cluster.webhooks import SIGNATURE_HEADER, sign
from deployments.rollout.approvals import Approvals
from deployments.rollout.state_machine import RolloutState, begin, journal_entry
from deployments.rollout.webhook_client import check_secrets, post_step
from deployments.rollout_policy import RolloutPolicy, Webhook
from tests.factories.deployments.endpoint import Endpoint
from tests.factories.errors import raises

SECRET = "RAYLOOP_TEST_HOOK_SECRET"


def step(*hooks: Webhook) -> tuple[RolloutState, Decision]:
    state = begin("r1", "trips", "1", ("2",), RolloutPolicy(webhooks=hooks), 100.0)
    return state, journal_entry(state, "advance", 101.0, {"loss": 0.5})


def test_the_body_tells_state_and_decision_and_is_signed(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "hush")
    hook = Webhook(url=f"{endpoint.url}/200", moment="before", secret_env=SECRET)
    state, decision = step(hook, Webhook(url=f"{endpoint.url}/204"))
    assert asyncio.run(post_step(state.policy.webhooks, "before", state, decision)) == []
    ((path, headers, body),) = endpoint.heard
    told = json.loads(body)
    assert (path, told["moment"]) == ("/200", "before")
    assert RolloutState.model_validate(told["state"]) == state
    assert Decision.model_validate(told["decision"]) == decision
    assert headers[SIGNATURE_HEADER] == sign("hush", body) != sign("other", body)


@pytest.mark.parametrize("status", [301, 403, 500])
def test_only_an_answer_2xx_agrees(endpoint: Endpoint, status: int) -> None:
    state, decision = step(Webhook(url=f"{endpoint.url}/{status}"), Webhook(url=f"{endpoint.url}/202"))
    failures = asyncio.run(post_step(state.policy.webhooks, "after", state, decision))
    assert failures == [f"webhook {endpoint.url}/{status}: HTTP {status}"]


def test_who_is_late_or_away_does_not_agree(endpoint: Endpoint) -> None:
    late, away = Webhook(url=f"{endpoint.url}/hang", timeout_s=0.2), Webhook(url="http://127.0.0.1:9/")
    state, decision = step(late, away)
    failures = asyncio.run(post_step(state.policy.webhooks, "after", state, decision))
    assert "no answer within 0.2 s" in failures[0]
    assert "webhook http://127.0.0.1:9/: " in failures[1]


def test_a_secret_that_is_not_there_is_named() -> None:
    hook = Webhook(url="http://127.0.0.1:9/", secret_env="RAYLOOP_TEST_NO_SUCH_SECRET")
    with raises(RolloutError, "rollout.webhook_secret_missing", secret_env="RAYLOOP_TEST_NO_SUCH_SECRET"):
        check_secrets([hook])
    state, decision = step(hook)
    assert "RAYLOOP_TEST_NO_SUCH_SECRET" in asyncio.run(post_step([hook], "after", state, decision))[0]


async def _nothing(state: RolloutState, failure: str) -> None:
    raise AssertionError(failure)


def test_a_refusal_holds_until_one_is_asked_again(endpoint: Endpoint) -> None:
    async def scenario() -> None:
        consent = Approvals(_nothing)
        refused = step(Webhook(url=f"{endpoint.url}/409", moment="before", retry_s=3600.0))
        first, second = [await consent.objection(*refused) for _ in range(2)]
        assert first == second == f"webhook {endpoint.url}/409: HTTP 409"
        assert len(endpoint.heard) == 1
        consent.reset()
        assert await consent.objection(*step(Webhook(url=f"{endpoint.url}/200", moment="before"))) == ""

    asyncio.run(scenario())


def test_an_abort_does_not_wait_for_who_is_asked(endpoint: Endpoint) -> None:
    async def scenario() -> None:
        consent = Approvals(_nothing)
        hanging = step(Webhook(url=f"{endpoint.url}/hang", moment="before", timeout_s=60.0))
        asked = asyncio.ensure_future(consent.objection(*hanging))
        while not endpoint.heard:
            await asyncio.sleep(0.01)
        with consent:
            assert consent.aborting
            assert await asyncio.wait_for(asked, 5.0) == "an abort was requested"
            assert await consent.objection(*step()) == "an abort was requested"
        assert not consent.aborting
        assert await consent.objection(*step()) == ""

    asyncio.run(scenario())


def test_who_is_told_in_vain_is_reported(endpoint: Endpoint) -> None:
    reported: list[str] = []

    async def scenario() -> None:
        done = asyncio.Event()

        async def report(state: RolloutState, failure: str) -> None:
            reported.append(failure)
            done.set()

        Approvals(report).notify(*step(Webhook(url=f"{endpoint.url}/500")))
        await asyncio.wait_for(done.wait(), 10.0)

    asyncio.run(scenario())
    assert reported == [f"after advance, webhook {endpoint.url}/500: HTTP 500"]
