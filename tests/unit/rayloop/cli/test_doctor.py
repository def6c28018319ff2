"""The doctor: all checks at once, each within a limit; and what is wrong with a node."""

from __future__ import annotations

import threading

import pytest

from cluster.errors import DataError
from cluster.node.ports import free_port
from cluster.settings import Settings, load_settings
from rayloop.cli import doctor
from rayloop.cli.node_probe import NodeAnswer, door_problem, judge, without_replaced

ALIVE = {"NodeID": "n", "Alive": True, "NodeManagerAddress": "10.0.0.7"}
WELL = NodeAnswer(clock_s=3.0, doubt_s=0.1, free_disk=0.5)


def test_store_that_hangs_is_named_and_delays_no_other_check() -> None:
    release, lines = threading.Event(), []

    def hangs(settings: Settings) -> str:
        release.wait(60)
        return "late"

    def fails(settings: Settings) -> str:
        raise DataError("data.catalog_no_answer", uri="sqlite:///x")

    def well(settings: Settings) -> str:
        return "well"

    try:
        assert not doctor.run_checks(load_settings(), lines.append, (hangs, fails, well), limit_s=1.0)
    finally:
        release.set()
    codes = [line.rpartition("[")[2].rstrip("]") for line in lines if line.startswith("FAIL")]
    assert codes == ["rayloop.check_hangs", "data.catalog_no_answer"]
    assert lines[-1] == "ok    well: well"


def test_node_that_is_well_has_no_problem() -> None:
    assert judge(ALIVE, WELL).problems == ()


@pytest.mark.parametrize(
    ("node", "answer", "part"),
    [
        (ALIVE, None, "ran no task"),
        (ALIVE | {"Alive": False, "DeathReasonMessage": "health check failed"}, None, "health check failed"),
        (ALIVE, WELL._replace(clock_s=3600.0), "3,600 s ahead"),
        (ALIVE, WELL._replace(clock_s=-3600.0), "3,600 s behind"),
        (ALIVE, WELL._replace(free_disk=0.04), "96% full"),
        (ALIVE, WELL._replace(door="no door answers"), "no door answers"),
    ],
    ids=["hangs", "dead", "ahead", "behind", "full", "door"],
)
def test_node_with_a_problem_names_it(node: dict[str, object], answer: NodeAnswer | None, part: str) -> None:
    (problem,) = judge(node, answer).problems
    assert part in problem


def test_clock_is_not_judged_beyond_what_the_answer_can_tell() -> None:
    # The task waited for a worker process: its clock was read at some time within 40 s.
    assert judge(ALIVE, WELL._replace(clock_s=20.0, doubt_s=20.0)).problems == ()


def test_door_that_does_not_answer_is_a_problem_of_its_node() -> None:
    settings = load_settings().model_copy(update={"serve_port": free_port()})
    assert door_problem(settings) == ""
    assert door_problem(settings.model_copy(update={"door": True})).endswith("[rayloop.door_silent]")


def test_dead_node_is_no_problem_once_its_machine_is_back() -> None:
    lost = ALIVE | {"NodeID": "lost", "Alive": False, "NodeManagerAddress": "10.0.0.8"}
    before = ALIVE | {"NodeID": "before", "Alive": False}
    stopped = lost | {"NodeID": "stopped", "DeathReason": 1}
    assert without_replaced([before, ALIVE, lost, stopped]) == [ALIVE, lost]
