"""Approvals and notifications over a real HTTP server: an abort waits for none of them."""

import asyncio

from deployments.rollout.approvals import Approvals
from deployments.rollout.state_machine import RolloutState
from deployments.rollout_policy import Webhook
from tests.factories.deployments.endpoint import Endpoint
from tests.factories.deployments.rollouts import webhook_step


async def refuse_reports(state: RolloutState, failure: str) -> None:
    raise AssertionError(failure)


def test_objection_after_a_refusal_stands_until_the_retry(endpoint: Endpoint) -> None:
    async def scenario() -> None:
        approvals = Approvals(refuse_reports)
        refused = webhook_step(Webhook(url=f"{endpoint.url}/409", moment="before", retry_s=3600.0))
        first, second = [await approvals.objection(*refused) for _ in range(2)]
        assert first == second == f"webhook {endpoint.url}/409: HTTP 409"
        assert len(endpoint.requests) == 1
        approvals.reset()
        assert await approvals.objection(*webhook_step(Webhook(url=f"{endpoint.url}/200", moment="before"))) == ""

    asyncio.run(scenario())


def test_objection_during_an_abort_returns_at_once(endpoint: Endpoint) -> None:
    async def scenario() -> None:
        approvals = Approvals(refuse_reports)
        hanging = webhook_step(Webhook(url=f"{endpoint.url}/hang", moment="before", timeout_s=60.0))
        request = asyncio.ensure_future(approvals.objection(*hanging))
        while not endpoint.requests:
            await asyncio.sleep(0.01)
        with approvals:
            assert approvals.aborting
            assert await asyncio.wait_for(request, 5.0) == "an abort was requested"
            assert await approvals.objection(*webhook_step()) == "an abort was requested"
        assert not approvals.aborting
        assert await approvals.objection(*webhook_step()) == ""

    asyncio.run(scenario())


def test_notify_that_fails_is_reported(endpoint: Endpoint) -> None:
    reported: list[str] = []

    async def scenario() -> None:
        done = asyncio.Event()

        async def report(state: RolloutState, failure: str) -> None:
            reported.append(failure)
            done.set()

        Approvals(report).notify(*webhook_step(Webhook(url=f"{endpoint.url}/500")))
        await asyncio.wait_for(done.wait(), 10.0)

    asyncio.run(scenario())
    assert reported == [f"after advance, webhook {endpoint.url}/500: HTTP 500"]
