"""Samples of logged rows are scored again in the background; what is found stays with its rollout."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.settings import Settings
from cluster.values import ModelVersion
from deployments.analysis.evidence import RolloutEvidence
from deployments.analysis.validity.validity_evidence import Suspects, ValidityEvidence
from deployments.inference.rescoring import RescoredRows
from deployments.rollout import score_checker
from deployments.rollout.score_checker import ScoreChecker
from deployments.rollout.state_machine import begin
from deployments.rollout_policy import RolloutPolicy

STATE = begin("r1", "m", "1", ("2",), RolloutPolicy(), 0.0)
EVIDENCE = {"2": RolloutEvidence(validity=ValidityEvidence()), "3": RolloutEvidence()}


class Task:
    """A Ray task that answers with the next of its results, or fails."""

    def __init__(self, results: list[RescoredRows | Exception]) -> None:
        self._results = results
        self.calls: list[tuple[Any, ...]] = []

    def remote(self, *arguments: Any) -> Any:
        self.calls.append(arguments)

        async def answer() -> RescoredRows:
            result = self._results.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

        return asyncio.ensure_future(answer())


async def version(number: str) -> ModelVersion:
    return ModelVersion(model="m", version=number, run_id="r", bundle_uri="/nowhere")


def log_writer(*samples: bytes) -> Any:
    waiting = list(samples)

    async def take(rollout: str) -> bytes:
        return waiting.pop(0) if waiting else b""

    return SimpleNamespace(take_sample=SimpleNamespace(remote=lambda rollout: asyncio.ensure_future(take(rollout))))


def found(checker: ScoreChecker) -> tuple[int, Suspects]:
    validity = checker.annotate(EVIDENCE)["2"].validity
    assert validity is not None
    return validity.rescored, validity.differing


def test_score_checker_adds_up_samples_of_one_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task([RescoredRows(8, []), ValueError("no bundle"), RescoredRows(4, ["q1"]), RescoredRows(2, [])])
    monkeypatch.setattr(score_checker.ray, "remote", lambda **options: lambda function: task)
    monkeypatch.setattr(score_checker, "EVERY_S", 0.0)

    async def poll(checker: ScoreChecker, writer: Any, state: Any) -> None:
        checker.poll(writer, state)
        assert checker._running is not None
        await checker._running

    async def run() -> None:
        checker, writer = ScoreChecker(Settings(), version), log_writer(b"a", b"b", b"c", b"", b"d")
        results = []
        for _ in range(4):
            await poll(checker, writer, STATE)
            results.append(found(checker))
        # A failure costs its sample, and without rows nothing is asked.
        assert results == [(8, Suspects()), (8, Suspects()), *[(12, Suspects(rows=1, ids=("q1",)))] * 2]
        assert [call[0] for call in task.calls] == [b"a", b"b", b"c"]
        assert [each.version for each in (task.calls[0][1], *task.calls[0][2])] == ["1", "2"]
        assert checker.annotate(EVIDENCE)["3"].validity is None
        # A person has resumed it: earlier rows are set aside.
        await poll(checker, writer, STATE.model_copy(update={"evidence_since": 5.0}))
        assert found(checker) == (2, Suspects())

    asyncio.run(run())
