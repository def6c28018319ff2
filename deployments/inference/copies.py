"""Copies of the champion's requests for a challenger: evidence beyond the challenger's share of the traffic.

A copy delays no answer and fails none: it leaves once the champion has answered, in a call of its own that carries many
requests, and only as far as a bound of rows in flight and a budget of idle time allow. Whether a request is copied
depends on its key, on time and on earlier copies, never on what is in it, how large it is, or how either version scores
it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from deployments.inference import variant_scoring
from deployments.inference.challenger_protocol import ScoreResult
from deployments.inference.serving_state import ServingState
from deployments.inference.time_budget import IdleClock, TimeBudget
from deployments.inference.variant_scoring import ChampionPart, RoutedRequest
from deployments.telemetry.prediction_log import Copied, PredictionBatch
from deployments.traffic_split import choose_copy

MAX_COPIED_ROWS = 64
"""Rows of copies, for each challenger, that wait or are in flight; while they are as many, further copies are dropped.
The row limit of one call, beyond which only its last request may reach."""
SEND_EVERY_S = 0.05
"""For which copies are gathered: a call costs far more than a row."""

Report = Callable[[ServingState, PredictionBatch], None]


class Division(NamedTuple):
    """What becomes of requests that the champion answered."""

    answers: Sequence[PredictionBatch]
    """Answers to report now, because no copy of the request was made."""
    dropped: int
    """Requests among them whose copy was dropped."""
    copied_rows: int
    """Rows of the other requests, whose answers are reported once their copies are scored."""


class _CopyCall(NamedTuple):
    """Copies for one challenger that travel together."""

    state: ServingState
    version: str
    parts: list[ChampionPart]

    @property
    def rows(self) -> int:
        return sum(sum(part.scored.sizes) for part in self.parts)


class Copier:
    """Sends copies to challengers, and reports the requests with what the challengers made of them.

    Args:
        report: Reports answers.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._budget = TimeBudget(IdleClock())
        self._waiting: dict[tuple[int, str], _CopyCall] = {}
        self._sent: dict[asyncio.Task[None], _CopyCall] = {}
        self._rows_in_flight: Counter[str] = Counter()

    def divide(self, state: ServingState, part: ChampionPart) -> Division:
        """Take over the requests of which a challenger gets a copy.

        Args:
            state: What was served.
            part: Requests that the champion alone has scored.
        """
        fates: defaultdict[tuple[str | None, bool], list[int]] = defaultdict(list)
        for index, request in enumerate(part.requests):
            fates[self._admit(state, part, request)].append(index)
        copied_rows, dropped, answers = 0, 0, list[PredictionBatch]()
        for (version, admitted), indices in fates.items():
            some = part.select(indices)
            if version is not None and admitted:
                self._enqueue(state, version, some)
                copied_rows += sum(some.scored.sizes)
            else:
                dropped += len(indices) if version is not None else 0
                copied: Copied | None = None if version is None else "dropped"
                answers.append(variant_scoring.build_answer(some.requests, some.scored, copied=copied))
        return Division(answers, dropped, copied_rows)

    def close(self) -> None:
        """Report all requests whose copies are not scored; the copies count as dropped."""
        for call in (*self._waiting.values(), *self._sent.values()):
            for part in call.parts:
                self._report(call.state, variant_scoring.build_answer(part.requests, part.scored, copied="dropped"))
            call.parts.clear()
        self._waiting.clear()

    def _admit(self, state: ServingState, part: ChampionPart, request: RoutedRequest) -> tuple[str | None, bool]:
        """The challenger that should get a copy of a request, None for none; and whether there is room for it."""
        split = state.config.split
        if split is None or not split.copies or request.pinned or part.scored.scores is None:
            return None, False
        version = choose_copy(split, request.key)
        if version is None or self._rows_in_flight[version] >= MAX_COPIED_ROWS:
            return version, False
        if not self._budget.has_left(split.copy_cpus):
            return version, False
        self._rows_in_flight[version] += request.rows.size
        return version, True

    def _enqueue(self, state: ServingState, version: str, part: ChampionPart) -> None:
        call = self._waiting.get((id(state), version))
        if call is None:
            call = self._waiting[id(state), version] = _CopyCall(state, version, [])
            asyncio.get_running_loop().call_later(SEND_EVERY_S, self._start, id(state), version)
        call.parts.append(part)

    def _start(self, state: int, version: str) -> None:
        call = self._waiting.pop((state, version), None)
        if call is not None:
            task = asyncio.get_running_loop().create_task(self._send(call))
            self._sent[task] = call
            task.add_done_callback(self._sent.pop)

    async def _send(self, call: _CopyCall) -> None:
        started, rows = time.monotonic(), call.rows
        requests = [request for part in call.parts for request in part.requests]
        try:
            results = await variant_scoring.call_challenger(requests, call.version)
        except Exception as error:
            assert call.state.config.split is not None
            unanswered = variant_scoring.failure_result(call.state.config.split, call.version, error)
            answers = list(_answers(call, [unanswered] * len(requests), answered=False))
        else:
            answers = list(_answers(call, results, answered=True))
        finally:
            # The time of the call is more than the two processes have worked on it: under load, copies become fewer.
            self._budget.spend(time.monotonic() - started)
            self._rows_in_flight[call.version] -= rows
        call.parts.clear()
        for answer in answers:
            self._report(call.state, answer)


def _answers(call: _CopyCall, results: Sequence[ScoreResult], answered: bool) -> Iterator[PredictionBatch]:
    """The answers to the requests of a call, with the result of the copy of each."""
    remaining = iter(results)
    for part in call.parts:
        own = [next(remaining) for _ in part.requests]
        outcomes: defaultdict[str | None, list[int]] = defaultdict(list)
        for index, result in enumerate(own):
            outcomes[result.error if result.scores is None else None].append(index)
        for error, indices in outcomes.items():
            some = part.select(indices)
            result = variant_scoring.join_results([own[i] for i in indices])
            copied: Copied = "scored" if error is None else "failed" if answered else "unanswered"
            yield variant_scoring.build_answer(some.requests, some.scored, result, copied)
