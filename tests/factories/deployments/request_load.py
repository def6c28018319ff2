"""Requests to a served model, and a load that runs while a test does something else."""

import asyncio
import random
import threading
import time
from collections import Counter
from typing import Any, Self

import aiohttp
import numpy as np

from tests.factories.until import DEADLINE_S

LABELS = 20
"""Labels that are sent together."""
_TIMEOUT = aiohttp.ClientTimeout(total=30.0)


def infer_body(distances: list[float | None], id: str | None = None) -> dict[str, Any]:
    rows = len(distances)
    inputs = [
        {"name": "distance", "shape": [rows], "datatype": "FP64", "data": distances},
        {"name": "carrier", "shape": [rows], "datatype": "BYTES", "data": ["AA"] * rows},
        {"name": "departs", "shape": [rows], "datatype": "BYTES", "data": ["2024-05-01T10:00:00Z"] * rows},
    ]
    return {"inputs": inputs} | ({"id": id} if id else {})


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-values))


class Load:
    """An open load of single-row requests, followed by their true labels, for the duration of a block.

    Requests leave at random times (Poisson process), ``rate`` per second, however fast the server answers. The exit of
    the block waits for all answers.
    """

    def __init__(self, endpoint: str, slope: float, rate: float = 60.0, name: str = "load") -> None:
        self._endpoint, self._slope, self._rate, self._name = endpoint.rstrip("/"), slope, rate, name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._began = time.monotonic()
        self.open = 0
        """Requests in flight."""
        self._labels: list[dict[str, Any]] = []
        self.outcomes: Counter[tuple[int, str]] = Counter()
        self.ids: list[str] = []
        self.failed: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), f"{self.open} requests are not answered"

    @property
    def answered(self) -> int:
        assert self._thread.is_alive() or self._stop.is_set(), self.failed
        return sum(self.outcomes.values())

    def _run(self) -> None:
        try:
            asyncio.run(self._send())
        # A load that failed proves nothing.
        except Exception as error:
            self._problem(repr(error))

    async def _send(self) -> None:
        chance, sent, due = random.Random(self._name), 0, time.monotonic()
        # As many connections as requests in flight: none waits for another's answer.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=_TIMEOUT) as session:
            async with asyncio.TaskGroup() as group:
                while not self._stop.is_set():
                    # A late request leaves at once: the times do not depend on how long answers take.
                    due += chance.expovariate(self._rate)
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    distance = chance.gauss(0.0, 1.0)
                    label = int(chance.random() < 1.0 / (1.0 + np.exp(-self._slope * distance)))
                    group.create_task(self._one(session, f"{self._name}-{sent}", distance, label))
                    sent += 1
            await self._tell_labels(session)

    async def _one(self, session: aiohttp.ClientSession, id: str, distance: float, label: int) -> None:
        self.open += 1
        try:
            answer = await self._post(session, "/infer", infer_body([distance], id))
        finally:
            self.open -= 1
        if answer is not None:
            self.ids.append(id)
            self.outcomes[answer] += 1
        self._labels.append({"id": id, "label": label})
        if len(self._labels) >= LABELS:
            await self._tell_labels(session)

    async def _tell_labels(self, session: aiohttp.ClientSession) -> None:
        labels, self._labels = self._labels, []
        if labels:
            await self._post(session, "/feedback", {"labels": labels})

    async def _post(self, session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> tuple[int, str] | None:
        """Status and variant; None without an answer."""
        try:
            async with session.post(f"{self._endpoint}{path}", json=body) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return self._problem(f"{path} {body.get('id', '')}: {error!r}")
        if answer.status != 200:
            self._problem(f"{answer.status} {answer.headers} {text[:200]}")
        return answer.status, answer.headers.get("x-rayloop-variant", "")

    def _problem(self, what: str) -> None:
        self.failed.append(f"at {time.monotonic() - self._began:.1f} s: {what}")
