"""A model moves to a second Ray cluster on the same stores, under load, and back; its memory moves with it."""

from __future__ import annotations

import asyncio
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil
import pytest
from sklearn.datasets import load_digits

from cluster import local_cluster
from cluster.door.moves import CLUSTER_HEADER
from cluster.node.ports import free_port
from cluster.node.session import processes
from cluster.settings import Settings
from monitoring.runtime.monitor_actor import monitor_store
from tests.factories.rayloop.command import rayloop
from tests.factories.until import until

FACTORIES = Path(__file__).parents[2] / "factories" / "rayloop"
RATE, KEYS = 20.0, 40
PORTS = ("dashboard_port", "serve_port", "grpc_port", "gcs_port", "mlflow_port", "haproxy_metrics_port")


class Answer(NamedTuple):
    key: str
    sent: float
    ms: float
    status: int
    cluster: str
    outputs: Any


class OpenLoad(threading.Thread):
    """Requests at a steady rate, each key with an image of its own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self._url = f"{settings.endpoint}/v2/models/digits/infer"
        self._images = load_digits().data[:KEYS]
        self._over = threading.Event()
        self.answers: list[Answer] = []
        self.error: BaseException | None = None

    def __enter__(self) -> OpenLoad:
        self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._over.set()
        self.join(60.0)

    def await_answers(self, count: int) -> float:
        """Until that many more have come; returns when the wait began."""
        began, before = time.monotonic(), len(self.answers)
        while len(self.answers) < before + count:
            assert time.monotonic() < began + 120.0, self.error
            time.sleep(0.05)
        return began

    def run(self) -> None:
        try:
            asyncio.run(self._send())
        except BaseException as error:
            self.error = error

    async def _send(self) -> None:
        async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
            started, number, tasks = time.monotonic(), 0, set()
            while not self._over.is_set():
                await asyncio.sleep(max(0.0, started + number / RATE - time.monotonic()))
                tasks.add(asyncio.create_task(self._ask(client, number % KEYS)))
                tasks = {task for task in tasks if not task.done()}
                number += 1
            await asyncio.gather(*tasks)

    async def _ask(self, client: httpx.AsyncClient, number: int) -> None:
        inputs = [
            {"name": "image", "shape": [1, 8, 8], "datatype": "FP32", "data": self._images[number].tolist()},
            {"name": "taken_at", "shape": [1], "datatype": "BYTES", "data": ["2024-02-01T00:00:00Z"]},
        ]
        key, sent, outputs = f"k{number}", time.monotonic(), None
        try:
            answer = await client.post(self._url, json={"inputs": inputs}, headers={"x-rayloop-key": key})
            status, cluster = answer.status_code, answer.headers.get(CLUSTER_HEADER, "")
            outputs = answer.json().get("outputs")
        except httpx.HTTPError:
            status, cluster = 0, ""
        self.answers.append(Answer(key, sent, (time.monotonic() - sent) * 1000, status, cluster, outputs))


def memory_mib(*clusters: Settings) -> float:
    """Memory of all processes of clusters, with what they share in parts."""
    total = 0
    for cluster in clusters:
        for process in processes(cluster):
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
    return total / 2**20


def counted_requests(cluster: Settings) -> int:
    """Requests in the stored state of the model's monitor."""
    state = monitor_store(cluster, "digits").load()
    return state.usage.requests if state else 0


@pytest.fixture
def clusters(settings: Settings, tmp_path: Path) -> Iterator[tuple[Settings, Settings]]:
    """Settings of two clusters with a door each, on the stores of the first."""
    common = {"door": True, "door_models": 3, "door_replicas": 4, "cpus": 4}
    first = settings.model_copy(update=common)
    second = Settings(
        home=tmp_path / "second",
        tracking_uri=first.mlflow_uri,
        artifact_root=first.mlflow_artifacts,
        state_root=str(tmp_path / "second"),
        catalog_uri=first.iceberg["uri"],
        warehouse=first.iceberg["warehouse"],
        online_store=first.online_store_uri,
        access_store=first.access_uri,
        # Other ports than those of the first, and free ones: see the fixture `settings`.
        replica_ports_from=first.replica_ports_from + (1_100 if first.replica_ports_from < 29_000 else -1_100),
        **common,
        **{name: free_port() for name in PORTS},
    )
    yield first, second
    local_cluster.stop(second)
    local_cluster.stop(first)


@pytest.mark.slow
def test_model_moves_to_a_second_cluster_and_back_under_load(
    clusters: tuple[Settings, Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = clusters
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "digits.py").write_text((FACTORIES / "digits.py").read_text())
    rayloop(first, folder, "up")
    rayloop(first, folder, "run", "digits.py")
    memory = {"first with the model": memory_mib(first)}
    rayloop(second, folder, "up")
    memory["second without"] = memory_mib(second)
    with OpenLoad(first) as load:
        load.await_answers(200)
        # The log writer commits every two seconds.
        until(lambda: counted_requests(first), "the monitor has stored what it has counted")
        shutil.copytree(f"{first.state}/monitors", f"{second.state}/monitors")
        rayloop(second, folder, "deploy", "digits.py", "--version", "1")
        # The monitor there continues: it knows what the first one has counted.
        assert re.search(r"cost: .* for [1-9][\d,]* requests", rayloop(second, folder, "status"))
        memory["both with the model"] = memory_mib(first, second)
        moving = load.await_answers(20)
        evidence = [rayloop(first, folder, "move", "to", second.dashboard, "digits", "--share", "10")]
        load.await_answers(100)
        for share in ("50", "100"):
            evidence.append(rayloop(first, folder, "move", "to", second.dashboard, "digits", "--share", share))
            moved = load.await_answers(100)
        shown = rayloop(first, folder, "move", "show")
        back_at = load.await_answers(20)
        back = rayloop(first, folder, "move", "back", "digits")
        came_back = load.await_answers(60)
        rayloop(first, folder, "move", "to", second.dashboard, "digits", "--share", "100")
        finished = load.await_answers(20)
        rayloop(first, folder, "move", "finish", "digits")
        load.await_answers(200)
    memory["second with the model, first without"] = memory_mib(first, second)
    # While the second cluster starts and deploys, a lone replica of a busy machine may fail its check.
    failed = [answer for answer in load.answers if answer.status != 200]
    assert [answer for answer in failed if answer.sent > moving] == []
    assert all("100 of 100 answers are equal" in text for text in evidence), evidence
    assert "100% of the keys go to" in shown
    by_key: dict[str, list[Answer]] = {}
    for answer in sorted(load.answers, key=lambda each: each.sent):
        by_key.setdefault(answer.key, []).append(answer)
    for answers in by_key.values():
        answers = [answer for answer in answers if answer not in failed]
        assert all(answer.outputs == answers[0].outputs for answer in answers)
        sides = [answer.cluster == "second" for answer in answers if answer.sent < back_at]
        assert sides == sorted(sides)
    clusters_between = {a.cluster for a in load.answers if moved + 2.0 < a.sent < back_at}
    assert clusters_between == {"second"}
    assert {a.cluster for a in load.answers if came_back < a.sent < came_back + 1.0} == {""}
    assert {a.cluster for a in load.answers if a.sent > finished} == {"second"}
    (seconds,) = re.findall(r"back after ([\d.]+) s", back)
    with capsys.disabled():
        print("\n".join(["", *evidence, shown, back]))
        print(f"{len(load.answers)} requests, {len(failed)} failed before the move")
        for name, mib in memory.items():
            print(f"{name}: {mib:.0f} MiB")
        for side in ("first", "second", ""):
            latencies = [a.ms for a in load.answers if a.cluster == side and a.sent > moving]
            p50, p99 = np.percentile(latencies, (50, 99))
            print(f"{side or 'not moving':<12}{len(latencies)} requests, p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    # A second on an idle machine.
    assert float(seconds) < 3.0
