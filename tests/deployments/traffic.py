"""Requests to a served model, and a load that runs while a test does something else."""

import random
import threading
import time
from collections import Counter
from typing import Any, Self

import httpx
import numpy as np

from tests.until import DEADLINE_S


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
    """Concurrent single-row requests with true labels following, until the block ends."""

    def __init__(self, endpoint: str, slope: float, threads: int = 2, name: str = "load") -> None:
        self._endpoint, self._slope, self._name = endpoint, slope, name
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.outcomes: Counter[tuple[int, str]] = Counter()
        self.ids: list[str] = []
        self.problems: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)

    @property
    def failed(self) -> list[str]:
        return self.problems

    @property
    def answered(self) -> int:
        return sum(self.outcomes.values())

    def _run(self, thread: int) -> None:
        chance = random.Random(thread)
        with httpx.Client(base_url=self._endpoint, timeout=30.0) as client:
            sent = 0
            while not self._stop.is_set():
                labels = [self._one(client, chance, f"{self._name}-{thread}-{sent + i}") for i in range(20)]
                sent += 20
                self._note(client.post("/feedback", json={"labels": labels}))

    def _one(self, client: httpx.Client, chance: random.Random, id: str) -> dict[str, Any]:
        distance = chance.gauss(0.0, 1.0)
        try:
            response = client.post("/infer", json=infer_body([distance], id))
        except httpx.TransportError as error:
            self._problem(f"{id}: {error!r}")
        else:
            self._note(response)
            with self._lock:
                self.ids.append(id)
                self.outcomes[response.status_code, response.headers.get("x-rayloop-variant", "")] += 1
        return {"id": id, "label": int(chance.random() < 1.0 / (1.0 + np.exp(-self._slope * distance)))}

    def _note(self, response: httpx.Response) -> None:
        if response.status_code != 200:
            self._problem(f"{response.status_code} {response.headers} {response.text[:200]}")

    def _problem(self, what: str) -> None:
        with self._lock:
            self.problems.append(f"at {time.monotonic() - self._began:.1f} s: {what}")
