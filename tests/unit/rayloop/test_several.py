"""Several challengers at the prompt: what is ordered reaches the cluster, and the status tells of each."""

from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cluster.values import Decision
from deployments.analysis.evidence import Arm, Evidence, RolloutEvidence
from deployments.analysis.paired_moments import Paired
from deployments.analysis.verdict import Verdict
from deployments.rollout.controller import RolloutStatus
from deployments.rollout.state_machine import begin, command, drop, entry
from deployments.rollout_policy import RolloutPolicy
from rayloop.cli import app, rollout_commands
from rayloop.cli import status as status_command

STEP = "step 1 of 2 for 1.5 of 60.0 min; undecided by then: abort, too little seen: abort"


def status(*dropped: str, entrants: tuple[str, ...] = ("2", "3", "4")) -> RolloutStatus:
    state = begin("r1", "trips", "1", entrants, RolloutPolicy(steps=(0.1, 1.0)), 100.0)
    decisions: list[Decision] = [entry(state, "start", 100.0, {})]
    for version in dropped:
        state, decision = drop(state, version, f"v{version}: the challenger is worse", 101.0, {})
        decisions.append(decision)
    verdicts = {version: Verdict(kind="hold", reason=f"undecided on {version}", figures={}) for version in entrants}
    return RolloutStatus(state=state, settled=True, evidence={}, verdicts=verdicts, decisions=tuple(decisions))


def told(found: RolloutStatus) -> list[str]:
    lines: list[str] = []
    status_command._show_rollout(found, 190.0, lines.append)
    return [line.strip() for line in lines]


def test_the_status_tells_of_each_challenger_and_of_those_that_were_dropped() -> None:
    assert told(status("3")) == [
        "rollout r1: running at 3.33% each, v2, v4",
        STEP,
        "v2: hold: undecided on 2",
        "v4: hold: undecided on 4",
        "v3 was dropped: v3: the challenger is worse",
    ]


def test_a_lone_challenger_is_told_of_in_one_line() -> None:
    assert told(status(entrants=("2",))) == ["rollout r1: running at 10%: v2 on trial against v1", STEP]


def test_the_status_tells_what_is_known_of_a_trial_under_way() -> None:
    seen = Evidence(champion=Arm(requests=1900), challenger=Arm(requests=100, failures=3))
    labelled = seen + Evidence(paired=Paired.of(np.full(50, 0.5), np.full(50, 0.25)))
    for evidence, costs in (
        (seen, "no labelled rows yet"),
        (labelled, "50 labelled rows, mean cost 0.2500 against 0.5000"),
    ):
        found = status(entrants=("2",)).model_copy(update={"evidence": {"2": RolloutEvidence(whole=evidence)}})
        assert told(found)[2] == f"v2 100 requests (3 failed), v1 1,900 requests (0 failed); {costs}"


def test_a_rollout_that_has_ended_has_no_share() -> None:
    found = status(entrants=("2",))
    assert found.state is not None
    ended, _ = command(found.state, "abort", "enough", 102.0)
    assert told(found.model_copy(update={"state": ended})) == ["rollout r1: aborted: enough"]


def test_a_promotion_says_whose_it_was() -> None:
    found = status()
    assert found.state is not None
    ended, _ = command(found.state, "promote", "enough", 102.0, "3")
    assert told(found.model_copy(update={"state": ended})) == ["rollout r1: promoted v3: enough"]


@pytest.mark.parametrize(
    ("words", "order", "version", "rollout"),
    [
        (["promote", "trips", "--version", "3"], "promote", "3", ""),
        (["abort", "trips", "--version", "3"], "abort", "3", ""),
        (["abort", "trips"], "abort", "", ""),
        (["abort", "trips", "--rollout", "r1"], "abort", "", "r1"),
        (["pause", "trips", "--rollout", "r1"], "pause", "", "r1"),
        (["resume", "trips", "--rollout", "r1"], "resume", "", "r1"),
    ],
)
def test_orders_name_a_version_and_a_rollout(
    monkeypatch: pytest.MonkeyPatch, words: list[str], order: str, version: str, rollout: str
) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(rollout_commands, "send_command", lambda settings, *said: heard.append((*said[:3], *said[4:])))
    assert CliRunner().invoke(app.app, words).exit_code == 0
    assert heard == [("trips", order, "by hand", version, rollout)]


def test_a_deploy_takes_several_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(app, "_work", lambda *words, action: heard.append(words))
    for words in ([], ["--version", "3"], ["--version", "3", "--version", "4"]):
        assert CliRunner().invoke(app.app, ["deploy", "shop/project.py", *words]).exit_code == 0
    assert [words[2:] for words in heard] == [(), ("--version", "3"), ("--version", "3", "--version", "4")]
