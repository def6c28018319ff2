"""A lease lasts as long as the head answers, and not longer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deployments.inference import order_lease
from deployments.inference.order_lease import LEASE_S, OrderLease
from tests.factories.until import until


class Head:
    """Answers as many questions as it may; knows the time."""

    def __init__(self) -> None:
        self.now, self.questions, self.fails = 0.0, 0, False
        self.answers = threading.Semaphore(0)

    def ask(self) -> None:
        self.questions += 1
        assert self.answers.acquire(timeout=10)
        if self.fails:
            raise ConnectionError

    def wait_for_question(self, number: int) -> None:
        until(lambda: self.questions == number, f"question {number}", 10)

    @contextmanager
    def lease(self) -> Iterator[OrderLease]:
        lease = OrderLease(self.ask, lambda: self.now)
        assert lease.held()
        try:
            yield lease
        finally:
            lease.close()
            self.answers.release()


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Head:
    monkeypatch.setattr(order_lease, "RENEW_EVERY_S", 0.001)
    return Head()


def test_lease_is_over_while_the_head_does_not_answer(head: Head) -> None:
    with head.lease() as lease:
        head.wait_for_question(1)
        head.now = LEASE_S - 0.1
        assert lease.held()
        head.now = LEASE_S
        assert not lease.held()


def test_answer_counts_from_its_question(head: Head) -> None:
    with head.lease() as lease:
        head.wait_for_question(1)
        head.now = LEASE_S
        head.answers.release()
        head.wait_for_question(2)
        assert not lease.held()
        head.answers.release()
        head.wait_for_question(3)
        assert lease.held()


def test_head_that_refuses_is_asked_again(head: Head) -> None:
    head.fails = True
    with head.lease() as lease:
        head.wait_for_question(1)
        head.now = LEASE_S
        head.answers.release()
        head.wait_for_question(2)
        head.fails = False
        assert not lease.held()
        head.answers.release()
        head.wait_for_question(3)
        assert lease.held()
