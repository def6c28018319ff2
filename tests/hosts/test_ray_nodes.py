"""A Ray cluster of two hosts: with the token only, and without the host that dies."""

from __future__ import annotations

import pytest

from tests.factories.until import until
from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.hosts.ray_nodes import ENVIRONMENT, start_head, start_worker

pytestmark = pytest.mark.slow

COUNT = """
import ray
ray.init("auto", log_to_driver=False)
print(*sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]))
"""
WHERE = """
import ray
ray.init("auto", log_to_driver=False)
print(ray.get(ray.remote(num_cpus=1)(lambda: __import__("socket").gethostname()).remote()))
"""


def run(host: Host, program: str) -> str:
    return host.run("python", "-c", program, env=ENVIRONMENT).stdout.strip()


def test_task_runs_on_the_worker_until_its_host_dies_and_again_after_its_boot(network: Network) -> None:
    head, worker = network.add("head"), network.add("worker")
    token = start_head(head, cpus=0)
    start_worker(worker, head, token)
    assert run(head, COUNT) == f"{head.address} {worker.address}"
    assert run(head, WHERE) == "worker"
    status = head.run("ray", "status", env=ENVIRONMENT).stdout
    assert status.count("node_") == 2
    stranger = head.run("ray", "status", env=ENVIRONMENT | {"RAY_AUTH_TOKEN": "wrong"}, check=False, timeout_s=120)
    assert stranger.returncode
    worker.kill()
    until(lambda: run(head, COUNT) == head.address, "the head notices")
    worker.boot()
    start_worker(worker, head, token)
    assert run(head, COUNT) == f"{head.address} {worker.address}"
