"""Check each node of a cluster with a task that runs there: whether it answers, its clock, its disk, its door."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.door.probe import check_door
from cluster.errors import RayloopError
from cluster.settings import Settings, load_settings

_ON_PURPOSE = (1, 4)
"""Ray's NodeDeathInfo.Reason: EXPECTED_TERMINATION and AUTOSCALER_DRAIN_IDLE."""
_LIMIT_S = 20.0
"""Seconds in which a node must answer: a worker process may have to start there."""
_MAX_CLOCK_S = 5.0
_MIN_DISK = 0.05
"""Free share of the disk below which Ray stops storing objects."""


class NodeProbe(NamedTuple):
    """The state of a node."""

    address: str
    problems: tuple[str, ...]
    """Empty for a healthy node."""
    facts: str

    @property
    def summary(self) -> str:
        """The problems, or the facts."""
        return "; ".join(self.problems) or self.facts


class NodeAnswer(NamedTuple):
    """The answer of a node."""

    clock_s: float
    """Its clock minus that of this process, seconds; the true value is within ``doubt_s``."""
    doubt_s: float
    free_disk: float
    """Share of its disk."""
    door: str = ""
    """What is wrong with its door."""


def probe_nodes() -> list[NodeProbe]:
    """Ask every node of this process's cluster at once. Dead nodes are listed with the reason that Ray gives."""
    nodes = without_replaced(ray.nodes())
    answers = _ask([node["NodeID"] for node in nodes if node["Alive"]])
    return [judge(node, answers.get(node["NodeID"])) for node in nodes]


def without_replaced(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out dead nodes that are not lost.

    A machine that is back is a new node of the same address; a node that was stopped, or that the autoscaler removed
    because it was idle, left on purpose.
    """
    back = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}

    def replaced(node: dict[str, Any]) -> bool:
        return node["NodeManagerAddress"] in back or node.get("DeathReason") in _ON_PURPOSE

    return [node for node in nodes if node["Alive"] or not replaced(node)]


def judge(node: dict[str, Any], answer: NodeAnswer | None) -> NodeProbe:
    """Judge a node by Ray's record of it and its answer, None when it did not answer."""
    address = str(node["NodeManagerAddress"])
    if not node["Alive"]:
        reason = str(node.get("DeathReasonMessage") or "no reason is recorded")
        return NodeProbe(address, (f"it left the cluster: {reason}",), "")
    if answer is None:
        return NodeProbe(address, (f"it ran no task within {_LIMIT_S:.0f} s: hung or unreachable",), "")
    problems = []
    if abs(answer.clock_s) - answer.doubt_s > _MAX_CLOCK_S:
        problems.append(f"its clock is {abs(answer.clock_s):,.0f} s {'ahead' if answer.clock_s > 0 else 'behind'}")
    if answer.free_disk < _MIN_DISK:
        problems.append(f"its disk is {1 - answer.free_disk:.0%} full")
    if answer.door:
        problems.append(answer.door)
    return NodeProbe(address, tuple(problems), f"answers, {answer.free_disk:.0%} of its disk free")


def _ask(nodes: Sequence[str]) -> dict[str, NodeAnswer]:
    sent = time.time()
    ask = ray.remote(num_cpus=0, max_retries=0)(_look)
    references = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(): node
        for node in nodes
    }
    answers, waiting, deadline = {}, list(references), time.monotonic() + _LIMIT_S
    while waiting and (rest := deadline - time.monotonic()) > 0:
        ready, waiting = ray.wait(waiting, timeout=rest)
        for reference in ready:
            try:
                clock, free, door = ray.get(reference)
            except RayError:
                continue
            # The node read its clock at some moment between the question and the answer.
            doubt = (time.time() - sent) / 2
            answers[references[reference]] = NodeAnswer(clock - sent - doubt, doubt, free, door)
    for reference in waiting:
        ray.cancel(reference, force=True)
    return answers


def _look() -> tuple[float, float, str]:
    """The node's clock, the free share of the disk that holds Ray's files, and what is wrong with its door."""
    clock, usage = time.time(), shutil.disk_usage(tempfile.gettempdir())
    return clock, usage.free / usage.total, door_problem(load_settings())


def door_problem(settings: Settings) -> str:
    """Return what is wrong with this host's door; empty when it is healthy, or there should be none."""
    try:
        if settings.door:
            check_door(settings)
    except RayloopError as error:
        return f"{error} [{error.code}]"
    return ""
