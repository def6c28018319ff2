"""A Ray cluster of two hosts: with the token only, and without the host that dies."""

from __future__ import annotations

import time

import pytest

from tests.factories.until import until
from tests.hosts import clock
from tests.hosts.faults import STEP_S
from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.hosts.process import Process
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
ASK = """
import ray, time
ray.init("auto", log_to_driver=False)
@ray.remote(num_cpus=0)
class Clock:
    def now(self):
        return time.time()
actor = Clock.remote()
while True:
    print("offset", ray.get(actor.now.remote(), timeout=20) - time.monotonic(), flush=True)
    time.sleep(0.05)
"""
ANSWERS = 200
"""While a step lasts, hence 10 s."""


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


def offsets(driver: Process) -> list[float]:
    """What the actor has answered: its wall clock less the monotonic one."""
    return [float(line.split()[1]) for line in driver.output.splitlines() if line.startswith("offset ")]


def lasting_processes(host: Host) -> list[str]:
    """Ids of all but workers that wait for a task, which come and go."""
    return host.run("pgrep", "^(gcs_server|raylet|ray::Clock)").stdout.split()


@pytest.mark.skipif(not clock.available(), reason=f"{clock.COMPILER} is not installed")
def test_actor_answers_and_nothing_ends_while_the_clock_of_its_host_steps(network: Network) -> None:
    host = network.add("ray-clock", own_clock=True)
    start_head(host)
    driver = host.start("python", "-c", ASK, env=ENVIRONMENT)
    until(lambda: offsets(driver), "the actor answers")
    before = lasting_processes(host)
    assert len(before) == 3
    for step_s in (STEP_S, -STEP_S, 0):
        host.step_clock(step_s)
        expected = time.time() - time.monotonic() + step_s
        before_step = len(offsets(driver))
        assert run(host, WHERE) == host.name
        until(lambda: len(offsets(driver)) > before_step + ANSWERS, "the actor answers")  # noqa: B023
        # One answer may be from before the step.
        errors = [abs(offset - expected) for offset in offsets(driver)[before_step + 2 : before_step + ANSWERS]]
        assert max(errors) < 1
    assert driver.running
    assert lasting_processes(host) == before
